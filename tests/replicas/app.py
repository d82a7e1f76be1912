"""The application under test, as a replica runs it: a manager, and a door through which the harness looks and acts.

Started by `uvicorn --app-dir`, so it imports nothing of the harness. Options come from the environment: REPLICA, WAY,
OUTBOX_MESSAGES, OUTBOX_BYTES, OUTBOX_AGE_S; the broker's address from ANTIPHON_BROKER_URL, as in any application.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import enum
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from antiphon import Connection, WebSocketManager, install
from antiphon.outbox import OutboxLimits

logging.basicConfig(level=logging.INFO, format="%(created).3f %(levelname)s %(name)s: %(message)s")
logging.captureWarnings(True)
for name in ("uvicorn", "uvicorn.error"):  # one format for all
    logging.getLogger(name).handlers.clear()
    logging.getLogger(name).propagate = True

REPLICA = os.environ.get("REPLICA", "R")
BEGUN = time.monotonic()
PARENT = os.getppid()
WATCH_EVERY_S = 0.01
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

manager = WebSocketManager(
    channel="live",
    outbox_limits=OutboxLimits(
        messages=int(os.environ.get("OUTBOX_MESSAGES", "1000")),
        bytes=int(os.environ.get("OUTBOX_BYTES", str(4 * 1024 * 1024))),
        age_s=float(os.environ.get("OUTBOX_AGE_S", "60")),
    ),
)

transitions: list[tuple[float, str, int | None]] = []
longest_stall_s = 0.0
losses = 0
raises = 0


def plain(value: Any) -> Any:
    """What JSON can say of a snapshot."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


class Stream:
    """Publishes at a steady rate, whatever becomes of each publication: one task each, begun in order."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.name: str = options.get("publisher", REPLICA)
        self.rate_per_s: float = options["rate_per_s"]
        self.topics: list[str | None] = options.get("topics", [None])
        self.options: dict[str, Any] = {
            name: options[name] for name in ("outage", "expires_s", "ephemeral") if name in options
        }
        self.padding = "." * int(options.get("padding_bytes", 0))
        self.records: list[dict[str, Any]] = []
        self._sequences = dict.fromkeys(self.topics, 0)
        self._running = True
        self._calls: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Begin no more, and wait for all that have begun."""
        self._running = False
        await self._task
        while self._calls:
            await asyncio.gather(*self._calls)

    async def _run(self) -> None:
        begun = time.monotonic()
        number = 0
        while self._running:
            topic = self.topics[number % len(self.topics)]
            sequence = self._sequences[topic]
            self._sequences[topic] += 1
            call = asyncio.create_task(self._publish(topic, sequence))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            number += 1
            # A loop that was held up goes on at the rate, it does not catch up in a burst.
            begun = max(begun, time.monotonic() - (number + 1) / self.rate_per_s)
            await asyncio.sleep(begun + number / self.rate_per_s - time.monotonic())

    async def _publish(self, topic: str | None, sequence: int) -> None:
        message: dict[str, object] = {"pub": self.name, "topic": topic, "seq": sequence}
        if self.padding:
            message["padding"] = self.padding
        record: dict[str, Any] = {"topic": topic, "sequence": sequence, "begun": time.monotonic()}
        self.records.append(record)
        try:
            receipt = await manager.broadcast(message, topic=topic, **self.options)
            record["receipt"] = plain(receipt)
        except Exception as error:
            record["error"] = repr(error)
        record["ended"] = time.monotonic()


streams: dict[str, Stream] = {}


def note_state() -> None:
    """Write down the state, when it has changed, and how many replicas the broker knew then."""
    global losses
    now, state, link = time.monotonic(), str(plain(manager.state)), manager.stats().link
    replicas, lost = (None, 0) if link is None else (link.replicas, sum(link.losses.values()))
    if lost > losses and transitions and transitions[-1][1] == state == "up":
        transitions.append((now, "degraded", None))  # it was away and is back since the last look
    losses = lost
    if not transitions or transitions[-1][1] != state:
        transitions.append((now, state, replicas))


class Noter(logging.Handler):
    """The library writes one line for each change of state, in the moment of the change."""

    def emit(self, record: logging.LogRecord) -> None:
        note_state()


async def watch() -> None:
    """See changes of state that no line tells, measure how long the loop stands still, and leave with the harness."""
    global longest_stall_s
    while True:
        note_state()
        if os.getppid() != PARENT:
            os._exit(1)
        begun = time.monotonic()
        await asyncio.sleep(WATCH_EVERY_S)
        longest_stall_s = max(longest_stall_s, time.monotonic() - begun - WATCH_EVERY_S)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    watcher = asyncio.create_task(watch())
    logging.getLogger("antiphon").addHandler(Noter())
    started = time.monotonic()
    await manager.start()
    app.state.start_took_s = time.monotonic() - started
    yield
    for stream in list(streams.values()):
        await stream.stop()
    await manager.close()
    watcher.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watcher


async def ws(websocket: WebSocket) -> None:
    async def on_message(connection: Connection, message: object) -> None:
        """The user's code: `{"raise": true}` makes it fail, anything else is answered to its sender."""
        global raises
        if isinstance(message, dict) and message.get("raise"):
            raises += 1
            raise ValueError("the application's own mistake")
        await manager.send_personal_message({"echo": message}, connection)

    topics = [topic for topic in websocket.query_params.get("topics", "").split(",") if topic]
    await manager.serve(websocket, websocket.query_params.get("user_id"), topics=topics, on_message=on_message)


async def publish(request: Request) -> JSONResponse:
    body = await request.json()
    message = body.pop("message")
    users = body.pop("users", None)
    begun = time.monotonic()
    try:
        receipt = await manager.broadcast(message, users, **body)
    except Exception as error:
        return JSONResponse({"error": type(error).__name__, "text": str(error), "took_s": time.monotonic() - begun})
    return JSONResponse({"receipt": plain(receipt), "begun": begun, "took_s": time.monotonic() - begun})


async def disconnect(request: Request) -> JSONResponse:
    body = await request.json()
    begun = time.monotonic()
    done = await manager.disconnect_user(body["user_id"], except_=body.get("except_", ()))
    return JSONResponse({**plain(done), "begun": begun, "took_s": time.monotonic() - begun})


async def stream_start(request: Request) -> JSONResponse:
    options = await request.json()
    name = options.get("publisher", REPLICA)
    streams[name] = Stream(options)
    return JSONResponse({"publisher": name})


async def stream_stop(request: Request) -> JSONResponse:
    stopped = {name: streams.pop(name) for name in list(streams)}
    for stream in stopped.values():
        await stream.stop()
    return JSONResponse({name: stream.records for name, stream in stopped.items()})


async def state(request: Request) -> JSONResponse:
    global longest_stall_s
    stall_s, longest_stall_s = longest_stall_s, 0.0
    with open("/proc/self/statm") as file:
        rss_bytes = int(file.read().split()[1]) * PAGE_BYTES
    return JSONResponse(
        {
            "state": plain(manager.state),
            "stats": plain(manager.stats()),
            "connections": manager.get_connection_count(),
            "users": manager.get_user_count(),
            "tasks": len(asyncio.all_tasks()),
            "fds": len(os.listdir("/proc/self/fd")),
            "rss_bytes": rss_bytes,
            "cpu_s": time.process_time(),
            "raises": raises,
            "stall_s": stall_s,
            "start_took_s": request.app.state.start_took_s,
            "begun": BEGUN,
        }
    )


async def counts(request: Request) -> JSONResponse:
    found = await manager.cluster_counts()
    user_id = request.query_params.get("user_id")
    anywhere = None if user_id is None else await manager.is_user_connected_anywhere(user_id)
    return JSONResponse({**plain(found), "anywhere": anywhere})


async def changes(request: Request) -> JSONResponse:
    return JSONResponse(transitions)


app = Starlette(
    routes=[
        WebSocketRoute("/ws", ws),
        Route("/publish", publish, methods=["POST"]),
        Route("/disconnect", disconnect, methods=["POST"]),
        Route("/stream/start", stream_start, methods=["POST"]),
        Route("/stream/stop", stream_stop, methods=["POST"]),
        Route("/state", state),
        Route("/counts", counts),
        Route("/changes", changes),
    ],
    lifespan=lifespan,
)
if os.environ.get("WAY") == "install":
    install(app)

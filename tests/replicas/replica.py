"""One replica: a real uvicorn process with the application under test, and the way to look into it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port
from antiphon.serving import PROTOCOL
from tests.replicas.recorder import Key, Send

__all__ = ["WAYS", "Change", "Replica", "eventually", "request"]

Json = dict[str, Any]
Value = TypeVar("Value")
START_TIMEOUT_S = 30.0
WAYS = {"asgi": "websockets-sansio", "install": "websockets-sansio", "protocol": PROTOCOL}
"""Ways to the sockets, and what `uvicorn --ws` is told for each; the application installs the second one itself."""
NOT_OURS = ("ANTIPHON_", "REDIS_URL", "USE_REDIS_WEBSOCKET")
"""What begins like this would change the replicas."""
UNHANDLED = ("Traceback (most recent call last)", "never retrieved", "RuntimeWarning")
LOG_LINE = re.compile(r"^(\d+\.\d+) ([A-Z]+) (\S+): (.*)$")


class Change(NamedTuple):
    """A state was entered, when the broker knew so many replicas."""

    at: float
    state: str
    replicas: int | None


async def eventually(
    look: Callable[[], Awaitable[Value]],
    holds: Callable[[Value], object],
    *,
    timeout_s: float = 30.0,
    every_s: float = 0.02,
    what: str = "",
) -> Value:
    """Look again and again until `holds` is true of what was seen, and return that."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = await look()
        if holds(value):
            return value
        if time.monotonic() >= deadline:
            raise AssertionError(f"{what or 'the condition'} did not hold within {timeout_s:g} s; last seen: {value}")
        await asyncio.sleep(every_s)


async def request(port: int, method: str, path: str, body: object = None, *, timeout_s: float = 30.0) -> Any:
    """One HTTP request on a connection of its own; returns the JSON of the answer."""
    content = b"" if body is None else json.dumps(body).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    async with asyncio.timeout(timeout_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
        try:
            writer.write(head.encode() + content)
            answer = await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
    status, _, rest = answer.partition(b"\r\n")
    if b" 200 " not in status:
        raise AssertionError(f"{method} {path}: {status.decode('latin-1')}: {rest[-500:].decode(errors='replace')}")
    return json.loads(rest.partition(b"\r\n\r\n")[2])


class Replica:
    """A process on a port of its own. `url` is the broker's address as this replica is told it; None for none.

    WAY of the environment is its way to the sockets.
    """

    application = "app:app"
    """In the folder of this file."""

    def __init__(self, name: str, url: str | None, *, environment: Mapping[str, str] | None = None) -> None:
        self.name = name
        self.url = url
        self.port = 0
        self.baseline: Json = {}
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._directory = tempfile.mkdtemp(prefix=f"antiphon-replica-{name}-")
        Guard.shared().keep_clean(self._directory)
        self._log_path = Path(self._directory, "log")
        self._log_path.touch()

    # its life

    def server_options(self, environment: Mapping[str, str]) -> list[str]:
        """What this replica's server is told besides, with the environment that it gets."""
        return ["--ws", WAYS[environment.get("WAY", "asgi")]]

    def launch(self) -> None:
        """Start the process; `wait_ready` says when it serves."""
        self.port = free_port()
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in NOT_OURS and not name.startswith("ANTIPHON_")
        }
        environment |= {"REPLICA": self.name, "PYTHONUNBUFFERED": "1", **self._environment}
        if self.url is not None:
            environment["ANTIPHON_BROKER_URL"] = self.url
        command = [sys.executable, "-m", "uvicorn", self.application, "--app-dir", str(Path(__file__).parent)]
        command += ["--port", str(self.port), "--no-access-log", "--log-level", "warning", "--lifespan", "on"]
        command += self.server_options(environment)
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        Guard.shared().watch(self._process.pid)

    def wait_ready(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while self.glance() is None:
            assert self._process is not None
            if self._process.poll() is not None:
                if "address already in use" not in self.log:
                    raise AssertionError(f"{self.name} ended with {self._process.returncode}:\n{self.log[-4000:]}")
                self._log_path.write_text("")  # somebody was quicker to take the port: another one, then
                self._forget()
                self.launch()
            if time.monotonic() >= deadline:
                raise AssertionError(f"{self.name} did not answer within {START_TIMEOUT_S:g} s:\n{self.log[-4000:]}")
            time.sleep(0.02)

    def glance(self) -> str | None:
        """Its state at this moment, for callers that have no event loop; None when it does not answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5.0)
        try:
            connection.request("GET", "/state")
            return str(json.loads(connection.getresponse().read())["state"])
        except (OSError, http.client.HTTPException, ValueError):
            return None
        finally:
            connection.close()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._forget()

    def stop(self) -> int:
        """SIGTERM, after 20 s SIGKILL; returns the exit code."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20.0)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._forget()
        return self._process.returncode

    def remove(self) -> None:
        """End the process if it is there, and remove its log."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)
        Guard.shared().forget_directory(self._directory)

    def _forget(self) -> None:
        if self._process is not None:
            Guard.shared().forget(self._process.pid)

    # its log

    @property
    def log(self) -> str:
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    def log_since(self, at: float) -> list[tuple[float, str, str]]:
        """Lines (time, level, text) since `at`, a time of `time.time()`; what follows a line belongs to it."""
        lines: list[tuple[float, str, str]] = []
        for line in self.log.splitlines():
            match = LOG_LINE.match(line)
            if match:
                lines.append((float(match[1]), match[2], f"{match[3]}: {match[4]}"))
            elif lines:
                lines[-1] = (*lines[-1][:2], lines[-1][2] + "\n" + line)
            else:
                lines.append((0.0, "RAW", line))
        return [line for line in lines if line[0] >= at]

    def noise(self, *, since: float = 0.0) -> list[str]:
        """What should not be in a log: tracebacks, errors of nobody, and lines that come again and again."""
        found = []
        seconds: Counter[tuple[int, str]] = Counter()
        for at, _, text in self.log_since(since):
            own_mistake = "the application's own mistake" in text
            if not own_mistake and any(sign in text for sign in UNHANDLED):
                found.append(text)
            seconds[int(at // 5), re.sub(r"[\d.]+", "#", text)] += 1
        found += [f"{count} times in 5 s: {text}" for (_, text), count in seconds.items() if count > 15]
        return found

    # looking into it, and acting through it

    async def get(self, path: str) -> Any:
        return await request(self.port, "GET", path)

    async def post(self, path: str, body: object) -> Any:
        return await request(self.port, "POST", path, body)

    async def state(self) -> Json:
        """The state, the counters, tasks, descriptors and memory at this moment."""
        found: Json = await self.get("/state")
        return found

    async def until(self, state: str, *, timeout_s: float = 30.0) -> Json:
        """Wait for a state such as "up"."""
        what = f"{self.name} being {state}"
        return await eventually(self.state, lambda found: found["state"] == state, timeout_s=timeout_s, what=what)

    async def changes(self, *, since: float) -> list[Change]:
        """When which state was entered, after `since`."""
        return [Change(*change) for change in await self.get("/changes") if change[0] >= since]

    async def publish(self, message: object, **options: object) -> Json:
        """One `broadcast()` in the replica; returns its receipt, or its error."""
        found: Json = await self.post("/publish", {"message": message, **options})
        return found

    async def stream(self, *, rate_per_s: float, **options: object) -> None:
        """Begin to publish at a steady rate inside the replica."""
        await self.post("/stream/start", {"rate_per_s": rate_per_s, **options})

    async def stop_streams(self) -> list[Send]:
        """End all streams of this replica; returns what they did."""
        found: dict[str, list[Json]] = await self.post("/stream/stop", {})
        return [_send(name, record) for name, records in found.items() for record in records]


def _send(publisher: str, record: Json) -> Send:
    receipt: Json = record.get("receipt") or {}
    return Send(
        Key(publisher, record["topic"], record["sequence"]),
        record["begun"],
        record["ended"],
        id=receipt.get("id"),
        scope=receipt.get("scope"),
        queued=bool(receipt.get("queued")),
        reason=receipt.get("reason"),
        error=record.get("error"),
    )

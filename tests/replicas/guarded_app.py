"""An application with sessions, limits and slow clients, as a replica runs it; the truth is in a database.

Started by `uvicorn --app-dir`, so it imports nothing of the harness. All options come from the environment: see
`guarded.py`, which sets them. Without SESSIONS everybody is a guest.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import time
from dataclasses import asdict

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import antiphon
from antiphon import Connection, Identity, Limits, QuotaTimings, WebSocketManager
from antiphon.auth import CookieSession, FirstMessage
from antiphon.security import Security
from antiphon.settings import Timings
from antiphon.transports.base import SendLimits

logging.basicConfig(level=logging.INFO, format="%(created).3f %(levelname)s %(name)s: %(message)s")
logging.captureWarnings(True)
for name in ("uvicorn", "uvicorn.error"):  # one format for all
    logging.getLogger(name).handlers.clear()
    logging.getLogger(name).propagate = True

SESSIONS = os.environ.get("SESSIONS")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
PARENT = os.getppid()
ended = 0
"""Calls of `on_close`."""


def number(name: str, default: float) -> float:
    return float(os.environ.get(name, default))


async def find_session(cookie: str) -> Identity | None:
    """What a lookup in the application's database is."""
    with sqlite3.connect(f"file:{SESSIONS}?mode=ro", uri=True, timeout=10.0) as database:
        row = database.execute("SELECT user, id, roles FROM sessions WHERE cookie = ?", (cookie,)).fetchone()
    database.close()
    return None if row is None else Identity(user_id=row[0], session_id=row[1], roles=frozenset(row[2].split()))


def may_hear(identity: Identity | None, topic: str) -> bool:
    return topic != "staff" or (identity is not None and "team" in identity.roles)


authenticators = [CookieSession("session", find_session)] if SESSIONS else []
first_message_s = number("FIRST_MESSAGE_S", 0)
security = Security(
    authenticators=[
        *authenticators,
        *([FirstMessage(find_session, timeout_s=first_message_s)] if first_message_s else []),
    ],
    authorize=may_hear,
    trusted_proxies=["127.0.0.1"] if "PER_ADDRESS" in os.environ else [],
    connections_per_address=int(number("PER_ADDRESS", 256)),
    recheck_s=number("RECHECK_S", 60),
)
manager = WebSocketManager(
    channel="live",
    security=security,
    limits=Limits(connections_per_user=int(number("PER_USER", 64)), subscribes_burst=10_000),
    send_limits=SendLimits(
        queued_bytes=int(number("QUEUED_BYTES", 1024 * 1024)),
        queued_age_s=number("QUEUED_AGE_S", 10),
        close_s=number("CLOSE_S", 1),
    ),
    timings=Timings(linger_s=number("LINGER_S", 5)),
    quota_timings=QuotaTimings(beat_every_s=0.4, dead_after_s=number("DEAD_AFTER_S", 2), second_try_s=2.5),
)


async def watch() -> None:
    """Leave with the harness."""
    while os.getppid() == PARENT:
        await asyncio.sleep(0.2)
    os._exit(1)


watchers: set[asyncio.Task[None]] = set()


async def on_message(connection: Connection, message: object) -> None:
    """The user's code: `{"block": 5}` blocks the event loop for so long; everything is answered."""
    if isinstance(message, dict) and "block" in message:
        time.sleep(float(message["block"]))  # on purpose
    await manager.send_personal_message({"answer": message}, connection)


def on_close(connection: Connection) -> None:
    global ended
    ended += 1


async def ws(websocket: WebSocket) -> None:
    topics = [topic for topic in websocket.query_params.get("topics", "").split(",") if topic]
    await manager.serve(websocket, topics=topics, on_message=on_message, on_close=on_close)


async def end(request: Request) -> JSONResponse:
    """Somebody logged out, was banned, or changed his password: the database knows it already."""
    body = await request.json()
    disconnect = manager.disconnect_session if "session" in body else manager.disconnect_user
    done = await disconnect(body.get("session") or body["user"], except_=body.get("except", ()))
    return JSONResponse({**asdict(done), "returned": time.monotonic()})


async def recheck(request: Request) -> JSONResponse:
    manager.recheck()
    return JSONResponse({})


async def state(request: Request) -> JSONResponse:
    with open("/proc/self/statm") as file:
        rss_bytes = int(file.read().split()[1]) * PAGE_BYTES
    stats, vitals = manager.stats(), manager.vitals()
    return JSONResponse(
        {
            "state": stats.state,
            "connections": stats.connections,
            "users": stats.users,
            "topics": stats.topics,
            "lost": stats.lost,
            "connects": stats.connects,
            "disconnects": stats.disconnects,
            "replicas": stats.link.replicas if stats.link is not None else None,
            "routes": stats.link.routes if stats.link is not None else 0,
            "refused": dict(vitals.refused_connections),
            "revoked": dict(vitals.ended_connections),
            "queued_bytes": vitals.queued_bytes,
            "worst_lag_s": vitals.loop_lag.worst_s if vitals.loop_lag is not None else 0.0,
            "ended": ended,
            "tasks": len(asyncio.all_tasks()),
            "fds": len(os.listdir("/proc/self/fd")),
            "rss_bytes": rss_bytes,
        }
    )


async def start() -> None:
    watchers.add(asyncio.create_task(watch()))
    await manager.start()


class Lifespan:
    """Starts the manager with the server, and closes it in the end."""

    def __init__(self, app: Starlette) -> None:
        pass

    async def __aenter__(self) -> None:
        await start()

    async def __aexit__(self, *exc: object) -> None:
        await manager.close()
        for watcher in watchers:
            watcher.cancel()


app = Starlette(
    routes=[
        WebSocketRoute("/ws", ws),
        Route("/end", end, methods=["POST"]),
        Route("/recheck", recheck, methods=["POST"]),
        Route("/state", state),
    ],
    lifespan=Lifespan,
)
if os.environ.get("WAY") == "install":
    antiphon.install(app)

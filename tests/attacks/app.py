"""The application under attack, as a developer would write it. Started by uvicorn; WAY=install installs the quick way.

Cookie sessions, bearer tokens and tickets at `/ws`; the same with a list of other websites at `/listed`; a slow session
table at `/slow`; credentials in the first message at `/first` (within a second) and `/first-default`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import deque

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import antiphon
from antiphon import (
    BearerToken,
    ClientPublishing,
    Connection,
    CookieSession,
    FirstMessage,
    Identity,
    Security,
    Tickets,
    WebSocketManager,
)
from antiphon.settings import Timings
from tests.attacks import credentials

LOOKUP_S = 0.1
"""How long the slow session table takes for a session that is in it."""
REFUSAL_S = 0.4
ALLOWED = "https://good.example"
TIMINGS = Timings(linger_s=1.0)
"""Topics that nobody hears any more are given back soon."""

logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s: %(message)s")
logging.getLogger("asyncio").setLevel(logging.INFO)
logging.captureWarnings(True)
asked: deque[str] = deque(maxlen=1000)
heard: deque[object] = deque(maxlen=1000)


def find_session(value: str) -> Identity | None:
    found = credentials.reads(value)
    if found is None or found[2] <= time.time():
        return None
    user, session, ends = found
    roles = frozenset({"moderator"} if user == "mo" else ())
    return Identity(user_id=user, session_id=session, roles=roles, expires_at_s=ends)


async def find_session_slowly(value: str) -> Identity | None:
    if credentials.reads(value) is not None:
        await asyncio.sleep(LOOKUP_S)  # only a signature that is right is worth a question to the database
    return find_session(value)


def verify(token: str) -> Identity | None:
    return Identity(user_id="report") if token == credentials.BEARER else None


def may_hear(identity: Identity | None, topic: str) -> bool:
    asked.append(topic)
    if identity is None:
        return False
    kind, _, name = topic.partition(":")
    if kind == "user":
        return name == identity.user_id
    return kind in {"public", "news", "chat"} or (kind == "mod" and "moderator" in identity.roles)


def may_publish(connection: Connection, topic: str) -> bool:
    return topic.startswith("chat:")


publishing = ClientPublishing(may_publish=may_publish, fields={"type", "text"})
tickets = Tickets()
sessions = CookieSession("session", find_session)
site = WebSocketManager(
    channel="site",
    timings=TIMINGS,
    security=Security(authenticators=[sessions, BearerToken(verify), tickets], authorize=may_hear),
    client_publishing=publishing,
)
listed = WebSocketManager(
    channel="listed",
    timings=TIMINGS,
    security=Security(authenticators=[sessions], authorize=may_hear, allowed_origins=[ALLOWED]),
)
slow = WebSocketManager(
    channel="slow",
    timings=TIMINGS,
    security=Security(
        authenticators=[CookieSession("session", find_session_slowly)], authorize=may_hear, refusal_s=REFUSAL_S
    ),
)
first = WebSocketManager(
    channel="first",
    timings=TIMINGS,
    security=Security(authenticators=[FirstMessage(verify, timeout_s=1.0)], authorize=may_hear),
)
first_default = WebSocketManager(
    channel="first-default",
    timings=TIMINGS,
    security=Security(authenticators=[FirstMessage(verify)], authorize=may_hear),
)
managers = {manager.channel: manager for manager in (site, listed, slow, first, first_default)}


async def echo(connection: Connection, message: object) -> None:
    heard.append(message)
    await managers["site"].send_personal_message({"echo": message}, connection)


async def ws(websocket: WebSocket) -> None:
    manager = managers[websocket.path_params["channel"]]
    query = websocket.query_params
    await manager.serve(websocket, query.get("user_id"), topics=query.getlist("topic"), on_message=echo)


async def ticket(request: Request) -> JSONResponse:
    identity = await Security(authenticators=[sessions])(request)
    assert identity is not None
    return JSONResponse({"ticket": await tickets.issue(identity, origin=request.headers.get("origin"))})


async def publish(request: Request) -> JSONResponse:
    try:
        content = await request.json()
    except ClientDisconnect:
        return JSONResponse({})  # nobody is there to read it
    receipt = await managers[content["channel"]].broadcast(content["message"], topic=content.get("topic"))
    return JSONResponse({"scope": receipt.scope})


async def look(request: Request) -> JSONResponse:
    """For the test: what the rule was asked, what the handler was given, who is here."""
    return JSONResponse(
        {
            "asked": list(asked),
            "heard": list(heard),
            "connections": {name: manager.get_connection_count() for name, manager in managers.items()},
            "tasks": len(asyncio.all_tasks()),
        }
    )


async def broken(websocket: WebSocket) -> None:
    """The application's own mistake, with everything that it was given in the text."""
    raise LookupError(f"nothing for {websocket.url} {dict(websocket.headers)} {websocket.cookies}")


async def everything(request: Request) -> PlainTextResponse:
    """For the test: what a developer prints to find out what is wrong."""
    found = [*managers.values(), tickets, sessions, publishing]
    found += [find_session(value) for value in request.cookies.values()]
    found += [manager.stats() for manager in managers.values()] + [manager.health() for manager in managers.values()]
    found += [manager._options for manager in managers.values()] + [
        manager._attachment for manager in managers.values()
    ]
    return PlainTextResponse("\n".join(f"{thing!r}\n{thing!s}" for thing in found))


app = Starlette(
    routes=[
        WebSocketRoute("/broken", broken),
        WebSocketRoute("/{channel}", ws),
        Route("/ticket", ticket, methods=["POST"]),
        Route("/publish", publish, methods=["POST"]),
        Route("/look", look),
        Route("/everything", everything),
        Route("/metrics", antiphon.metrics_endpoint),
        Route("/readyz", antiphon.health_endpoint),
        Route("/livez", antiphon.liveness_endpoint),
        Route("/drain", antiphon.drain_endpoint, methods=["POST"]),
    ],
    lifespan=antiphon.lifespan,
)
if os.environ.get("WAY") == "install":
    antiphon.install(app)

"""A number for each request, in its answer and in every line of the log that it causes."""

from __future__ import annotations

import re
import uuid
from contextvars import ContextVar

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encore.web.answers import refusal

__all__ = ["RequestIds", "request_id", "set_user"]

HEADER = "X-Request-ID"
WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)

_current: ContextVar[str] = ContextVar("request_id", default="")


def request_id() -> str:
    """The id of the request, or handshake, that is being answered; empty outside of one."""
    return _current.get()


def set_user(user_id: int) -> None:
    """From here on the lines of the log say who asks."""
    structlog.contextvars.bind_contextvars(user_id=user_id)


class RequestIds:
    """Takes the id from `X-Request-ID` when it is well formed (8 to 64 of A-Z a-z 0-9 . _ -), else makes one.

    It also answers for what nobody caught: 500 with an `ErrorAnswer` that names the id,
    and nothing of the error itself. The error goes on to the server, which logs it.
    """

    def __init__(self, app: ASGIApp, *, answers_crashes: bool = True) -> None:
        self.app = app
        self._answers_crashes = answers_crashes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        name = given if WELL_FORMED.fullmatch(given) else uuid.uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=name)
        token = _current.set(name)
        try:
            if scope["type"] == "http":
                await self._answer(scope, receive, send, name)
            else:
                await self.app(scope, receive, send)
        finally:
            _current.reset(token)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        has_started = False

        async def send_named(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)[HEADER] = name
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except Exception:
            if self._answers_crashes and not has_started:
                detail = f"this is our fault, and it is in our log as {name}"
                await refusal(500, code="internal_error", detail=detail)(scope, receive, send_named)
            raise

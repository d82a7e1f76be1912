"""Answers that are given before a route is asked."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse
from starlette.types import Message, Send

from encore.errors import ErrorAnswer

__all__ = ["closing", "refusal"]


def refusal(status: int, *, code: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """An `ErrorAnswer`, as the routes give."""
    body = ErrorAnswer(code=code, detail=detail).model_dump()
    return JSONResponse(body, status_code=status, headers=None if headers is None else dict(headers))


def closing(send: Send) -> Send:
    """For an answer that is given before the body was read: the connection ends with it."""

    async def send_last(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return send_last

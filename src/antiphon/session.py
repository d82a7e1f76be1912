"""One client's conversation where the library reads the socket: `WebSocketManager.serve`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

from starlette.websockets import WebSocket, WebSocketState

from antiphon.connection import Connection
from antiphon.errors import EnvelopeError
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.wire import codec
from antiphon.wire.frames import Frame

__all__ = ["OnMessage", "Session"]

OnMessage = Callable[[Connection, object], Awaitable[object]]
"""Called with the connection and the decoded JSON message, one at a time and in order for each connection."""

WAITING = 16
"""Messages of one client that may wait for its handler before its socket is not read any more."""


class Session:
    """Reads one socket until its client goes, in the endpoint's coroutine or, where the server allows it, without
    one.
    """

    __slots__ = ("_connection", "_hub", "_journal", "_on_end", "_on_message", "_task", "_waiting")

    def __init__(
        self,
        connection: Connection,
        *,
        hub: Hub,
        on_message: OnMessage | None,
        on_end: Callable[[Connection], object],
        journal: Journal,
    ) -> None:
        self._connection = connection
        self._hub = hub
        self._on_message = on_message
        self._on_end: Callable[[Connection], object] | None = on_end
        self._journal = journal
        self._waiting: list[Mapping[str, object]] | None = None
        self._task: asyncio.Task[None] | None = None

    async def run(self, websocket: WebSocket) -> None:
        """Return when the client, or this replica, has closed the connection."""
        try:
            while websocket.client_state is not WebSocketState.DISCONNECTED:
                event = await websocket.receive()
                if event["type"] == "websocket.disconnect":
                    return
                await self._take(event)
        finally:
            self._end()

    def _end(self) -> None:
        """Say once that it is over; a server may say it twice, at the close frame and when the socket closes."""
        on_end, self._on_end = self._on_end, None
        if on_end is not None:
            on_end(self._connection)

    def receive(self, event: Mapping[str, object]) -> None:
        """Take one event of an adopted socket; the handler runs in a task that lives while messages wait."""
        if event["type"] == "websocket.disconnect":
            self._end()
            return
        if self._on_message is None:
            return
        if self._waiting is None:
            self._waiting = [event]
            self._task = asyncio.get_running_loop().create_task(self._work(), name="antiphon-on-message")
            return
        self._waiting.append(event)
        if len(self._waiting) >= WAITING:
            self._connection._transport.pause_reading()

    async def _work(self) -> None:
        assert self._waiting is not None
        try:
            while self._waiting:
                await self._take(self._waiting[0])
                self._waiting.pop(0)
                if len(self._waiting) == WAITING // 2:
                    self._connection._transport.resume_reading()
        finally:
            self._waiting = self._task = None

    async def _take(self, event: Mapping[str, object]) -> None:
        if self._on_message is None:
            return
        text, binary = event.get("text"), event.get("bytes")
        try:
            content = text.encode() if isinstance(text, str) else binary
            message = codec.decode(content if isinstance(content, bytes) else b"")
        except (EnvelopeError, UnicodeEncodeError):
            refusal = {"type": "error", "code": "bad_request", "message": "a message must be JSON text"}
            self._hub.send(self._connection, Frame.json(codec.encode(refusal)))
            return
        try:
            await self._on_message(self._connection, message)
        except Exception as error:
            self._hub.counters.handler_errors += 1
            self._journal.warning(
                "handler", "on_message of channel %r raised; the connection goes on", self._hub.channel, error=error
            )

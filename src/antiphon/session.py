"""One client's conversation where the library reads the socket: `WebSocketManager.serve`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

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


class Session:
    """Reads one socket until its client goes."""

    def __init__(
        self, websocket: WebSocket, connection: Connection, *, hub: Hub, on_message: OnMessage | None, journal: Journal
    ) -> None:
        self._websocket = websocket
        self._connection = connection
        self._hub = hub
        self._on_message = on_message
        self._journal = journal

    async def run(self) -> None:
        """Return when the client, or this replica, has closed the connection."""
        while self._websocket.client_state is not WebSocketState.DISCONNECTED:
            event = await self._websocket.receive()
            if event["type"] == "websocket.disconnect":
                return
            await self._take(event.get("text"), event.get("bytes"))

    async def _take(self, text: str | None, binary: bytes | None) -> None:
        if self._on_message is None:
            return
        try:
            message = codec.decode(text.encode() if text is not None else binary or b"")
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

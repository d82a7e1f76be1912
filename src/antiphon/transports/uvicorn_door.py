"""The quick way to the sockets of uvicorn: what its WebSocket protocol object has to tell a door.

uvicorn's own sans-I/O protocol takes the handshake, the incoming frames and the keep-alive; the library writes.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from antiphon.transports.base import Receiver
from antiphon.transports.door import EXTENSION, Door
from antiphon.transports.uvicorn_reading import END_S, ReadingProtocol

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame as IncomingFrame

__all__ = ["DoorProtocol", "open_door"]

_REASON_BYTES = 123

_DEAF_S = 1.0


class DoorProtocol(ReadingProtocol):
    """uvicorn's own WebSocket protocol, which tells a door what happens to the socket."""

    def pause_writing(self) -> None:
        """The event loop keeps bytes that the socket did not take."""
        super().pause_writing()
        self.door.writing_paused()

    def resume_writing(self) -> None:
        """They are gone: what waits in the library goes first, then the application's own."""
        if self.pong_bytes:
            self.pong_bytes = 0
        self.door.writing_resumed()
        if not self.door.paused:
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed after this."""
        self._take_the_rest()
        self.door.lost()
        super().connection_lost(exc)
        self._forget_unfinished()

    def _forget_unfinished(self) -> None:
        """Give back the memory of what never became a message: it would stay until the collector finds it."""
        parser = self.conn
        self.frames = []
        parser.parser_exc = None
        parser.reader.buffer.clear()
        parser.parser.close()

    def eof_received(self) -> None:
        """The client will say nothing more; the event loop closes the connection."""
        self.door.ending()

    def shutdown(self) -> None:
        """The server stops: close the socket, or abort it if the client does not read."""
        self.door.ending()
        super().shutdown()
        self.door.abort_after(END_S)

    def handle_close(self, event: IncomingFrame) -> None:
        """The client sent a close frame."""
        self.door.ending()
        super().handle_close(event)
        self.door.abort_after(END_S)

    def handle_parser_exception(self) -> None:
        """The client broke the protocol."""
        if self.conn.close_sent is None:  # before the handshake was answered
            self.conn.parser_exc = None
            self.transport.close()
            return
        self.door.ending()
        super().handle_parser_exception()
        self.conn.parser_exc = None  # refers to the stack, and to what lies there
        self.door.abort_after(END_S)

    def keepalive_timeout(self) -> None:
        """The client did not answer a ping."""
        self.door.ending()
        super().keepalive_timeout()
        self.door.abort_after(_DEAF_S)  # who answers no ping will hardly take what is unsent, or a close frame

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """ASGI's `send`. What the library was given for this socket alone, or before a close frame, leaves first."""
        if message["type"] == "websocket.send":
            self.door.others_write()
            return super().send(message)
        return self._send_with_door(message)

    async def _send_with_door(self, message: ASGISendEvent) -> None:
        door = self.door
        if door.is_open and message["type"] == "websocket.close":
            await self.writable.wait()
            door.ending()
        await super().send(message)
        if self.rest and self.close_sent and self.turn is None:
            self.data_received(b"")  # the client's close frame may be there already
        if message["type"] == "websocket.accept" and self.handshake_complete and not self.transport.is_closing():
            door.open()

    def say_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake without waiting for the socket; the application is told that the client went.

        The client's close frame may be there already.
        """
        if self.close_sent or self.transport.is_closing():
            return
        reason = reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore")
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.disconnected = True
        self.stop_keepalive()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
        self.go_on_reading()

    def adopt(self, receiver: Receiver) -> bool:
        """uvicorn's own protocol needs the application's coroutine."""
        return False

    async def run_app(self, app: Any, receive: Any, send: Any) -> None:
        """Run the application with the door in its scope. What the library was given leaves before its end."""
        self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"door": self.door}}
        try:
            await app(self.scope, receive, send)
        finally:
            if self.close_sent:
                self.handshake_complete = True  # it may have been refused, which uvicorn takes for no answer
            self.end_soon()

    def end_soon(self) -> None:
        """What the library was given leaves first, then the connection ends, however little the client reads."""
        self.door.ending()
        self.door.abort_after(END_S)


_NEEDED = (
    "close_sent",
    "close_timeout",
    "close_timer",
    "config",
    "conn",
    "disconnected",
    "handshake_complete",
    "initial_response",
    "loop",
    "pending_ping_payload",
    "queue",
    "read_paused",
    "scope",
    "stop_keepalive",
    "transport",
    "writable",
)
_OVERRIDDEN = frozenset(
    {
        "connection_lost",
        "data_received",
        "eof_received",
        "handle_bytes",
        "handle_close",
        "handle_cont",
        "handle_events",
        "handle_parser_exception",
        "handle_ping",
        "handle_pong",
        "handle_text",
        "keepalive_timeout",
        "pause_writing",
        "receive",
        "resume_writing",
        "send",
        "send_receive_event_to_app",
        "shutdown",
    }
)


def open_door(protocol: object, scope: object) -> DoorProtocol | None:
    """Give a stock uvicorn's protocol object a door, if it is exactly what this release knows; else do nothing."""
    if type(protocol) is not WebSocketsSansIOProtocol:
        return None
    if not all(hasattr(protocol, name) for name in _NEEDED) or protocol.scope is not scope:
        return None
    if not all(hasattr(WebSocketsSansIOProtocol, name) for name in _OVERRIDDEN):
        return None
    transport = protocol.transport
    if not all(hasattr(transport, name) for name in ("abort", "get_write_buffer_size", "set_write_buffer_limits")):
        return None
    if protocol.handshake_complete or transport.get_write_buffer_size():
        return None
    protocol.__class__ = DoorProtocol
    assert isinstance(protocol, DoorProtocol)
    protocol.door = Door(transport, owner=protocol)
    protocol.limit_bytes = protocol.config.ws_max_size
    try:
        transport.set_protocol(protocol)  # uvloop keeps the methods that it found
    except NotImplementedError:
        pass
    return protocol

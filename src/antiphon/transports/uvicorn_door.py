"""The quick way to the sockets of uvicorn: what its WebSocket protocol object has to tell a door.

uvicorn's own sans-I/O protocol takes the handshake, the incoming frames and the keep-alive; the library writes.
"""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState

from antiphon.journal import Journal
from antiphon.transports.base import Receiver
from antiphon.transports.door import EXTENSION, Door

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from websockets.frames import Frame as IncomingFrame

__all__ = ["END_S", "DoorProtocol", "open_door"]

END_S = 5.0
"""How long the last bytes of a connection that ends may take to leave."""
PONG_BYTES = 16 * 1024
"""Of answers to pings that may wait for a client that does not read."""
MAX_FRAGMENTS = 65_536
"""In one message."""
_PARSED_BYTES = 16 * 1024
_REASON_BYTES = 123
_journal = Journal()


class DoorProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket protocol, which tells a door what happens to the socket."""

    door: Door
    fragments = 0
    """Of the message that is under way."""
    pong_bytes = 0
    """Of the answers to pings, since the socket takes no more."""

    def data_received(self, data: bytes) -> None:
        """What the client sends: little of it at a time, since the parser makes an object of each frame at once."""
        if len(data) <= _PARSED_BYTES:
            super().data_received(data)
            return
        for at in range(0, len(data), _PARSED_BYTES):
            if self.transport.is_closing():
                return
            super().data_received(data[at : at + _PARSED_BYTES])

    def handle_text(self, event: IncomingFrame) -> None:
        """A text message, or its beginning."""
        self.curr_msg_data_type = "text"
        self._begin_message(event)

    def handle_bytes(self, event: IncomingFrame) -> None:
        """A binary message, or its beginning."""
        self.curr_msg_data_type = "bytes"
        self._begin_message(event)

    def _begin_message(self, event: IncomingFrame) -> None:
        self.frames = [bytes(event.data)] if event.fin else [bytearray(event.data)]  # type: ignore[list-item] # grows
        self.fragments = 1
        if event.fin:
            self.send_receive_event_to_app()

    def handle_cont(self, event: IncomingFrame) -> None:
        """A further fragment of a message. It is joined at once: kept apart, small ones would take 60 times as much."""
        self.frames[0] += event.data
        self.fragments += 1
        if event.fin:
            self.frames = [bytes(self.frames[0])]
            self.send_receive_event_to_app()
        elif self.fragments > MAX_FRAGMENTS and not self.close_sent:
            self._refuse(1009, "too many fragments")

    def send_receive_event_to_app(self) -> None:
        """A message is complete."""
        data, self.frames = self.frames[0], []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self._receive({"type": "websocket.receive", "bytes": data}, len(data))
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self._refuse(1007, "not UTF-8")
        else:
            self._receive({"type": "websocket.receive", "text": text}, len(data))

    def _receive(self, event: Any, size: int) -> None:
        self.queue.put_nowait(event)
        if not self.read_paused:
            self.read_paused = True
            self.transport.pause_reading()

    def _refuse(self, code: int, reason: str) -> None:
        """End the connection because of what the client sent. Its close frame may have come already."""
        _journal.info("refused", "a client's message was refused with close code %d: %s", code, reason)
        self.conn.fail(code, reason)
        self.handle_parser_exception()

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
        self.door.ending()
        super().handle_parser_exception()
        self.conn.parser_exc = None  # refers to the stack, and to what lies there
        self.door.abort_after(END_S)

    def handle_ping(self) -> None:
        """Answered, also while the socket takes no more, but then not for ever: the client may never read."""
        pong = b"".join(self.conn.data_to_send())
        if self.door.paused:
            self.pong_bytes += len(pong)
            if self.pong_bytes > PONG_BYTES:
                return
        self.transport.write(pong)

    def keepalive_timeout(self) -> None:
        """The client did not answer a ping."""
        self.door.ending()
        super().keepalive_timeout()
        self.door.abort_after(END_S)

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
        if message["type"] == "websocket.accept" and self.handshake_complete and not self.transport.is_closing():
            door.open()

    def say_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake without waiting for the socket; the application is told that the client went."""
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
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    def adopt(self, receiver: Receiver) -> bool:
        """uvicorn's own protocol needs the application's coroutine."""
        return False

    async def run_app(self, app: Any, receive: Any, send: Any) -> None:
        """Run the application with the door in its scope. What the library was given leaves before its end."""
        self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"door": self.door}}
        try:
            await app(self.scope, receive, send)
        finally:
            self.end_soon()

    def end_soon(self) -> None:
        """What the library was given leaves first, then the connection ends, however little the client reads."""
        self.door.ending()
        self.door.abort_after(END_S)


_NEEDED = (
    "close_sent",
    "close_timeout",
    "close_timer",
    "conn",
    "disconnected",
    "handshake_complete",
    "initial_response",
    "loop",
    "queue",
    "read_paused",
    "scope",
    "stop_keepalive",
    "transport",
    "writable",
)
_OWN = {"adopt", "end_soon", "fragments", "pong_bytes", "run_app", "say_close"}
_OVERRIDDEN = frozenset(name for name in vars(DoorProtocol) if not name.startswith("_")) - _OWN


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
    try:
        transport.set_protocol(protocol)  # uvloop keeps the methods that it found
    except NotImplementedError:
        pass
    return protocol

"""What clients send to uvicorn's WebSocket protocol: how much of it is taken at once, and how much at all."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from antiphon.codes import CloseCode
from antiphon.journal import Journal
from antiphon.limits import UNUSED, Rate
from antiphon.transports.door import Door
from antiphon.transports.parsers import is_between_frames, past_whole_frames

if TYPE_CHECKING:
    from websockets.frames import Frame as IncomingFrame

__all__ = ["END_S", "PARSED_BYTES", "TURN_FRAMES", "ReadingProtocol"]

END_S = 5.0
"""How long the last bytes of a connection that ends may take to leave."""
TURN_FRAMES = 128
"""Of one client, before the event loop turns to the others: about 1 ms, and at most 3 ms for the smallest frames."""
PARSED_BYTES = 2 * 1024
"""What the parser gets at once: it makes an object of each frame in it, 341 at most."""
PONG_BYTES = 16 * 1024
"""Of answers to pings that may wait for a client that does not read."""
MAX_FRAGMENTS = 65_536
"""In one message."""
DISCARDED_BYTES = 2 * 1024 * 1024
"""That a client may still send behind the server's close frame, before its own."""
DISCARDED_AT_ONCE = 32 * 1024
CONTROLS_PER_S, CONTROLS_BURST = 100.0, 200.0
"""Pings, and pongs that nobody asked for, of one client."""
_HEADER_BYTES = 14
_controls = Rate(CONTROLS_PER_S, CONTROLS_BURST)
_journal = Journal()


class ReadingProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket protocol with bounds for what a client sends.

    A read is taken in pieces, in as many turns of the event loop as it needs, and nothing is taken while it is paused.
    """

    controls_full_at = UNUSED
    discarded_bytes = 0
    """Of what came behind the server's close frame."""
    door: Door
    fragments = 0
    """Of the message that is under way."""
    ignores_pings = False
    """There were too many."""
    limit_bytes: int
    """Of one message."""
    pong_bytes = 0
    """Of the answers to pings, since the socket takes no more."""
    rest = b""
    """Received and not looked at yet: reading is paused, or it is for the next turn."""
    turn: asyncio.Handle | None = None
    """Goes on with `rest`."""

    # -- how much at once ----------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """What the client sends. What is too much for one turn of the event loop is left to the next ones."""
        if self.rest:
            data, self.rest = self.rest + data, b""
        left = TURN_FRAMES
        while data:
            if self.read_paused and not (self.disconnected or self.close_sent):
                self.rest = data
                return
            if left <= 0:
                self._leave_to_next_turn(data)
                return
            data, taken = self._take_some(data, left)
            if data and self.transport.is_closing():
                return
            left -= taken

    def _take_some(self, data: bytes, left: int) -> tuple[bytes, int]:
        """Take a part of what came. Returns what is left of it, and how many frames were taken."""
        if self.close_sent:
            return self._discard(data, left)
        return data[PARSED_BYTES:], self._parse(data[:PARSED_BYTES])

    def _parse(self, data: bytes) -> int:
        """Let the parser have a piece, and return how many frames ended in it."""
        conn = self.conn
        conn.receive_data(data)
        if conn.parser_exc is not None:
            self.handle_parser_exception()
            return 0
        frames = len(conn.events)
        self.handle_events()
        if len(conn.reader.buffer) > self.limit_bytes + _HEADER_BYTES and not self.close_sent:
            self._refuse(CloseCode.TOO_BIG, "too big")  # it began when it was allowed to be larger
        return frames

    def _discard(self, data: bytes, left: int) -> tuple[bytes, int]:
        """Behind the server's close frame only the client's own counts. Who sends on and on is cut off."""
        taken = left
        at = 0
        if is_between_frames(self.conn):
            at = past_whole_frames(data[:DISCARDED_AT_ONCE], with_pings=self.ignores_pings)
        if not at:
            at = min(len(data), PARSED_BYTES // 4)
            taken = self._parse(data[:at])
        self.discarded_bytes += at
        if self.discarded_bytes > DISCARDED_BYTES:
            self.transport.close()
            return b"", taken
        return data[at:], taken

    def _leave_to_next_turn(self, data: bytes) -> None:
        self.rest = data
        self.transport.pause_reading()
        if self.turn is None:
            self.turn = self.loop.call_soon(self._next_turn)

    def _next_turn(self) -> None:
        self.turn = None
        if self.rest and not self.transport.is_closing():
            self.data_received(b"")
        self._read_on()

    def _read_on(self) -> None:
        if self.turn is None and not self.read_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def pause_reading(self) -> None:
        """Take nothing more for now, not even of what was read already. Idempotent."""
        if not self.read_paused:
            self.read_paused = True
            if not self.transport.is_closing():
                self.transport.pause_reading()

    def go_on_reading(self) -> None:
        """Take what was left, and read on. Idempotent."""
        if self.read_paused:
            self.read_paused = False
            if self.turn is None:
                if self.rest:
                    self.data_received(b"")
                self._read_on()

    def _take_the_rest(self) -> None:
        """The connection is lost: what came before still counts, unless a close frame has been sent."""
        if self.turn is not None:
            self.turn.cancel()
            self.turn = None
        data, self.rest = self.rest, b""
        if data:
            self.disconnected = self.read_paused = True
        while data and not self.close_sent:
            data, _ = self._take_some(data, TURN_FRAMES)

    async def _next_event(self) -> Any:
        event = await self.queue.get()
        if self.read_paused and self.queue.empty():
            self.go_on_reading()
        return event

    def receive(self) -> Coroutine[Any, Any, Any]:
        """ASGI's `receive`."""
        return self._next_event()

    # -- messages ------------------------------------------------------------------------------------------------

    def limit_messages(self, limit_bytes: int | None) -> None:
        """From the next frame on, a larger message ends the connection with 1009. None: as the server was told."""
        allowed: int = self.config.ws_max_size
        self.limit_bytes = allowed if limit_bytes is None else min(limit_bytes, allowed)
        self.conn.max_message_size = self.limit_bytes

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
            self._refuse(CloseCode.TOO_BIG, "too many fragments")

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
        self.pause_reading()

    def _refuse(self, code: int, reason: str) -> None:
        """End the connection because of what the client sent. Its close frame may have come already."""
        _journal.info("refused", "a client's message was refused with close code %d: %s", code, reason)
        self.conn.fail(code, reason)
        self.handle_parser_exception()

    # -- pings and pongs -----------------------------------------------------------------------------------------

    def handle_ping(self) -> None:
        """Answered, also while the socket takes no more, but then not for ever: the client may never read."""
        pong = b"".join(self.conn.data_to_send())
        if self.ignores_pings or self._is_too_fast() or self.transport.is_closing():
            return
        if self.door.paused:
            self.pong_bytes += len(pong)
            if self.pong_bytes > PONG_BYTES:
                return
        self.transport.write(pong)

    def handle_pong(self, event: IncomingFrame) -> None:
        """An answer to the last ping, or one that nobody asked for."""
        if self.pending_ping_payload is None or bytes(event.data) != self.pending_ping_payload:
            if not self.ignores_pings:
                self._is_too_fast()
        else:
            self._answered(event)

    def _answered(self, event: IncomingFrame) -> None:
        super().handle_pong(event)

    def _is_too_fast(self) -> bool:
        """Count a control frame. One too many ends the connection, behind all that waits for the client."""
        full_at = _controls.take(self.controls_full_at, self.loop.time())
        if full_at >= 0:
            self.controls_full_at = full_at
            return False
        self.ignores_pings = True
        if not self.close_sent:
            _journal.info("pings", "a client that sent too many pings or pongs was closed")
            if self.door.is_open:
                self.door.close(CloseCode.TOO_FAST, "too many pings", limit_s=END_S)
            else:
                self.transport.close()
        return True

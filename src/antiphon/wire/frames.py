"""Outgoing messages as WebSocket frames: each representation is built once and shared by every socket."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from antiphon.errors import ConfigurationError, MessageNotSerializable
from antiphon.wire import codec

__all__ = ["DEFLATE_WINDOW_BITS", "ControlFrame", "Frame", "Policy", "close_frame"]

DEFLATE_WINDOW_BITS = 12
"""`Frame.deflated` needs a client window of at least 2**12 bytes: do not send it where a smaller one was negotiated."""

_FIN_TEXT = 0x81
_FIN_TEXT_DEFLATED = 0xC1
_FIN_CLOSE = 0x88
_SYNC_MARK = b"\x00\x00\xff\xff"
_REASON_BYTES = 123
_short_header = struct.Struct("!BB").pack
_medium_header = struct.Struct("!BBH").pack
_long_header = struct.Struct("!BBQ").pack


class Policy(NamedTuple):
    """What may happen to a frame while it waits for a client that is behind. Frames without one are never dropped."""

    newest: object | None = None
    """A newer frame of an equal value takes its place. None: only the limits drop it, the oldest first."""


class Frame:
    """One message for clients, in each form that a transport may want.

    All forms but `payload` and `wire` are built when first asked for, and kept. They are shared: nobody may change
    them.
    """

    __slots__ = ("_deflated", "_event", "_text", "_v1", "about", "payload", "wire")

    # Unset until they are asked for: most frames never are, and setting them would take a third of the constructor.
    _text: str
    _event: dict[str, object]
    _deflated: bytes
    _v1: Frame
    about: tuple[str | None, str | None]
    """The id of the publication and its topic, where there are any: they go to clients that speak `antiphon.v1`."""

    payload: bytes
    """The content of the text frame, in UTF-8."""
    wire: bytes
    """The complete frame of RFC 6455 as a server sends it: final, text, not masked, not compressed."""

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        # At once, since nearly everybody asks for it, and asking is cheaper without a property.
        size = len(payload)
        if 125 < size < 65_536:
            self.wire = _medium_header(_FIN_TEXT, 126, size) + payload
        else:
            self.wire = _frame(_FIN_TEXT, payload)

    @classmethod
    def json(cls, payload: bytes) -> Frame:
        """A frame of JSON that is encoded already. `payload` must be valid UTF-8; that is not checked."""
        return cls(payload)

    @classmethod
    def of_text(cls, text: str) -> Frame:
        """A frame of a text as it stands. Raises MessageNotSerializable for a lone surrogate."""
        return _frame_of_text(text)

    @property
    def text(self) -> str:
        """The content as `str`."""
        try:
            return self._text
        except AttributeError:
            text = self._text = self.payload.decode()
            return text

    @property
    def size(self) -> int:
        """Bytes of the content, without the frame's header."""
        return len(self.payload)

    @property
    def event(self) -> dict[str, object]:
        """The ASGI event that sends it. One dict for all sockets."""
        try:
            return self._event
        except AttributeError:
            event = self._event = {"type": "websocket.send", "text": self.text}
            return event

    @property
    def deflated(self) -> bytes:
        """The complete frame for clients that negotiated permessage-deflate (RFC 7692).

        Compressed with a fresh context, so that it is valid on every connection whatever was sent before, with or
        without context takeover; the client's window must be at least `DEFLATE_WINDOW_BITS`.
        """
        try:
            return self._deflated
        except AttributeError:
            deflated = self._deflated = _frame(_FIN_TEXT_DEFLATED, _deflate(self.payload))
            return deflated

    @property
    def v1(self) -> Frame:
        """The frame that carries the message to clients that speak `antiphon.v1`."""
        try:
            return self._v1
        except AttributeError:
            id, topic = getattr(self, "about", (None, None))
            self._v1 = v1 = ControlFrame(_message_frame(self._json(), id, topic))
            return v1

    def _json(self) -> bytes:
        return self.payload

    def __repr__(self) -> str:
        return f"<Frame of {len(self.payload)} bytes>"


class _TextFrame(Frame):
    """A text as it stands, which need not be JSON."""

    __slots__ = ()

    def _json(self) -> bytes:
        return codec.encode(self.text)


class ControlFrame(Frame):
    """A frame of the library itself: every client that gets it gets it as it stands."""

    __slots__ = ()

    @property
    def v1(self) -> Frame:
        """This one."""
        return self


def _message_frame(payload: bytes, id: str | None, topic: str | None) -> bytes:
    head = b'{"type":"message",'
    if id is not None:
        head += b'"id":%b,' % codec.encode(id)
    if topic is not None:
        head += b'"topic":%b,' % codec.encode(topic)
    return b'%b"message":%b}' % (head, payload)


def _frame_of_text(text: str) -> Frame:
    try:
        frame = _TextFrame(text.encode())
    except UnicodeEncodeError as error:
        raise MessageNotSerializable(f"the text holds a lone surrogate at {error.start}: clean it first") from error
    frame._text = text
    return frame


def _frame(first_byte: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return _short_header(first_byte, size) + payload
    if size < 65_536:
        return _medium_header(first_byte, 126, size) + payload
    return _long_header(first_byte, 127, size) + payload


def _deflate(payload: bytes) -> bytes:
    if not payload:
        return b"\x00"  # RFC 7692 §7.2.3.6
    compressor = zlib.compressobj(level=6, wbits=-DEFLATE_WINDOW_BITS, memLevel=5)
    return (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH)).removesuffix(_SYNC_MARK)


def close_frame(code: int, reason: str) -> bytes:
    """The complete close frame of RFC 6455. A reason above 123 bytes is cut at a character's end.

    Raises ConfigurationError for a code that may not stand in a frame.
    """
    if not 1000 <= code < 5000 or code in (1004, 1005, 1006, 1015):
        raise ConfigurationError(
            f"{code} may not be sent as a close code: take one of antiphon.CloseCode, or 3000-4999"
        )
    text = reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore").encode()
    return bytes((_FIN_CLOSE, 2 + len(text))) + code.to_bytes(2, "big") + text

"""Parsers of incoming frames that connections borrow.

Between two messages all that a parser of `websockets` knows of a connection is that it is open, in 1.3 KiB. So a
connection has one of its own only while a frame or a fragmented message is unfinished, and once it is closing.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from types import GeneratorType

from websockets.extensions import Extension
from websockets.protocol import Protocol, Side, State
from websockets.streams import StreamReader

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a websockets without its C extension
    from websockets.utils import apply_mask

__all__ = ["Parsers", "is_between_frames", "is_between_messages", "past_whole_frames", "whole_message"]

_SPARE = 4
_AT_EOF = StreamReader.at_eof.__code__
FIN_TEXT, FIN_BINARY = 0x81, 0x82
_CLOSE, _PING = 0x8, 0x9
_MASKED = 0x80


class Parsers:
    """Lends parsers to the connections of one server."""

    __slots__ = ("_logger", "_spare")

    def __init__(self, *, logger: logging.Logger) -> None:
        self._logger = logger
        self._spare: list[Protocol] = []

    def lend(self, extensions: Sequence[Extension], *, limit_bytes: int) -> Protocol:
        """A parser for an open connection that is between two messages, which may have so many bytes."""
        parser = self._spare.pop() if self._spare else Protocol(Side.SERVER, logger=self._logger)
        parser.max_message_size = limit_bytes
        parser.extensions = list(extensions)
        return parser

    def take_back(self, parser: Protocol) -> None:
        """A parser that `is_between_messages`; nobody else may have it."""
        if type(parser) is Protocol and len(self._spare) < _SPARE:
            parser.extensions = []
            self._spare.append(parser)


def is_between_messages(parser: Protocol) -> bool:
    """Whether the parser knows nothing of its connection but that it is open."""
    # Before websockets 16 it has no `current_size`; then a connection keeps the parser that it once needed.
    if parser.state is not State.OPEN or getattr(parser, "current_size", 0) is not None or parser.eof_sent:
        return False
    return not parser.writes and parser.parser_exc is None and is_between_frames(parser)


def is_between_frames(parser: Protocol) -> bool:
    """Whether the next byte begins a frame. That may be one within a message, or one that nobody looks at."""
    if parser.reader.buffer or parser.events:
        return False
    # With an empty buffer it may still have taken half of a frame's header out of it: see what it waits for.
    waiting: object = parser.parser
    while isinstance(waiting, GeneratorType):
        if waiting.gi_code is _AT_EOF:
            return True
        waiting = waiting.gi_yieldfrom
    return False


def whole_message(data: bytes, at: int, *, limit_bytes: int) -> tuple[int, bytes] | None:
    """The message that begins at `at`, if one unfragmented, uncompressed frame is there as a whole, and where it ends.

    None for everything else, what is unusual, wrong or too long included.
    """
    first, size = data[at], data[at + 1] - _MASKED
    if (first != FIN_TEXT and first != FIN_BINARY) or size < 0:
        return None
    start = at + 6
    if size >= 126:
        if size > 126:
            return None
        size = int.from_bytes(data[at + 2 : at + 4], "big")
        start = at + 8
    end = start + size
    if end > len(data) or size > limit_bytes:
        return None
    return end, apply_mask(data[start:end], data[start - 4 : start])


def past_whole_frames(data: bytes, *, with_pings: bool) -> int:
    """Where the first frame begins that is a close frame, a ping, not there as a whole, or unusual.

    `with_pings` says that pings count as any other.
    """
    at, size = 0, len(data)
    ends = (_CLOSE, _CLOSE) if with_pings else (_CLOSE, _PING)
    while size - at >= 6:
        length = data[at + 1] - _MASKED
        if data[at] & 0x0F in ends or length < 0 or length > 126:
            break
        end = at + 6 + length
        if length == 126:
            end = at + 8 + int.from_bytes(data[at + 2 : at + 4], "big")
        if end > size:
            break
        at = end
    return at

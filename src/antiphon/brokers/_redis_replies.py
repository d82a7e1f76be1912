"""Bytes from a Redis server, cut into replies as they come: by hiredis if it is installed, else by redis-py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any, Protocol, TypeAlias, cast

from redis._parsers import _AsyncRESP2Parser
from redis.utils import HIREDIS_AVAILABLE

__all__ = ["CompiledReplies", "ErrorReply", "PlainReplies", "Replies", "Reply", "open_replies"]


class ErrorReply(str):
    """A reply that is an error, such as `NOPERM this user has no permissions ...`."""

    __slots__ = ()


Reply: TypeAlias = "int | bytes | ErrorReply | list[Reply] | None"


class Replies(Protocol):
    """A parser for one life of a connection."""

    def feed(self, data: bytes) -> list[Reply]:
        """Every reply that is complete with `data`. Raises one exception or another on what is not RESP 2."""
        ...


class CompiledReplies:
    """Replies by hiredis."""

    def __init__(self) -> None:
        import hiredis

        self._incomplete = object()
        as_value = cast("Callable[[str], Exception]", ErrorReply)  # hiredis returns what it makes, and raises nothing
        self._reader = hiredis.Reader(replyError=as_value, notEnoughData=self._incomplete)

    def feed(self, data: bytes) -> list[Reply]:
        """Every reply that is complete with `data`."""
        reader, incomplete = self._reader, self._incomplete
        reader.feed(data)
        replies: list[Reply] = []
        while (reply := reader.gets()) is not incomplete:
            replies.append(reply)
        return replies


class _Parser(_AsyncRESP2Parser):
    """redis-py's parser, with error replies as values: some of its own are raised and some returned."""

    @classmethod
    def parse_error(cls, response: str) -> ErrorReply:
        return ErrorReply(response)


class PlainReplies:
    """Replies by redis-py's own parser.

    The parser is a coroutine that reads from a stream. There is no task: it is stepped by hand after each piece of
    data, and stays where it is when it runs out of it.
    """

    def __init__(self) -> None:
        self._stream = asyncio.StreamReader()
        self._parser = _Parser(socket_read_size=65_536)
        source = SimpleNamespace(_reader=self._stream, encoder=None)
        self._parser.on_connect(source)  # type: ignore[no-untyped-call]  # redis-py has types for some of it
        self._step: Coroutine[Any, Any, Reply] | None = None

    def feed(self, data: bytes) -> list[Reply]:
        """Every reply that is complete with `data`."""
        replies: list[Reply] = []
        if not data:
            return replies  # it would not wake the parser, which then must not be stepped
        self._stream.feed_data(data)
        while True:
            if self._step is None:
                self._step = self._parser.read_response(disable_decoding=True)
            try:
                self._step.send(None)
            except StopIteration as finished:
                self._step = None
                replies.append(finished.value)
            else:
                return replies


def open_replies() -> Replies:
    """The fastest parser that is installed."""
    return CompiledReplies() if HIREDIS_AVAILABLE else PlainReplies()

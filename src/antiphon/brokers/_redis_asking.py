"""Commands to a Redis server with answers in bounded time, over one connection that is made when it is needed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from typing import Final, NamedTuple, TypeAlias, cast

from antiphon.brokers._redis import RedisAddress
from antiphon.brokers._redis_commands import command
from antiphon.brokers._redis_errors import lost, refused
from antiphon.brokers._redis_replies import ErrorReply, Reply
from antiphon.brokers._redis_wire import Pipeline, Wire, dial
from antiphon.codes import Reason
from antiphon.errors import AntiphonError, BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable

__all__ = ["Asking", "Words", "failed"]

Words: TypeAlias = "tuple[bytes, ...]"
"""A command's name and its arguments."""

CALLS_LIMIT: Final = 2_048
"""Calls that may wait for the server; one more ends as busy."""

TOLD_LIMIT: Final = 20_000
"""Commands of `tell` that may wait for the server; more end as busy."""

_REST_S: Final = 0.2
_LEAST_ANSWER_SHARE: Final = 0.4
_REDIAL: Final = frozenset({Reason.LOADING, Reason.READ_ONLY, Reason.AUTHENTICATION})
"""Refusals after which another connection may lead to another server, or to another user."""


class _Line(NamedTuple):
    """One life of the connection, and what ends it before its loop does."""

    wire: Wire
    pipeline: Pipeline
    keeper: AsyncGenerator[None, None]


class Asking:
    """Asks one server, from one event loop.

    A call takes at most `timeout_s`, or 1.4 times that when it had to connect first. A time-out ends the connection,
    and with it all calls under way: a server that answers one late answers all late. After a failed attempt to
    connect, calls fail at once for 0.2 s.
    """

    def __init__(self, address: RedisAddress, *, timeout_s: float) -> None:
        self.loop = asyncio.get_running_loop()
        self._address = address
        self._timeout_s = timeout_s
        self._line: _Line | None = None
        self._dialling: asyncio.Task[_Line] | None = None
        self._failure: BrokerError | None = None
        self._rest_until = 0.0
        self._calls = 0
        self._told = 0
        self._closed = False

    async def ask(self, commands: Sequence[Words]) -> list[Reply]:
        """Send commands in one write, and return their replies. Raises BrokerError: the first among them."""
        if self._calls >= CALLS_LIMIT:
            raise self._unavailable(f"{CALLS_LIMIT:,} calls wait for it already", reason=Reason.BUSY)
        self._calls += 1
        try:
            end = self.loop.time() + self._timeout_s
            line = await self._open()
            answers = [_send(line, words) for words in commands]
            # `wait` and no time-out around it: an answer that came while the loop stood still counts as in time.
            least_s = _LEAST_ANSWER_SHARE * self._timeout_s
            _, waiting = await asyncio.wait(answers[-1:], timeout=max(end - self.loop.time(), least_s))
            if waiting:
                text = f"the broker {self._address} did not answer in {self._timeout_s:g} s: it hangs, or is overloaded"
                line.wire.end(BrokerTimeout(text))
                raise BrokerTimeout(text)
            return self._results(line, answers)
        finally:
            self._calls -= 1

    async def ask_whole(self, commands: Sequence[Words]) -> list[Reply]:
        """Ask commands that are carried out together or not at all, as `ask` does."""
        replies = (await self.ask([(b"MULTI",), *commands, (b"EXEC",)]))[-1]
        if not isinstance(replies, list) or len(replies) != len(commands):
            error = lost(self._address, None, doing="its answer to EXEC does not belong to what was asked")
            if self._line is not None:
                self._line.wire.end(error)
            raise error
        for words, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ErrorReply):
                raise refused(self._address, reply, doing=words[0].decode())
        return replies

    def tell(self, commands: Sequence[Words]) -> asyncio.Future[object]:
        """Send commands before anything that is asked later, without connecting or waiting.

        The future ends with the last answer or a BrokerError, once the connection has ended at the latest; `ask` sees
        to that on a server that hangs. It does not complain when nobody looks at it.
        """
        answer: asyncio.Future[object] = self.loop.create_future()
        if not commands:
            answer.set_result(None)
            return answer
        line = self._line
        if line is None:
            return failed(self._unavailable("there is no connection now"))
        if self._told + len(commands) > TOLD_LIMIT:
            return failed(self._unavailable("too much waits for its answers", reason=Reason.BUSY))
        self._told += len(commands)
        for words in commands:
            answer = _send(line, words)
            answer.add_done_callback(self._on_told)
        return answer

    async def close(self) -> None:
        """End the connection; calls under way end with BrokerUnavailable. Idempotent."""
        self._closed = True
        dialling = self._dialling
        if dialling is not None:
            dialling.cancel()
            await asyncio.wait((dialling,))
        await self._drop()
        await asyncio.sleep(0)  # the loop closes the descriptor in its next turn

    def _on_told(self, answer: asyncio.Future[object]) -> None:
        self._told -= 1

    def _results(self, line: _Line, answers: Iterable[asyncio.Future[object]]) -> list[Reply]:
        """The replies, once the last is there: the server answers in the order in which it was asked."""
        replies: list[Reply] = []
        for answer in answers:
            error = answer.exception()
            if error is not None:
                if isinstance(error, BrokerRefused) and error.reason in _REDIAL:
                    line.wire.end(self._unavailable("another connection is needed", reason=error.reason))
                raise error
            replies.append(cast("Reply", answer.result()))
        return replies

    async def _open(self) -> _Line:
        """The connection, made if there is none. All who wait share one attempt, and its failure for a moment."""
        if self._closed:
            raise self._unavailable("this store was closed", reason=Reason.CLOSED)
        if self._line is not None and self._line.wire.ended is None:
            return self._line
        if self._failure is not None and self.loop.time() < self._rest_until:
            raise _again(self._failure)
        if self._dialling is None:
            self._dialling = self.loop.create_task(self._dial(), name="antiphon-store-dial")
            self._dialling.add_done_callback(self._on_dialled)
        dialling = self._dialling
        # Not awaited itself: cancelling one who waits must not end the attempt for the others.
        await asyncio.wait((dialling,))
        if dialling.cancelled():
            raise self._unavailable("this store was closed", reason=Reason.CLOSED)
        error = dialling.exception()
        if isinstance(error, BrokerError):
            raise _again(error)
        return dialling.result()

    async def _dial(self) -> _Line:
        await self._drop()
        try:
            async with asyncio.timeout(self._timeout_s):
                wire, pipeline = await dial(self._address, connect_timeout_s=self._timeout_s)
        except TimeoutError:
            raise self._unavailable(f"no connection in {self._timeout_s:g} s", reason=Reason.TIMEOUT) from None
        keeper = _until_loop_ends(wire)
        await anext(keeper)
        self._line = _Line(wire, pipeline, keeper)
        return self._line

    def _on_dialled(self, dialling: asyncio.Task[_Line]) -> None:
        self._dialling = None
        error = None if dialling.cancelled() else dialling.exception()
        self._failure = error if isinstance(error, BrokerError) else None
        if error is not None:
            self._rest_until = self.loop.time() + _REST_S

    async def _drop(self) -> None:
        line, self._line = self._line, None
        if line is not None:
            await line.keeper.aclose()

    def _unavailable(self, why: str, *, reason: Reason = Reason.CONNECTION_LOST) -> BrokerUnavailable:
        return BrokerUnavailable(f"the broker {self._address} cannot be asked: {why}", reason=reason)


async def _until_loop_ends(wire: Wire) -> AsyncGenerator[None, None]:
    """Close a connection before its loop does: `asyncio.run` ends what is suspended here, so nothing stays open."""
    try:
        yield
    finally:
        await wire.close()


def failed(error: AntiphonError) -> asyncio.Future[object]:
    """A future that has failed already, and does not complain when nobody looks at it."""
    answer: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    answer.set_exception(error)
    answer.exception()
    return answer


def _send(line: _Line, words: Words) -> asyncio.Future[object]:
    return line.pipeline.ask(words[0].decode(), command(*words))


def _again(error: BrokerError) -> BrokerError:
    """One exception for each who waits: raising adds to its traceback."""
    copy = type(error)(str(error), reason=error.reason)
    copy.__cause__ = error.__cause__
    return copy

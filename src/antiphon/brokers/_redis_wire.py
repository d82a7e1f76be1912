"""One TCP, TLS or Unix connection to a Redis server: opened by redis-py, then a plain asyncio protocol.

redis-py's own handshake would cost a round trip for each command, and leave a TLS socket open for half a minute when
it is cancelled while the server hangs: AUTH and SELECT go out with our other questions.

Reading and writing happen in the event loop's callbacks, without a task: what is read in one go is handed on in one
go, and what is asked in one turn of the event loop leaves in one write.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, Protocol, cast

import redis.exceptions as foreign
from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from antiphon.brokers._redis import RedisAddress
from antiphon.brokers._redis_commands import answers_ping, check_role, is_optional, sign_in_commands
from antiphon.brokers._redis_errors import dial_failed, hung_up, lost, refused
from antiphon.brokers._redis_replies import ErrorReply, Reply, open_replies
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerUnavailable

__all__ = ["UNANSWERED_LIMIT", "UNSENT_LIMIT_BYTES", "Pipeline", "Wire", "dial"]

UNSENT_LIMIT_BYTES: Final = 64 * 1024 * 1024
"""Bytes that the server has not taken yet. Writing when more than that wait ends the connection as busy.

A backstop: whoever publishes bounds what is under way to less, so that a burst to a healthy server never gets here.
"""

UNANSWERED_LIMIT: Final = 65_536
"""Commands without an answer. One more ends the connection as busy."""

_WRITE_BYTES: Final = 1024 * 1024
"""Bytes of commands that are collected for one write; more leave before the turn ends."""


class Receiver(Protocol):
    """Who is told what comes over a wire."""

    def take(self, replies: Sequence[Reply]) -> None:
        """Replies that came together, in order."""
        ...

    def end(self, error: BrokerError) -> None:
        """The connection ended; told once, and nothing comes after it."""
        ...


class Wire(asyncio.Protocol):
    """One life of a connection. It takes over the transport that redis-py opened."""

    def __init__(self, connection: AbstractConnection, address: RedisAddress) -> None:
        stream, writer = connection._reader, connection._writer  # redis-py has no public way to them
        assert stream is not None
        assert writer is not None
        self.address = address
        self.receiver: Receiver | None = None
        self.ended: BrokerError | None = None
        """Why the connection ended, once it has."""
        self._connection = connection  # keeps the stream's writer alive, which closes the transport when it goes
        self._transport = cast("asyncio.Transport", writer.transport)
        self._replies = open_replies()
        self._transport.set_protocol(self)
        if stream.at_eof() or stream.exception() is not None or self._transport.is_closing():
            self.end(lost(address, stream.exception()))

    def write(self, data: bytes) -> None:
        """Send without waiting. Ends the connection when the server leaves too much of it unread."""
        if self.ended is not None or self._transport.is_closing():
            return
        waiting = self._transport.get_write_buffer_size()
        if waiting > UNSENT_LIMIT_BYTES:
            text = f"the broker {self.address} does not read: {waiting:,} bytes wait for it"
            self.end(BrokerUnavailable(text, reason=Reason.BUSY))
            return
        self._transport.write(data)

    def pause(self) -> None:
        """Read no more until `resume`: whoever takes what came does not keep up."""
        if self.ended is None:
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self.ended is None:
            self._transport.resume_reading()

    def end(self, error: BrokerError) -> None:
        """End the connection at once. The first error is the one that counts."""
        if self.ended is None:
            self.ended = error
            self._transport.abort()
            if self.receiver is not None:
                self.receiver.end(error)

    async def close(self) -> None:
        """End the connection at once, and let redis-py forget it. Idempotent."""
        self.end(BrokerUnavailable(f"the connection to the broker {self.address} was closed", reason=Reason.CLOSED))
        await self._connection.disconnect(nowait=True)

    def data_received(self, data: bytes) -> None:
        """From the event loop: bytes came."""
        try:
            replies = self._replies.feed(data)
        except Exception as error:  # whichever the parser has for bytes that are not RESP
            self.end(lost(self.address, error, doing="what it sent is not the Redis protocol"))
            return
        if replies and self.ended is None and self.receiver is not None:
            self.receiver.take(replies)

    def eof_received(self) -> None:
        """From the event loop: the server will send nothing more."""
        self.end(lost(self.address, None))

    def connection_lost(self, exc: Exception | None) -> None:
        """From the event loop: the connection is gone."""
        self.end(lost(self.address, exc))


class Pipeline:
    """Commands and their answers. Commands leave in the order of the calls, those of one turn in one write."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[str, asyncio.Future[Any]]] = deque()
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        wire.receiver = self

    def ask(self, name: str, data: bytes) -> asyncio.Future[Any]:
        """Send `data`, the command `name`; the future gets its reply, or BrokerRefused, or BrokerUnavailable.

        The replies of PUBLISH are numbers, those of PING nothing. A future that nobody looks at does not complain.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        if self._wire.ended is not None:
            _fail(future, _copy(self._wire.ended))
            return future
        self._waiting.append((name, future))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > _WRITE_BYTES:
            self._flush()
        if len(self._waiting) > UNANSWERED_LIMIT:
            text = f"the broker {self._wire.address} leaves {UNANSWERED_LIMIT:,} commands without an answer"
            self._wire.end(BrokerUnavailable(text, reason=Reason.BUSY))
        return future

    def take(self, replies: Sequence[Reply]) -> None:
        """From the wire: answers, in the order of the commands."""
        for reply in replies:
            if not self._waiting:
                self._out_of_step()
                return
            name, future = self._waiting.popleft()
            if isinstance(reply, ErrorReply) and not (name == "PING" and answers_ping(reply)):
                _fail(future, refused(self._wire.address, reply, doing=name))
            elif not _fits(name, reply):
                _fail(future, lost(self._wire.address, None, doing=_OUT_OF_STEP))
                self._out_of_step()
                return
            elif not future.done():
                future.set_result(None if name == "PING" else reply)

    def end(self, error: BrokerError) -> None:
        """From the wire: there will be no more answers."""
        self._unsent.clear()
        self._unsent_bytes = 0
        while self._waiting:
            _fail(self._waiting.popleft()[1], _copy(error))

    def _flush(self) -> None:
        if self._unsent:
            data = b"".join(self._unsent)
            self._unsent.clear()
            self._unsent_bytes = 0
            self._wire.write(data)

    def _out_of_step(self) -> None:
        self._wire.end(lost(self._wire.address, None, doing=_OUT_OF_STEP))


_OUT_OF_STEP: Final = "its answers do not belong to what was asked, as behind a proxy that drops some"


async def dial(address: RedisAddress, *, connect_timeout_s: float) -> tuple[Wire, Pipeline]:
    """Connect, sign in, and see that a primary answers. Raises BrokerError; a cancelled attempt leaves nothing open."""
    connection = _connection(address, connect_timeout_s=connect_timeout_s)
    failure: BrokerError | None = None
    try:
        await connection.connect()  # type: ignore[no-untyped-call]  # redis-py has types for some of it
    except (foreign.RedisError, OSError) as error:
        failure = dial_failed(address, error)
    if failure is not None:
        raise failure
    wire = Wire(connection, address)
    try:
        pipeline = Pipeline(wire)
        async with asyncio.timeout(2 * connect_timeout_s):
            await _sign_in(pipeline, address)
    except TimeoutError:
        await wire.close()
        raise BrokerUnavailable(
            f"the broker {address} accepts connections and does not answer: it hangs, or it is overloaded",
            reason=Reason.TIMEOUT,
        ) from None
    except BrokerUnavailable as error:
        await wire.close()
        raise hung_up(address, error) from error.__cause__
    except BaseException:
        await wire.close()
        raise
    return wire, pipeline


def _connection(address: RedisAddress, *, connect_timeout_s: float) -> AbstractConnection:
    """A connection of redis-py that sends nothing by itself, and neither retries nor checks anything."""
    arguments: dict[str, Any] = {
        **address.options,
        "driver_info": None,
        "health_check_interval": 0,
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_connect_timeout": connect_timeout_s,
    }
    if address.kind == "unix":
        return UnixDomainSocketConnection(**arguments)
    if address.tls is None:
        return Connection(**arguments)
    connection = SSLConnection(**arguments)
    connection.ssl_context = address.tls
    return connection


async def _sign_in(pipeline: Pipeline, address: RedisAddress) -> None:
    asked = [(name, pipeline.ask(name, data)) for name, data in sign_in_commands(address)]
    for name, answer in asked:
        try:
            reply = await answer
        except BrokerRefused as error:
            if not is_optional(name, error):
                raise
        else:
            if name == "ROLE":
                check_role(reply, address)


def _fits(name: str, reply: Reply) -> bool:
    if name == "PUBLISH":
        return isinstance(reply, int)
    return name != "PING" or reply == b"PONG" or isinstance(reply, ErrorReply)


def _copy(error: BrokerError) -> BrokerError:
    """One exception for each who waits: raising adds to its traceback."""
    copy = type(error)(str(error), reason=error.reason)
    copy.__cause__ = error.__cause__
    return copy


def _fail(future: asyncio.Future[Any], error: BrokerError) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # counts as seen: nobody has to look at the answer to a publication

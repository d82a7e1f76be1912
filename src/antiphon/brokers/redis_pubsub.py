"""Redis or Valkey publish/subscribe as a `Broker`: RESP 2, one connection that listens and one that publishes."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Collection, Sequence
from typing import Final, cast

from antiphon.brokers._arrivals import Arrivals
from antiphon.brokers._redis import parse_address
from antiphon.brokers._redis_commands import answers_ping, command
from antiphon.brokers._redis_errors import refused
from antiphon.brokers._redis_replies import ErrorReply, Reply
from antiphon.brokers._redis_wire import Pipeline, Wire, dial
from antiphon.brokers.base import Event, Message, Pong, Subscribed, Unsubscribed
from antiphon.errors import BrokerError

__all__ = ["RedisBroker", "RedisListening", "RedisPublishing"]

UNRECEIVED_LIMIT_BYTES: Final = 8 * 1024 * 1024
"""Bytes that wait for `receive` before nothing more is read from the socket; the server's own limit comes next."""

EVENT_OVERHEAD_BYTES: Final = 200


class RedisBroker:
    """A Redis or Valkey server by its URL, such as `redis://user:password@host:6379/0`.

    `rediss://` and `valkeys://` verify the server's certificate; `unix:///path?db=0` takes a socket. Raises
    InvalidBrokerURL for a URL that cannot be used, without connecting. Replicas (read-only servers) are refused.
    `connect_timeout_s` bounds the connection's set-up; each answer while signing in may take twice as long.
    With `require_tls`, by default as `ANTIPHON_REQUIRE_TLS` says, a URL without verified TLS raises TLSRequired.
    """

    def __init__(self, url: str, *, connect_timeout_s: float = 1.0, require_tls: bool | None = None) -> None:
        self._address = parse_address(url, require_tls=require_tls)
        self._connect_timeout_s = connect_timeout_s

    def __repr__(self) -> str:
        return f"<RedisBroker {self._address}>"

    @property
    def address(self) -> str:
        """`host:port/db`, for logs: without user and password."""
        return self._address.text

    async def open_listening(self) -> RedisListening:
        """Connect for listening. Raises BrokerUnavailable or BrokerRefused; a cancelled attempt leaves nothing open."""
        wire, _ = await dial(self._address, connect_timeout_s=self._connect_timeout_s)
        return RedisListening(wire)

    async def open_publishing(self) -> RedisPublishing:
        """Connect for publishing, as `open_listening` does."""
        wire, pipeline = await dial(self._address, connect_timeout_s=self._connect_timeout_s)
        return RedisPublishing(wire, pipeline)


class RedisListening:
    """One life of a connection that hears; see `antiphon.brokers.base.Listening`.

    An error reply, such as that to a SUBSCRIBE that the ACL forbids, ends the connection: `receive` raises
    BrokerRefused, whose text names the route. While `receive` is not called, 8 MiB are kept, then nothing is read.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._arrivals = Arrivals()
        self._asked: deque[tuple[bytes, bytes]] = deque()
        self._paused = False
        wire.receiver = self
        if wire.ended is not None:
            self._arrivals.end(wire.ended)

    async def receive(self) -> Sequence[Event]:
        """Everything that came, at least one event. Raises BrokerError once the connection is of no use any more."""
        events = await self._arrivals.take()
        if self._paused:
            self._paused = False
            self._wire.resume()
        return events

    def subscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes`; each is confirmed by `Subscribed`."""
        self._ask_each(b"SUBSCRIBE", routes)

    def unsubscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes` no longer; each is confirmed by `Unsubscribed`."""
        self._ask_each(b"UNSUBSCRIBE", routes)

    def ping(self, token: bytes) -> None:
        """Ask for a `Pong` with this token."""
        if self._wire.ended is None:
            self._asked.append((b"PING", token))
            self._wire.write(command(b"PING", token))

    async def close(self) -> None:
        """End the connection at once. Idempotent."""
        await self._wire.close()

    def take(self, replies: Sequence[Reply]) -> None:
        """From the wire: what the server sent."""
        events: list[Event] = []
        failure: BrokerError | None = None
        size = 0
        for reply in replies:
            if type(reply) is list and reply[0] == b"message":
                _, route, payload = cast("list[bytes]", reply)
                events.append(Message(route.decode(errors="replace"), payload))
                size += len(payload) + EVENT_OVERHEAD_BYTES
                continue
            try:
                event = self._answer(reply)
            except BrokerError as error:
                failure = error
                break
            if event is not None:
                events.append(event)
                size += EVENT_OVERHEAD_BYTES
        self._arrivals.add(events, size_bytes=size)
        if failure is not None:
            self._wire.end(failure)
        elif self._arrivals.size_bytes > UNRECEIVED_LIMIT_BYTES and not self._paused:
            self._paused = True
            self._wire.pause()

    def end(self, error: BrokerError) -> None:
        """From the wire: nothing more will come."""
        self._arrivals.end(error)

    def _answer(self, reply: Reply) -> Event | None:
        """The event for the answer to one of our commands; None for what this class never asks for."""
        match reply:
            case [b"subscribe", bytes(route), _]:
                event: Event = Subscribed(route.decode(errors="replace"))
            case [b"unsubscribe", bytes(route), _]:
                event = Unsubscribed(route.decode(errors="replace"))
            case [b"pong", bytes(token)] | bytes(token):  # bare as long as nothing is subscribed
                event = Pong(token)
            case ErrorReply():
                name, argument = self._asked[0] if self._asked else (b"the connection", b"")
                if not (name == b"PING" and answers_ping(reply)):
                    raise refused(self._wire.address, reply, doing=f"{name.decode()} {argument.decode()}".rstrip())
                event = Pong(argument)
            case _:
                return None
        if self._asked:
            self._asked.popleft()
        return event

    def _ask_each(self, name: bytes, routes: Collection[str]) -> None:
        """One command for each route: an ACL that forbids one of them then says which."""
        if routes and self._wire.ended is None:
            words = [route.encode() for route in routes]
            self._asked.extend((name, word) for word in words)
            self._wire.write(b"".join(command(name, word) for word in words))


class RedisPublishing:
    """One life of a connection that publishes; see `antiphon.brokers.base.Publishing`.

    It ends as busy (`Reason.BUSY`) when the server leaves 64 MiB unread or 65,536 commands without an answer: whoever
    publishes faster than that has to wait for answers.
    """

    def __init__(self, wire: Wire, pipeline: Pipeline) -> None:
        self._wire = wire
        self._pipeline = pipeline

    def publish(self, route: str, payload: bytes) -> Awaitable[int]:
        """Send one publication; the future's result is the number of subscribers that the server handed it to."""
        return self._pipeline.ask("PUBLISH", command(b"PUBLISH", route.encode(), payload))

    def ping(self) -> Awaitable[None]:
        """Ask for an answer, behind everything that was sent before."""
        return self._pipeline.ask("PING", command(b"PING"))

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._wire.ended is not None

    async def close(self) -> None:
        """End the connection at once; what has no answer yet ends with BrokerUnavailable. Idempotent."""
        await self._wire.close()

"""What a broker has to offer: a connection that listens and one that publishes, each for one life.

An adapter never reconnects, never retries and never hides an outage: whatever goes wrong ends that connection with a
`BrokerError`, and the relay, which owns all deadlines, dials anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

__all__ = ["Broker", "Event", "Listening", "Message", "Pong", "Publishing", "Subscribed", "Unsubscribed"]


@dataclass(frozen=True, slots=True)
class Message:
    """One payload that was published on `route`, a Redis channel's full name."""

    route: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker confirmed that this connection hears `route` from now on."""

    route: str


@dataclass(frozen=True, slots=True)
class Unsubscribed:
    """The broker confirmed that this connection hears `route` no longer."""

    route: str


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to `ping(token)`, after everything that the broker sent before it."""

    token: bytes


Event: TypeAlias = Message | Subscribed | Unsubscribed | Pong


class Listening(Protocol):
    """One life of the connection that hears."""

    async def receive(self) -> Sequence[Event]:
        """Wait for what comes next and return it: at least one event, and everything that is already here, in order.

        Raises BrokerError when the connection is of no use any more; it has then to be closed.
        Only one task may receive at a time; cancelling it is allowed only before `close()`.
        """
        ...

    def subscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes`. Each is confirmed by a `Subscribed` event. Never blocks; a loss shows in `receive`."""
        ...

    def unsubscribe(self, routes: Collection[str]) -> None:
        """Ask to hear `routes` no longer; each is confirmed by `Unsubscribed`. Never blocks."""
        ...

    def ping(self, token: bytes) -> None:
        """Ask for a `Pong` with this token. Never blocks."""
        ...

    async def close(self) -> None:
        """End the connection at once, without waiting for the other side. Idempotent."""
        ...


class Publishing(Protocol):
    """One life of the connection that publishes."""

    def publish(self, route: str, payload: bytes) -> Awaitable[int]:
        """Send one publication; commands are carried out in the order of the calls, those of one turn are pipelined.

        The call itself never blocks and never raises. What is returned is a future: its result is the number of
        subscribers that the broker handed the payload to; its exception is BrokerRefused when the broker answered with
        an error, and BrokerUnavailable when the connection ended first (the outcome is then unknown).
        Cancelling the future takes nothing back.
        """
        ...

    def ping(self) -> Awaitable[None]:
        """Ask for an answer, as `publish` does; the future ends when everything before it was answered too."""
        ...

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        ...

    async def close(self) -> None:
        """End the connection at once; what has no answer yet ends with BrokerUnavailable. Idempotent."""
        ...


@runtime_checkable
class Broker(Protocol):
    """A broker's address, and the way to it."""

    @property
    def address(self) -> str:
        """Where it is, for logs: without a password."""
        ...

    async def open_listening(self) -> Listening:
        """Connect for listening: authenticated and answering commands. Raises BrokerError.

        The caller sets the deadline by cancelling; an attempt that is cancelled leaves nothing open.
        A server that is still loading, that accepts no writes (a replica) or refuses is reported as BrokerRefused.
        """
        ...

    async def open_publishing(self) -> Publishing:
        """Connect for publishing, as `open_listening` does."""
        ...

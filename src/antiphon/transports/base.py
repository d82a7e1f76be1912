"""The way from the hub to the sockets: transports, one per connection, and lanes, which write to many at once.

Everything here is called on the event loop's thread and never blocks or awaits, but for `Lane.room`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

from antiphon.errors import ConfigurationError
from antiphon.wire.frames import Frame, Policy

__all__ = ["Group", "Lane", "OnLost", "Receiver", "SendLimits", "Transport"]

OnLost: TypeAlias = Callable[[str], None]
"""Told at most once, with a reason (a counter's label), when a transport can carry nothing more.

"slow": cut off for not reading; "gone": the socket is lost; "error": the server's `send` failed; "closed": `close` is
done.
It is called from the event loop, never from inside a call of a transport, group or lane.
"""

Receiver: TypeAlias = Callable[[Mapping[str, object]], None]
"""Takes the ASGI events of an adopted socket: `websocket.receive`, and `websocket.disconnect` as the last one."""


@dataclass(frozen=True, slots=True)
class SendLimits:
    """How much may wait for one client before it is cut off."""

    queued_bytes: int = 1024 * 1024
    """Bytes of frames that wait for one connection; one more frame above it and the client is "slow"."""
    queued_age_s: float = 10.0
    """Seconds that the oldest waiting frame may be old."""
    droppable_bytes: int = 64 * 1024
    """Bytes of frames with a policy that wait for one connection; above it the oldest of them are dropped."""
    close_s: float = 1.0
    """Seconds that a close frame may take to leave before the connection is aborted."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"SendLimits.{field.name} must be a number above 0, not {value!r}")


class Transport(Protocol):
    """One accepted socket. Frames leave in the order of the calls, each whole, or not at all if the socket is lost."""

    @property
    def lane(self) -> Lane:
        """The lane that this socket belongs to."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait because the client does not read; 0 for one that keeps up."""
        ...

    def send(self, frame: Frame) -> None:
        """Queue one frame for this socket alone, behind what its groups were given before."""
        ...

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that is dropped, rather than the client, when it has to wait for too long."""
        ...

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        """Send what is queued, then a close frame; abort when that takes more than `SendLimits.close_s`. Idempotent.

        With `discard` only what has begun to leave is sent: what the server or the kernel took already.
        """
        ...

    def adopt(self, receiver: Receiver) -> bool:
        """Read the socket for the application, whose coroutine may then end; what arrives goes to `receiver`, in order.

        Returns False, and does nothing, where the server needs the application's coroutine.
        """
        ...

    def limit_messages(self, limit_bytes: int) -> None:
        """Let the client's messages have so many bytes from now on, where the server can be told.

        A larger one is not kept, and ends the connection with 1009. What the server was told itself still holds.
        """
        ...

    def pause_reading(self) -> None:
        """Take nothing more from an adopted socket for now: the client has to wait. Idempotent."""
        ...

    def resume_reading(self) -> None:
        """Go on reading. Idempotent."""
        ...

    def detach(self) -> None:
        """Let go of the socket without closing it: the application goes on with it, or it is gone already. Idempotent.

        What was given before may still leave; `on_lost` is not told. Take it out of its groups as well.
        """
        ...


class Group(Protocol):
    """Some sockets of one lane that hear the same: all of a channel, of a topic, of a user."""

    def add(self, transport: Transport) -> None:
        """Add a socket of the same lane. What was delivered before does not reach it."""
        ...

    def discard(self, transport: Transport) -> None:
        """Remove a socket, if it is there. What was delivered before may still reach it."""
        ...

    def deliver(self, frame: Frame) -> None:
        """Queue one frame for every socket of the group."""
        ...

    def deliver_or_drop(self, frame: Frame, policy: Policy) -> None:
        """The same for a frame that may be dropped where it has to wait. It keeps its place among the others."""
        ...

    def __len__(self) -> int: ...


class Lane(Protocol):
    """The sockets of one manager that are written to in the same way.

    What one lane is given keeps its order on every socket; the writes of one turn of the event loop may be joined.
    """

    def group(self) -> Group:
        """A new, empty group."""
        ...

    @property
    def backlog_bytes(self) -> int:
        """Bytes of frames that were delivered and not yet handed to every socket; each counts once."""
        ...

    async def room(self) -> None:
        """For those who must not outrun the sockets: return at once while the backlog is small, else when it is.

        Small is up to 64 deliveries and 4 MiB, so that what is under way can be joined. A stuck client holds nobody.
        """
        ...

    def close(self) -> None:
        """End the lane's tasks and timers. The sockets stay open; what is queued for them is dropped. Idempotent."""
        ...

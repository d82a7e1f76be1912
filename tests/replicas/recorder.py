"""What was published and what arrived, written down as it happens, for the checker to compare afterwards.

All times are those of `time.monotonic()`, which is one clock for all processes of a machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

__all__ = ["Key", "Listener", "Receipt", "Recording", "Send"]


class Key(NamedTuple):
    """What identifies one publication to the harness, whatever id the library gave it."""

    publisher: str
    topic: str | None
    sequence: int


@dataclass(frozen=True, slots=True)
class Send:
    """One call of `broadcast()` and how it ended."""

    key: Key
    begun: float
    ended: float
    id: str | None = None
    scope: str | None = None
    queued: bool = False
    reason: str | None = None
    error: str | None = None
    users: frozenset[str] | None = None

    @property
    def took_s(self) -> float:
        return self.ended - self.begun


class Receipt(NamedTuple):
    """One message as one client got it."""

    key: Key
    at: float


@dataclass(slots=True)
class Listener:
    """One client: what it asked for, when it was there, and all that it got, in the order of arrival."""

    name: str
    replica: str
    topics: frozenset[str]
    user_id: str | None = None
    since: float = 0.0
    until: float = float("inf")
    receipts: list[Receipt] = field(default_factory=list)

    def expects(self, send: Send) -> bool:
        """Whether the publication was meant for this client, which was connected all the while."""
        if send.begun < self.since or send.ended > self.until:
            return False
        return self.hears(send)

    def hears(self, send: Send) -> bool:
        """Whether the publication was meant for this client, whenever it was sent."""
        if send.users is not None and self.user_id not in send.users:
            return False
        return send.key.topic is None or send.key.topic in self.topics


class Recording:
    """One test's publications and receipts."""

    def __init__(self) -> None:
        self.sends: dict[Key, Send] = {}
        self.listeners: list[Listener] = []

    def sent(self, sends: Iterable[Send]) -> None:
        """Add finished publications; the same key twice is an error of the test."""
        for send in sends:
            if send.key in self.sends:
                raise ValueError(f"{send.key} was recorded twice")
            self.sends[send.key] = send

    def listen(self, listener: Listener) -> Listener:
        """Add a client."""
        self.listeners.append(listener)
        return listener

    @property
    def last_arrival(self) -> float:
        """When the newest receipt of any client came; 0.0 when there was none."""
        return max((listener.receipts[-1].at for listener in self.listeners if listener.receipts), default=0.0)

    @property
    def deliveries(self) -> int:
        return sum(len(listener.receipts) for listener in self.listeners)

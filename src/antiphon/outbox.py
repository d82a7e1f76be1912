"""What waits for the broker to come back: a queue bounded in items, in bytes and in age."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from itertools import islice
from typing import Generic, NamedTuple, TypeVar

from antiphon.codes import Reason
from antiphon.errors import ConfigurationError

__all__ = ["ITEM_OVERHEAD_BYTES", "Outbox", "OutboxLimits"]

T = TypeVar("T")

ITEM_OVERHEAD_BYTES = 256
"""What each item counts in addition to its size, so that many small ones are bounded too."""


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """How much is kept for later while the broker is away. What is beyond it is dropped, oldest first, and counted."""

    messages: int = 1_000
    """Publications that wait at most; 0 keeps none."""
    bytes: int = 4 * 1024 * 1024
    """Bytes that they may have together, 256 for each included."""
    age_s: float = 60.0
    """Seconds that one may wait."""

    def __post_init__(self) -> None:
        if not all(isinstance(value, (int, float)) for value in (self.messages, self.bytes, self.age_s)):
            raise ConfigurationError(f"all values of OutboxLimits are numbers: {self}")
        if self.messages < 0 or self.bytes < 0 or not self.age_s >= 0:
            raise ConfigurationError(f"no value of OutboxLimits may be negative: {self}")


class _Entry(NamedTuple, Generic[T]):
    item: T
    size_bytes: int
    expires_at: float


class Outbox(Generic[T]):
    """A first-in-first-out queue that never refuses: it drops its oldest items, and hands them back to be counted.

    Every item that was put in leaves it exactly once: by `pop` or `remove`, or as dropped. Items are told apart by
    identity.
    """

    __slots__ = ("_entries", "_limits", "_size_bytes")

    def __init__(self, limits: OutboxLimits | None = None) -> None:
        self._limits = limits or OutboxLimits()
        self._entries: deque[_Entry[T]] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size_bytes(self) -> int:
        """Bytes of all items, with the overhead of each."""
        return self._size_bytes

    def put(self, item: T, *, size_bytes: int, now: float) -> list[tuple[T, Reason]]:
        """Append `item`; return what was dropped, oldest first: what is too old, and what had to make room.

        An item that is too large for the outbox is dropped itself and pushes nothing out.
        """
        limits = self._limits
        cost = size_bytes + ITEM_OVERHEAD_BYTES
        dropped = self.expire(now)
        if cost > limits.bytes or limits.messages == 0:
            dropped.append((item, Reason.OVERFLOW))
            return dropped
        while len(self._entries) >= limits.messages or self._size_bytes + cost > limits.bytes:
            dropped.append((self._take(), Reason.OVERFLOW))
        self._entries.append(_Entry(item, cost, now + limits.age_s))
        self._size_bytes += cost
        return dropped

    def expire(self, now: float) -> list[tuple[T, Reason]]:
        """Drop what has waited longer than allowed, and return it."""
        dropped: list[tuple[T, Reason]] = []
        while self._entries and self._entries[0].expires_at < now:
            dropped.append((self._take(), Reason.EXPIRED))
        return dropped

    def head(self, count: int) -> list[T]:
        """The oldest `count` items, oldest first; they stay in the outbox."""
        return [entry.item for entry in islice(self._entries, count)]

    def peek(self) -> T | None:
        """The oldest item, which stays in the outbox; None when it is empty."""
        return self._entries[0].item if self._entries else None

    def pop(self) -> T | None:
        """Take the oldest item out; None when it is empty."""
        return self._take() if self._entries else None

    def remove(self, item: T) -> bool:
        """Take this very item out; return False when it is not there (any more). Quick for items near the head."""
        for index, entry in enumerate(self._entries):
            if entry.item is item:
                del self._entries[index]
                self._size_bytes -= entry.size_bytes
                return True
        return False

    def _take(self) -> T:
        entry = self._entries.popleft()
        self._size_bytes -= entry.size_bytes
        return entry.item

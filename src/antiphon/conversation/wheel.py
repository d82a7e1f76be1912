"""One timer for all clients that are waited for."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["Member", "Wheel"]

SIZE = 64
SLICE = 512
"""Members that are visited between two turns of the event loop."""


class Member(Protocol):
    """What is visited when its time has come."""

    def visit(self, tick: int) -> int:
        """Do what is due, and return in how many ticks to come again, at most 63; 0 for never. Must not raise."""
        ...


class Wheel:
    """Visits its members when their time has come; belongs to the event loop of its first `add`.

    Time is counted in ticks, of `tick_s` each. A tick never makes up for others: time in which the event loop stood
    still is as if it had not been, so that nobody is taken for silent whose messages are only unread. A member takes
    eight bytes.
    """

    __slots__ = ("_at", "_count", "_left", "_slots", "_tick_s", "_timer", "tick")

    def __init__(self, *, tick_s: float = 1.0) -> None:
        self.tick = 1
        """The time, in ticks; never 0."""
        self._tick_s = tick_s
        self._slots: list[list[Member]] = [[] for _ in range(SIZE)]
        self._left: list[Member] = []
        """Those of this tick that are still to be visited."""
        self._count = 0
        self._at = 0.0
        self._timer: asyncio.Handle | None = None

    def add(self, member: Member, *, in_ticks: int) -> None:
        """Visit a member from then on, until it says never; the first time in so many ticks, from 1 to 63."""
        self._slots[(self.tick + in_ticks) % SIZE].append(member)
        self._count += 1
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._at = loop.time() + self._tick_s
            self._timer = loop.call_at(self._at, self._turn)

    def __len__(self) -> int:
        """Members, those included that have ended and were not visited since."""
        return self._count

    def close(self) -> None:
        """Visit nobody any more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._slots = [[] for _ in range(SIZE)]
        self._left = []
        self._count = 0

    def _turn(self) -> None:
        left = self._left
        if not left:
            self.tick += 1
            slot = self.tick % SIZE
            left, self._slots[slot] = self._slots[slot], []
        self._left = left
        tick = self.tick
        try:
            for _ in range(min(SLICE, len(left))):
                member = left.pop()
                ticks = member.visit(tick)
                if ticks:
                    self._slots[(tick + ticks) % SIZE].append(member)
                else:
                    self._count -= 1
        finally:  # one that raises all the same is not visited again, and stops nobody else
            self._set_timer()

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        if self._left:
            self._timer = loop.call_soon(self._turn)
        elif self._count > 0:
            now = loop.time()
            self._at += self._tick_s
            if self._at < now + self._tick_s / 2:
                self._at = now + self._tick_s
            self._timer = loop.call_at(self._at, self._turn)
        else:
            self._timer = None

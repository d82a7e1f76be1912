"""Memory of the publications that were seen, so that one that is sent again reaches clients once."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

from antiphon.errors import ConfigurationError

__all__ = ["Dedupe"]

_FORGET_PER_CALL = 4
"""Ids that one call forgets at most: more than it adds, few enough that a call after a quiet time is quick too."""


class Dedupe:
    """Remembers ids in the order of their arrival: at most `limit` of them, each for `age_s` or somewhat longer.

    What is beyond the limit pushes out the oldest, and `covers` tells. Not for use by several threads.
    """

    __slots__ = ("_age_s", "_clock", "_ids", "_limit", "_order", "_pushed_out_at", "_times")

    def __init__(
        self, limit: int = 65_536, age_s: float = 120.0, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if limit < 1 or not age_s > 0:
            raise ConfigurationError(
                f"Dedupe needs a limit of at least 1 and an age above 0, not {limit!r} and {age_s!r}"
            )
        self._limit = limit
        self._age_s = age_s
        self._clock = clock
        self._ids: set[str] = set()
        self._order: deque[str] = deque()
        self._times: deque[float] = deque()
        self._pushed_out_at = -math.inf
        """When the youngest id that had to make room was seen."""

    def first_time(self, id: str) -> bool:
        """Return whether `id` was not seen before, and remember it."""
        ids = self._ids
        if id in ids:
            return False
        now = self._clock()
        times = self._times
        if len(ids) >= self._limit:
            self._pushed_out_at = times.popleft()
            ids.remove(self._order.popleft())
        if times and times[0] < now - self._age_s:
            self._forget(now)
        ids.add(id)
        self._order.append(id)
        times.append(now)
        return True

    def covers(self, age_s: float) -> bool:
        """Return whether every id that was first seen within the last `age_s` seconds is still remembered.

        If not, whether a publication of that age was seen cannot be told. The time before this memory was made counts
        as covered: nothing was seen then.
        """
        return age_s <= self._age_s and self._clock() - age_s > self._pushed_out_at

    def __len__(self) -> int:
        return len(self._ids)

    def _forget(self, now: float) -> None:
        times = self._times
        for _ in range(_FORGET_PER_CALL):
            if not times or times[0] >= now - self._age_s:
                return
            times.popleft()
            self._ids.remove(self._order.popleft())

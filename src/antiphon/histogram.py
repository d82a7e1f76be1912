"""How measured values are distributed: fixed bounds and plain ints, cheap enough to be kept all the time."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from antiphon.errors import ConfigurationError

__all__ = ["SECONDS", "Histogram"]

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what should take milliseconds and must not take seconds."""


class Histogram:
    """Counts values by the first bound that is not below them. One `observe` takes about 0.2 µs.

    Not for use by several threads, but another thread may read it: it then sees a moment that is nearly right.
    """

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float] = SECONDS) -> None:
        if not bounds or any(high <= low for low, high in pairwise(bounds)):
            raise ConfigurationError(f"a histogram needs at least one bound, each above the one before: {bounds!r}")
        self._bounds = tuple(float(bound) for bound in bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value. Negative ones, as clocks that do not agree give, count as 0."""
        if value < 0.0:
            value = 0.0
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    @property
    def bounds(self) -> tuple[float, ...]:
        """The upper bounds; what is above the last one is counted too."""
        return self._bounds

    @property
    def counts(self) -> tuple[int, ...]:
        """How many values fell under each bound and above the one before; the last count is of those above all."""
        return tuple(self._counts)

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    @property
    def sum(self) -> float:
        """All values added up."""
        return self._sum

"""What a broker link remembers of itself beside its counters: the time in each state, and how quick it was."""

from __future__ import annotations

import time
from collections.abc import Callable

from antiphon.codes import State
from antiphon.histogram import SECONDS, Histogram

__all__ = ["SAMPLE_MASK", "LinkHistory"]

SAMPLE_MASK = 63
"""`if not counters.received & SAMPLE_MASK:` measures one publication in 64."""

RECOVER_BOUNDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)


class LinkHistory:
    """The past of one link, from its construction on. Told of each change of state, it adds up by itself."""

    __slots__ = ("_clock", "_entered_at", "_lost_at", "_seconds", "_state", "detect", "others", "own", "recover")

    def __init__(self, state: State, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._state = state
        self._entered_at = clock()
        self._seconds = dict.fromkeys(State, 0.0)
        self._lost_at: float | None = None
        self.detect = Histogram(SECONDS)
        """Seconds from the broker's last sign of life to the moment when the link was taken for lost."""
        self.recover = Histogram(RECOVER_BOUNDS)
        """Seconds from there until the link was up again: the outage itself and what was needed after it."""
        self.own = Histogram(SECONDS)
        """Seconds from `broadcast()` to the sockets of this replica, by way of the broker; one publication in 64."""
        self.others = Histogram(SECONDS)
        """The same for publications of other replicas, by the two replicas' clocks."""

    @property
    def state(self) -> State:
        """The state that was entered last."""
        return self._state

    @property
    def since_s(self) -> float:
        """For how long it has been in that state."""
        return max(0.0, self._clock() - self._entered_at)

    @property
    def seconds(self) -> dict[State, float]:
        """How long it has been in each state, the present one included."""
        return {**self._seconds, self._state: self._seconds[self._state] + self.since_s}

    def enter(self, state: State) -> None:
        """The link is in this state from now on. Entering the same state again changes nothing."""
        before = self._state
        if state is before:
            return
        now = self._clock()
        self._seconds[before] += max(0.0, now - self._entered_at)
        self._state, self._entered_at = state, now
        if state is State.DEGRADED and before in (State.UP, State.SUSPECT):
            self._lost_at = now
        elif state is State.UP and self._lost_at is not None:
            self.recover.observe(now - self._lost_at)
            self._lost_at = None

    def delivered(self, at_ms: int) -> None:
        """A publication of another replica reached the sockets; `at_ms` is when that replica made it, by its clock."""
        self.others.observe(time.time() - at_ms / 1000)

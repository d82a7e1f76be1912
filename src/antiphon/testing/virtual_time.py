"""Tests of time-outs, back-offs and ages in no time: a loop whose clock jumps when nothing is ready."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import TypeVar

__all__ = ["NothingHappens", "VirtualTimeLoop", "run"]

T = TypeVar("T")


class NothingHappens(RuntimeError):
    """Everything waits for something that no timer and no callback will bring about: the test would hang."""


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: says by how much time would have passed."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise NothingHappens("every task waits, and no timer is set")
        self.elapsed_s += timeout
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """A loop that starts at time 0 and never waits. Only for code that waits for timers and its own futures.

    Sockets are looked at, but never waited for: use real time with real servers.
    """

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.elapsed_s

    def stand_still(self, seconds: float) -> None:
        """Let time pass while nothing runs, as when a handler blocks the loop."""
        self._jumping.elapsed_s += seconds


def run(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine to its end in virtual time, as `asyncio.run` does in real time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)

"""How late the event loop is: what a handler that blocks does to all clients of the replica."""

from __future__ import annotations

import asyncio
import weakref
from typing import ClassVar

from antiphon.histogram import Histogram

__all__ = ["LoopLag"]

INTERVAL_S = 0.25
WINDOW_S = 60.0
BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class LoopLag:
    """Looks four times a second how much later than asked the event loop calls back. One for each loop, and no task.

    A loop that stood still is seen at the next look only, and it may have stopped right after the look before. So when
    a look comes more than one interval too late, the time since the look before is what counts: too much by a quarter
    of a second at most, and never too little. What blocks for less than an interval shows as how late the look was.
    """

    _of_loop: ClassVar[weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, LoopLag]] = weakref.WeakKeyDictionary()

    def __init__(self, *, interval_s: float = INTERVAL_S) -> None:
        self.seconds = Histogram(BOUNDS)
        self._interval_s = interval_s
        self._loop: weakref.ref[asyncio.AbstractEventLoop] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._looked_at = 0.0
        self._holders = 0
        self._window_began = 0.0
        self._worst_s = 0.0
        self._worst_before_s = 0.0

    @classmethod
    def acquire(cls) -> LoopLag:
        """The one of the running loop, which looks from now on. Each call is taken back by one `release`."""
        for reference in cls._of_loop.keyrefs():
            ended = reference()
            if ended is not None and ended.is_closed():
                cls._of_loop.pop(ended, None)  # its timer refers to it: it would stay for ever
        loop = asyncio.get_running_loop()
        lag = cls._of_loop.get(loop)
        if lag is None:
            lag = cls._of_loop[loop] = cls()
        lag._holders += 1
        lag.start()
        return lag

    def release(self) -> None:
        """Take one `acquire` back; after the last one nobody looks any more. Not on a closed loop's account."""
        self._holders -= 1
        if self._holders > 0:
            return
        self.stop()
        loop = self._loop() if self._loop is not None else None
        if loop is not None and self._of_loop.get(loop) is self:
            del self._of_loop[loop]

    def start(self) -> None:
        """Look from now on. Idempotent."""
        if self._timer is not None:
            return
        loop = asyncio.get_running_loop()
        self._loop = weakref.ref(loop)
        self._looked_at = self._window_began = loop.time()
        self._timer = loop.call_later(self._interval_s, self._look)

    def stop(self) -> None:
        """Look no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def late_s(self) -> float:
        """How late the look that is due is at this moment; 0 when it is not due yet."""
        loop = self._loop() if self._loop is not None else None
        if self._timer is None or loop is None or loop.is_closed():
            return 0.0
        return self._lag(loop.time() - self._looked_at)

    @property
    def worst_s(self) -> float:
        """The worst of the last one to two minutes, the look that is due included."""
        return max(self._worst_s, self._worst_before_s, self.late_s)

    def _lag(self, since_look_s: float) -> float:
        late_s = max(0.0, since_look_s - self._interval_s)
        return since_look_s if late_s > self._interval_s else late_s

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        lag_s = self._lag(now - self._looked_at)
        self.seconds.observe(lag_s)
        if now - self._window_began >= WINDOW_S:
            self._window_began = now
            self._worst_before_s, self._worst_s = self._worst_s, 0.0
        self._worst_s = max(self._worst_s, lag_s)
        self._looked_at = now
        self._timer = loop.call_later(self._interval_s, self._look)

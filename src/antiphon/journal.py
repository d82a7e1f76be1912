"""The library's log: logger `antiphon`, silent until the application configures logging; no line floods it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

__all__ = ["Journal", "logger"]

logger = logging.getLogger("antiphon")
logger.addHandler(logging.NullHandler())


class Journal:
    """Writes a line of one kind at most once every `every_s`, and then says how many it kept back."""

    __slots__ = ("_clock", "_every_s", "_held", "_last")

    def __init__(self, *, every_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._every_s = every_s
        self._clock = clock
        self._last: dict[str, float] = {}
        self._held: dict[str, int] = {}

    def warning(self, kind: str, message: str, *arguments: object, error: BaseException | None = None) -> bool:
        """Log a warning; `kind` is one of a few fixed words, and what counts as the same line. False: kept back."""
        return self._log(logging.WARNING, kind, message, arguments, error)

    def info(self, kind: str, message: str, *arguments: object) -> bool:
        """Log what is good to know, in the same way."""
        return self._log(logging.INFO, kind, message, arguments, None)

    def _log(
        self, level: int, kind: str, message: str, arguments: tuple[object, ...], error: BaseException | None
    ) -> bool:
        now = self._clock()
        last = self._last.get(kind)
        if last is not None and now - last < self._every_s:
            self._held[kind] = self._held.get(kind, 0) + 1
            return False
        self._last[kind] = now
        held = self._held.pop(kind, 0)
        more = f" ({held} more of these since the last line)" if held else ""
        logger.log(level, "%s%s", message % arguments if arguments else message, more, exc_info=error)
        return True

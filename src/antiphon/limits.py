"""Allowances: how much one publication, connection or user may take. On by default, and wide enough for honest use."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields

from antiphon.errors import ConfigurationError

__all__ = ["Limits", "TokenBucket"]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a manager allows. Use the same values on every replica. Raises ConfigurationError for values below 1."""

    message_bytes: int = 256 * 1024
    """Bytes of one encoded message; a larger one raises MessageTooLarge and goes nowhere."""
    topics_per_connection: int = 128
    """Topics that one connection may listen to."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if type(value) is not int or value < 1:
                raise ConfigurationError(f"Limits.{field.name} must be an int of at least 1, not {value!r}")


class TokenBucket:
    """An allowance of `rate_per_s` on average that may be saved up to `burst`. It starts full.

    Not for use by several threads.
    """

    __slots__ = ("_at", "_burst", "_clock", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, burst: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        if not rate_per_s > 0 or not burst >= 1:
            raise ConfigurationError(
                f"a token bucket needs a rate above 0 and a burst of at least 1, not {rate_per_s!r} and {burst!r}"
            )
        self._rate_per_s = rate_per_s
        self._burst = burst
        self._clock = clock
        self._tokens = float(burst)
        self._at = clock()

    def take(self, n: float = 1) -> bool:
        """Take `n` from the allowance and return True; when there is less, take nothing and return False."""
        now = self._clock()
        if now > self._at:
            self._tokens = min(self._burst, self._tokens + (now - self._at) * self._rate_per_s)
            self._at = now
        if self._tokens < n:
            return False
        self._tokens -= n
        return True

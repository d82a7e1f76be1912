"""When each socket is closed: spread so evenly that the replicas which take the clients over see no rush."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Mapping

from antiphon.errors import ConfigurationError

__all__ = ["PER_S", "WINDOW_S", "moments", "read_window", "seconds", "window_for"]

WINDOW_S = 20.0
PER_S = 25.0
"""Sockets that may be closed in a second before the window is made longer."""

VARIABLE = "ANTIPHON_DRAIN_S"


def read_window(window_s: float | None, environ: Mapping[str, str] | None = None) -> float:
    """The longest window in seconds: `window_s`, else `ANTIPHON_DRAIN_S`, else 20.

    Raises ConfigurationError for what is no number of at least 0.
    """
    if window_s is not None:
        return seconds(window_s, name="window_s")
    return seconds((os.environ if environ is None else environ).get(VARIABLE, "").strip() or WINDOW_S, name=VARIABLE)


def seconds(given: object, *, name: str) -> float:
    """A number of seconds, 0 or more. Raises ConfigurationError for anything else."""
    found = math.nan
    if isinstance(given, (int, float, str)) and not isinstance(given, bool):
        try:
            found = float(given)
        except ValueError:
            pass
    if not 0 <= found < math.inf:
        raise ConfigurationError(f"{name}={given!r}: give a number of seconds, 0 or more, such as 20")
    return found


def window_for(count: int, *, longest_s: float) -> float:
    """How long it takes to close so many sockets: at most `longest_s`, and less when they are few.

    From a second on it is a number of whole ones, so that the last second has as many as the others.
    """
    wanted_s = count / PER_S
    return min(longest_s, wanted_s if wanted_s <= 1.0 else float(math.ceil(wanted_s)))


def moments(count: int, *, window_s: float, rng: random.Random) -> list[float]:
    """Seconds from now at which sockets are closed, in order: one at random in each of `count` equal parts."""
    part_s = window_s / count if count else 0.0
    return [(number + rng.random()) * part_s for number in range(count)]

"""This process among the replicas: its name, and since when it runs."""

from __future__ import annotations

import os
import secrets
import time
from functools import lru_cache

from encore.settings import read_settings

__all__ = ["STARTED_AT", "replica_name", "uptime_s"]

STARTED_AT = time.time()
_started_s = time.monotonic()


@lru_cache(maxsize=1)
def replica_name() -> str:
    """`ENCORE_REPLICA`; under `antiphon dev` its number there; else a short random name."""
    number = os.environ.get("ANTIPHON_REPLICA", "")
    return read_settings().replica or (f"r{number}" if number.isdecimal() else f"r-{secrets.token_hex(3)}")


def uptime_s() -> float:
    """Seconds since this module was imported, which is as good as since the start."""
    return time.monotonic() - _started_s

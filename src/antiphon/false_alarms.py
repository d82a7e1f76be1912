"""A log line of servers that is wrong about handshakes which this library has refused."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Final

__all__ = ["refused_with_status"]

_LOGGERS: Final = ("uvicorn.error",)
_FALSE: Final = "ASGI callable returned without completing handshake."
"""uvicorn says so of each handshake that was answered with a status, at the level of errors: it knows of no answers but
`accept` and `close`. Whoever is over a quota could write as many lines as they like.
"""

_was_refused: ContextVar[bool] = ContextVar("antiphon_refused_with_status", default=False)
"""Whether the handshake of the running task was refused so: servers run each in a task of its own."""


class _FalseAlarms(logging.Filter):
    """Drops that line where it is wrong, and no other."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.msg == _FALSE and _was_refused.get())


_filter = _FalseAlarms()


def refused_with_status() -> None:
    """The handshake of this task is refused with a status of its own: let the server not call that an error.

    Idempotent; it looks each time, since logging may have been configured anew.
    """
    _was_refused.set(True)
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if _filter not in logger.filters:
            logger.addFilter(_filter)

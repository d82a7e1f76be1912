"""What a test sets up for logging is taken back behind it: the whole process has only one configuration."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

__all__ = ["logging_kept"]


@contextmanager
def logging_kept() -> Iterator[None]:
    """Behind the block all loggers are as they were before it, but for filters: those that mask secrets stay."""
    before = {logger: _Kept(logger) for logger in _loggers()}
    try:
        yield
    finally:
        for logger in _loggers():
            kept = before.get(logger)
            logger.handlers = [] if kept is None else kept.handlers
            logger.propagate = True if kept is None else kept.propagate
            logger.disabled = False if kept is None else kept.disabled
            level = logging.NOTSET if kept is None else kept.level
            if logger.level != level:  # each time costs a look at all loggers there are
                logger.setLevel(level)
        structlog.reset_defaults()


class _Kept:
    def __init__(self, logger: logging.Logger) -> None:
        self.handlers = list(logger.handlers)
        self.level = logger.level
        self.propagate = logger.propagate
        self.disabled = logger.disabled


def _loggers() -> list[logging.Logger]:
    named = [each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    return [logging.getLogger(), *named]

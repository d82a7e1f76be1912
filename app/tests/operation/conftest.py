"""For the tests of operation: what they change of the whole process is put back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest
import structlog

from encore.operation.logs import SERVERS
from encore.settings import read_settings
from harness.site import NOT_OURS


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """An environment without settings of ours; `setenv` sets some, before they are first read."""
    for name in os.environ:
        if name.startswith(NOT_OURS):
            monkeypatch.delenv(name)
    read_settings.cache_clear()
    yield monkeypatch
    read_settings.cache_clear()


@pytest.fixture
def logs() -> Iterator[None]:
    """Logging as it was, afterwards."""
    loggers = [logging.getLogger(name) for name in ("", *SERVERS)]
    before = [(one, list(one.handlers), one.level, one.propagate) for one in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate = propagate
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()

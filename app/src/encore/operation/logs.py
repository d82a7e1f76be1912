"""The log: one line an event with its request, replica and user; JSON in production, for people elsewhere.

Everything goes through the standard library's `logging`, so features and libraries need to know nothing of this.
"""

from __future__ import annotations

import logging
import sys
from typing import TextIO

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

import antiphon
from encore.operation.replica import replica_name
from encore.settings import Settings

__all__ = ["configure_logging"]

NAME = "encore"
SERVERS = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "antiphon")
QUIET = ("alembic", "aiosqlite", "asyncio", "multipart", "python_multipart")


class _ToStandardError(logging.StreamHandler[TextIO]):
    """Looks standard error up for each line: who replaces it, as tests do, gets what is written from then on."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.name = NAME

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        raise AttributeError("it is always sys.stderr")


_secrets = antiphon.hide_secrets()


def configure_logging(settings: Settings) -> None:
    """Let all log lines of this process go to standard error in one form. Idempotent.

    What servers set up for themselves is taken away, so that each access is logged once. Secrets are masked in every
    line, whoever writes it.
    """
    handler = _ToStandardError()
    handler.setFormatter(_formatter(settings))
    handler.addFilter(_mask_record)
    root = logging.getLogger()
    for old in [old for old in root.handlers if old.name == NAME]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(settings.log_level.upper())
    for name in SERVERS:
        logger = logging.getLogger(name)
        for old in list(logger.handlers):
            if not isinstance(old, logging.NullHandler):
                logger.removeHandler(old)
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    for name in QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        processors=[
            *_shared(),
            structlog.processors.format_exc_info,
            _mask_event,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )


def _mask_record(record: logging.LogRecord) -> bool:
    """Those of structlog hold a dict, which `_mask_event` looks at."""
    return isinstance(record.msg, dict) or _secrets.filter(record)


def _mask_event(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str):
            record = logging.LogRecord("", logging.INFO, "", 0, value, (), None)
            _secrets.filter(record)
            event[name] = record.getMessage()
    return event


def _formatter(settings: Settings) -> logging.Formatter:
    ends: list[Processor]
    if settings.mode == "production":
        ends = [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    else:
        ends = [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                timestamp_key="time",
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[*_shared(), _keep_masked],
        pass_foreign_args=True,
        processors=[_take_access_apart, structlog.stdlib.ProcessorFormatter.remove_processors_meta, *ends],
    )


def _shared() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        _add_replica,
    ]


def _add_replica(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    event["replica"] = replica_name()
    return event


def _keep_masked(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """A traceback that held a secret is there as masked text only."""
    record = event.get("_record")
    if isinstance(record, logging.LogRecord) and record.exc_text and not record.exc_info:
        event["exception"] = record.exc_text
    return event


def _take_access_apart(logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """uvicorn's access line as fields: what was asked, by whom, and the status."""
    args = event.pop("positional_args", ())
    if event.get("logger") == "uvicorn.access" and isinstance(args, tuple) and len(args) == 5:
        client, verb, path, _, status = args
        event["event"] = f"{verb} {path}"
        event["client"] = str(client)
        event["status"] = int(str(status))
    return event

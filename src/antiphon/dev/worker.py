"""The process of one replica: `python -m antiphon.dev.worker`, started by `antiphon dev` and by tests.

It serves the application with uvicorn on 127.0.0.1, and tells its parent when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import importlib
import logging
import os
import socket
import sys
from collections.abc import Sequence
from typing import Any, Final

import uvicorn
from uvicorn.config import LOGGING_CONFIG, STARTUP_FAILURE

from antiphon.dev.ports import HOST
from antiphon.errors import ConfigurationError
from antiphon.serving import PROTOCOL, WS_MAX_SIZE

__all__ = ["main"]

GRACE_S: Final = 3

# What uvicorn says at each start and end; its parent says it once, in one line.
ROUTINE: Final = (
    "Started server process",
    "Waiting for application st",
    "Application startup complete",
    "Uvicorn running on",
    "Shutting down",
    "Waiting for application shutdown",
    "Application shutdown complete",
    "Finished server process",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT. Ends with uvicorn's code 3 when the application does not start."""
    options = _parse(arguments)
    if options.app_dir not in sys.path:
        sys.path.insert(0, options.app_dir)
    logging.getLogger("uvicorn.error").addFilter(_is_no_routine)
    config = uvicorn.Config(
        options.app,
        host=HOST,
        port=options.port,
        ws=_protocol(),
        ws_max_size=WS_MAX_SIZE,
        log_config=_log_config(),
        use_colors=options.colors,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
        workers=1,
    )
    server = _ReportingServer(config, ready_fd=options.ready_fd)
    try:
        server.run()
    except KeyboardInterrupt:
        pass
    return 0 if server.started else STARTUP_FAILURE


class _ReportingServer(uvicorn.Server):
    """Writes one byte to `ready_fd` once it accepts connections."""

    def __init__(self, config: uvicorn.Config, *, ready_fd: int | None) -> None:
        super().__init__(config)
        self._ready_fd = ready_fd

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        if self.started and self._ready_fd is not None:
            asyncio.get_running_loop().call_soon(self._report, self._ready_fd)
            self._ready_fd = None

    @staticmethod
    def _report(ready_fd: int) -> None:
        try:
            os.write(ready_fd, b"1")
            os.close(ready_fd)
        except OSError:  # the parent is gone
            pass


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="antiphon.dev.worker", description="One replica of `antiphon dev`.")
    parser.add_argument("app", help="module:attribute")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--app-dir", default=".")
    parser.add_argument("--colors", action="store_true")
    parser.add_argument("--ready-fd", type=int, default=None)
    return parser.parse_args(arguments)


def _protocol() -> str:
    """The library's own WebSocket protocol class, or uvicorn's choice when it cannot be loaded here."""
    try:
        importlib.import_module(PROTOCOL.partition(":")[0])
    except ImportError:  # `websockets` is not there: uvicorn says what that means
        return "auto"
    except ConfigurationError as error:  # another uvicorn
        logging.getLogger("uvicorn.error").warning("%s", error)
        return "auto"
    return PROTOCOL


def _log_config() -> dict[str, Any]:
    """uvicorn's, with the library's own logger beside it."""
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["loggers"]["antiphon"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    return config


def _is_no_routine(record: logging.LogRecord) -> bool:
    return record.levelno > logging.INFO or not str(record.msg).startswith(ROUTINE)


if __name__ == "__main__":
    sys.exit(main())

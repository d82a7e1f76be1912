"""What is counted of the site itself, beside what the library counts of its channels."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from typing import Any

from sqlalchemy.pool import QueuePool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from encore.db import Database
from encore.operation.replica import STARTED_AT

__all__ = ["CountRequests", "render"]

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_requests: Counter[tuple[str, str]] = Counter()
_seconds: defaultdict[str, float] = defaultdict(float)


class CountRequests:
    """Middleware: counts requests and their time, by method and kind of status; nothing of the path becomes a label."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "other"
        started_s, status = time.perf_counter(), 500

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sending)
        finally:
            _requests[method, f"{status // 100}xx"] += 1
            _seconds[method] += time.perf_counter() - started_s


def render(database: Database) -> str:
    """The site's own metrics as text for Prometheus."""
    lines = [
        "# HELP encore_start_time_seconds when this replica started, as a Unix time",
        "# TYPE encore_start_time_seconds gauge",
        f"encore_start_time_seconds {STARTED_AT}",
        "# HELP encore_http_requests_total requests that were answered",
        "# TYPE encore_http_requests_total counter",
    ]
    lines += [
        f'encore_http_requests_total{{method="{method}",status="{status}"}} {count}'
        for (method, status), count in sorted(_requests.items())
    ]
    lines += [
        "# HELP encore_http_request_seconds_total time that they took, until the end of the answer",
        "# TYPE encore_http_request_seconds_total counter",
    ]
    lines += [f'encore_http_request_seconds_total{{method="{method}"}} {spent}' for method, spent in _seconds.items()]
    pool: Any = database.engine.pool
    if isinstance(pool, QueuePool):
        lines += [
            "# HELP encore_database_connections connections to the database in use",
            "# TYPE encore_database_connections gauge",
            f"encore_database_connections {pool.checkedout()}",
        ]
    return "\n".join([*lines, ""])

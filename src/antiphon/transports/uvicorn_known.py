"""Whether the installed uvicorn is one that the library's protocol class knows.

That class does not call the constructor of uvicorn's own, which would cost each connection several KiB: it has to know
every attribute that is set there. A release that sets another one is refused when the server starts, and not with an
AttributeError at the first connection that needs it.
"""

from __future__ import annotations

import dis
from collections.abc import Callable, Collection
from importlib.metadata import version
from typing import Final

from antiphon.errors import ConfigurationError

__all__ = ["BASE_ATTRIBUTES", "attributes_set_by", "check_uvicorn"]

BASE_ATTRIBUTES: Final = frozenset(
    {
        "app",
        "app_state",
        "asgi_version",
        "client",
        "close_sent",
        "close_timeout",
        "close_timer",
        "config",
        "conn",
        "connections",
        "curr_msg_data_type",
        "default_headers",
        "disconnected",
        "frames",
        "handshake_complete",
        "handshake_initiated",
        "initial_response",
        "last_ping_rtt",
        "logger",
        "loop",
        "pending_ping_payload",
        "ping_interval",
        "ping_sent_at",
        "ping_timeout",
        "ping_timer",
        "pong_timer",
        "queue",
        "read_paused",
        "root_path",
        "scheme",
        "server",
        "tasks",
        "transport",
        "writable",
    }
)
"""What uvicorn's constructor sets, in the releases that the library was tried with."""


def attributes_set_by(constructor: Callable[..., object]) -> frozenset[str]:
    """The attributes that a constructor sets, as its code says; none where it has no code to look at."""
    code = getattr(constructor, "__code__", None)
    if code is None:
        return frozenset()
    return frozenset(step.argval for step in dis.get_instructions(code) if step.opname == "STORE_ATTR")


def check_uvicorn(base: type, *, known: Collection[str] = BASE_ATTRIBUTES) -> None:
    """Raise ConfigurationError, naming the fix, when uvicorn's protocol class has attributes that nobody here knows."""
    new = attributes_set_by(base.__dict__["__init__"]) - set(known)
    if new:
        raise ConfigurationError(
            f"uvicorn {version('uvicorn')} is not known to this release of antiphon (its WebSocket protocol has "
            f"{', '.join(sorted(new))}): update antiphon, install an earlier uvicorn, or serve without the library's "
            "protocol class: `uvicorn app:app`, and antiphon.install(app) in the application"
        )

"""Free ports on this machine, chosen where no outgoing connection can take them."""

from __future__ import annotations

import errno
import random
import socket

from antiphon.errors import ConfigurationError

__all__ = ["HOST", "free_port", "is_free"]

HOST = "127.0.0.1"

# Below the ranges from which Linux (32768 and up) and macOS (49152 and up) give source ports to outgoing connections:
# there, a client that keeps dialling a stopped server's port sooner or later takes it itself, or connects to itself.
LOWEST_PORT = 20_000
HIGHEST_PORT = 32_000
ATTEMPTS = 200

# Not the shared generator of `random`: test runners seed it, and all their processes would choose the same ports.
_chance = random.SystemRandom()


def is_free(port: int, *, host: str = HOST) -> bool:
    """Whether a server could listen on `port` right now. Another process may take it a moment later."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def free_port(*, host: str = HOST, following: int = 0) -> int:
    """A port that nobody listens on, with `following` more free ones right after it.

    Raises `ConfigurationError` when 200 attempts found none.
    """
    for _ in range(ATTEMPTS):
        port = _chance.randrange(LOWEST_PORT, HIGHEST_PORT - following)
        if all(is_free(port + step, host=host) for step in range(following + 1)):
            return port
    raise ConfigurationError(f"no free port between {LOWEST_PORT} and {HIGHEST_PORT} on {host}: choose one yourself")

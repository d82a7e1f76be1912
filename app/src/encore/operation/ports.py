"""Whether a server can listen where it is told to."""

from __future__ import annotations

import socket

__all__ = ["PortTaken", "check_port"]


class PortTaken(Exception):
    """Nothing can listen there. The text says why."""


def check_port(host: str, port: int) -> None:
    """Raises PortTaken for a port that is in use or not allowed, and for an address that this machine has not.

    Another process may take it a moment later.
    """
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[
            0
        ]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise PortTaken(f"{host!r} is no address of this machine: pass another --host") from error
    except OSError as error:
        what = error.strerror or str(error)
        raise PortTaken(
            f"cannot listen on {host} port {port} ({what}): stop what listens there, or pass another --port"
        ) from error

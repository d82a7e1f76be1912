"""Whether a client that is behind takes anything at all."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Final

if sys.platform != "win32":
    import fcntl
    import termios

__all__ = ["unsent_bytes"]

_UNKNOWN: Final = -1


def unsent_bytes(transport: asyncio.Transport) -> tuple[int, int]:
    """Bytes that the event loop holds for a client, and that the kernel holds, -1 where it does not say.

    The kernel's count is needed: it tells the event loop that there is room only when half of what it holds has left,
    which a slow client may take minutes for.
    """
    return transport.get_write_buffer_size(), _in_kernel(transport.get_extra_info("socket"))


def _in_kernel(peer: socket.socket | None) -> int:
    if peer is None or sys.platform == "win32":
        return _UNKNOWN
    try:
        answer = fcntl.ioctl(peer.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return _UNKNOWN
    return int(struct.unpack("i", answer)[0])

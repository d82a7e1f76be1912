"""What the tests here need to know about processes, ports and waiting."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

DEADLINE_S = 30.0
POLL_S = 0.02


def wait_until(condition: Callable[[], object], *, what: str, deadline_s: float = DEADLINE_S) -> None:
    """Look again and again; fail, saying `what` never came true, after the deadline."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not in {deadline_s:.0f} s: {what}"
        time.sleep(POLL_S)


def is_gone(pid: int) -> bool:
    """Whether the process ended. One that nobody has asked about yet (a zombie) counts: it holds nothing any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except FileNotFoundError:
        return Path("/proc/self/stat").exists()


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S).close()
    except OSError:
        return False
    return True


def ask(port: int, *words: str) -> str:
    """One command to a broker in its own protocol, and the start of the answer."""
    parts = [word.encode() for word in words]
    command = b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as connection:
        connection.sendall(command)
        return connection.recv(65_536).decode()

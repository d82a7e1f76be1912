"""Single keys from the terminal, which is given back as it was found on every way out."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING or sys.platform != "win32":
    import termios

__all__ = ["Keyboard"]


class Keyboard:
    """Calls `on_key` for each key, without Enter and without echo, while the command is in the foreground.

    Ctrl-C and Ctrl-Z stay signals. After Ctrl-Z the terminal is as it was, and `fg` takes it again.
    """

    def __init__(self, on_key: Callable[[str], None]) -> None:
        self._on_key = on_key
        self._fd = sys.stdin.fileno() if sys.stdin is not None else -1
        self._before: list[int | list[bytes | int]] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @staticmethod
    def is_possible() -> bool:
        """Whether keys can be read: a terminal on both sides, on a system that has `termios`."""
        try:
            return sys.platform != "win32" and sys.stdin.isatty() and sys.stdout.isatty()
        except (AttributeError, ValueError):  # no stdin at all, or a closed one
            return False

    def open(self) -> None:
        """Take the terminal."""
        self._loop = asyncio.get_running_loop()
        self._loop.add_signal_handler(signal.SIGTSTP, self._pause)
        self._loop.add_signal_handler(signal.SIGCONT, self._resume)
        atexit.register(self._give_back)
        self._resume()

    def close(self) -> None:
        """Give the terminal back. More calls do nothing."""
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_signal_handler(signal.SIGTSTP)
            self._loop.remove_signal_handler(signal.SIGCONT)
            self._loop = None
        self._give_back()
        atexit.unregister(self._give_back)

    def _is_in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._fd) == os.getpgrp()
        except OSError:
            return False

    def _resume(self) -> None:
        """Also at SIGCONT. In the background the terminal is the shell's: touching it would stop this process."""
        if self._loop is None or not self._is_in_foreground():
            return
        with contextlib.suppress(termios.error):
            if self._before is None:
                self._before = termios.tcgetattr(self._fd)
            now = termios.tcgetattr(self._fd)
            now[3] &= ~(termios.ICANON | termios.ECHO)
            now[6][termios.VMIN], now[6][termios.VTIME] = 1, 0
            termios.tcsetattr(self._fd, termios.TCSADRAIN, now)
            self._loop.add_reader(self._fd, self._read)

    def _pause(self) -> None:
        if self._loop is None:
            return
        self._loop.remove_reader(self._fd)
        self._give_back()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _give_back(self) -> None:
        if self._before is None:
            return
        if self._is_in_foreground():
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
        self._before = None

    def _read(self) -> None:
        if self._loop is None:
            return
        if not self._is_in_foreground():
            self._loop.remove_reader(self._fd)
            return
        try:
            keys = os.read(self._fd, 64)
        except OSError:
            keys = b""
        if not keys:
            self._loop.remove_reader(self._fd)
        elif not keys.startswith(b"\x1b"):  # an arrow or a function key sends several bytes, among them letters
            for key in keys.decode(errors="ignore"):
                self._on_key(key)

"""A drain before the server's own end: the library's handler in front of the one that is there.

uvicorn closes every socket in the moment in which it is told to end, before the application hears of it. So the signal
is held back while the clients are sent away, and then handed on. A second signal is handed on at once; only in a worker
process one that follows at once is taken for its parent's repetition of the first.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol, TypeAlias

from antiphon.drain.sequence import Drain, DrainReport
from antiphon.journal import logger

__all__ = ["SignalChain", "drains_on_signals", "install_signals", "restore_signals"]

Handler: TypeAlias = Callable[[int, FrameType | None], object]

REPEAT_S = 2.0
"""So soon a parent process repeats to its workers a signal that the whole group was sent."""

_OF_LOOPS = ("asyncio.unix_events", "uvloop")
"""Stand-ins that event loops install for `loop.add_signal_handler`; the real handler is called by the loop itself."""


class SignalChain:
    """Stands before the handlers of SIGTERM and SIGINT from `install` to `restore`.

    Only before handlers that a server or the application has installed: where a signal is ignored, ends the process or
    raises KeyboardInterrupt, it goes on to do so. A handler that is installed later takes the place of this one, and
    stays.
    """

    def __init__(self) -> None:
        self._drain: Drain | None = None
        self._loop = asyncio.get_running_loop()
        self._previous: dict[int, Handler] = {}
        self._first: int | None = None
        self._first_at = 0.0
        self._may_be_repeated = _is_worker()
        self._handed_on = False
        self._retired = False

    def install(self, *, before_uvicorn_only: bool = False) -> bool:
        """Stand before what is there. False when there is nothing to stand before, or not on the main thread."""
        if threading.current_thread() is not threading.main_thread():
            return False
        for number in (signal.SIGTERM, signal.SIGINT):
            handler = signal.getsignal(number)
            if not callable(handler) or handler is signal.default_int_handler or _is_of_a_loop(handler):
                continue
            if before_uvicorn_only and _uvicorn_of(handler) is None:
                continue
            self._previous[number] = handler
            signal.signal(number, self._on_signal)
        return bool(self._previous)

    def stands(self) -> bool:
        """Whether it would be called: nobody has installed another handler since, and the event loop still runs."""
        return not self._loop.is_closed() and any(
            signal.getsignal(number) == self._on_signal for number in self._previous
        )

    def restore(self) -> None:
        """Put back what was there, unless somebody else has taken the place; who calls this one from there still gets
        through. Idempotent.
        """
        self._retired = True
        if threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._on_signal:
                signal.signal(number, handler)

    # -- signals -------------------------------------------------------------------------------------------------

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        """Called by Python between any two instructions of the main thread."""
        if not self._retired and self._first is None and not self._loop.is_closed():
            self._first, self._first_at = number, time.monotonic()
            # Not call_soon: the loop may be asleep.
            self._loop.call_soon_threadsafe(self._begin)
            return
        if not self._handed_on and not self._retired and not self._loop.is_closed():
            if self._may_be_repeated and time.monotonic() - self._first_at < REPEAT_S:
                self._may_be_repeated = False
                return
            self._handed_on = True
            self._loop.call_soon_threadsafe(self._cut_short)
        self._previous[number](number, frame)

    def _begin(self) -> None:
        if self._handed_on:
            return
        try:
            self._drain = Drain.current()
            self._drain.begin().add_done_callback(self._on_done)
        except Exception as error:
            logger.warning("draining failed by a defect of this library: the server ends at once", exc_info=error)
            self._hand_on()

    def _cut_short(self) -> None:
        if self._drain is not None:
            self._drain.cut_short()

    def _on_done(self, task: asyncio.Task[DrainReport]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.warning("draining failed by a defect of this library: the server ends now", exc_info=error)
        self._hand_on()

    def _hand_on(self) -> None:
        number = self._first
        if self._handed_on or number is None:
            return
        self._handed_on = True
        handler = self._previous[number]
        server = _uvicorn_of(handler)
        if server is not None:
            # Not by its handler: it would raise the signal once more at its end, and the process had no exit code 0.
            server.should_exit = True
        else:
            handler(number, None)


def _is_worker() -> bool:
    """Whether a parent process looks after this one, as with `uvicorn --workers`, and hands signals on to it."""
    processes = sys.modules.get("multiprocessing.process")  # a worker has it
    return processes is not None and processes.parent_process() is not None


def _is_of_a_loop(handler: Handler) -> bool:
    return str(getattr(handler, "__module__", "")).startswith(_OF_LOOPS)


class _Uvicorn(Protocol):
    should_exit: bool


def _uvicorn_of(handler: Handler) -> _Uvicorn | None:
    """The server whose handler this is, if it is uvicorn's."""
    server: _Uvicorn | None = getattr(handler, "__self__", None)
    origin = getattr(getattr(handler, "__func__", None), "__module__", None)
    return server if origin == "uvicorn.server" and hasattr(server, "should_exit") else None


_chain: SignalChain | None = None


def install_signals(*, before_uvicorn_only: bool = False) -> bool:
    """Drain from now on when the process is told to end. Call it on the server's event loop. Idempotent.

    With `before_uvicorn_only` it leaves alone whatever handler is not uvicorn's: for calls that nobody asked for.
    Returns whether it does: not on another thread than the main one, nor without a server's handler of SIGTERM or
    SIGINT (hypercorn and granian let the event loop handle them: use the pre-stop hook there).
    """
    global _chain
    if _chain is not None:
        if _chain.stands():
            return True
        _chain.restore()
        _chain = None
    chain = SignalChain()
    if not chain.install(before_uvicorn_only=before_uvicorn_only):
        return False
    Drain.current().rearm()
    _chain = chain
    return True


def restore_signals() -> None:
    """Undo it: put back the handlers that were there. Idempotent."""
    global _chain
    chain, _chain = _chain, None
    if chain is not None:
        chain.restore()


@contextmanager
def drains_on_signals() -> Generator[bool]:
    """`install_signals`, and `restore_signals` at the end."""
    installed = install_signals()
    try:
        yield installed
    finally:
        if installed:
            restore_signals()

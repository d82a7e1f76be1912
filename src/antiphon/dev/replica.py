"""One replica of `antiphon dev`: a server process that is started, watched, killed and started again."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

from antiphon.dev.guard import Guard
from antiphon.dev.screen import Screen

__all__ = ["Replica", "ReplicaState", "WorkerOptions"]

BACKOFF_S: Final = (0.5, 1.0, 2.0, 4.0, 8.0)
STEADY_S: Final = 10.0
STOP_TIMEOUT_S: Final = 6.0
OUTPUT_TIMEOUT_S: Final = 1.0
HELD_LINES: Final = 1_000
LINE_BYTES: Final = 65_536


class ReplicaState(Enum):
    """Where a replica stands. The value is what people read."""

    STARTING = "starting"
    UP = "up"
    KILLED = "killed"
    WAITING = "ended, starts again"
    STOPPED = "stopped"


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerOptions:
    """What all replicas have in common."""

    app: str
    app_dir: str
    colors: bool
    environment: Mapping[str, str]


class Replica:
    """Keeps one server process running on one port: one that ends by itself is reported and comes back, with back-off.

    One that was never up does not come back: `outcome` is false then, and `run` returns.
    `run` does the work until `stop`; the other methods only change what it aims at.
    What happens to it and what the process writes goes to `screen`.
    """

    def __init__(
        self,
        *,
        number: int,
        port: int,
        options: WorkerOptions,
        screen: Screen,
    ) -> None:
        self.number = number
        self.port = port
        self.state = ReplicaState.STARTING
        self.pid = 0
        self.exit_code: int | None = None
        self.up_since_s = 0.0
        self.outcome: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it came up: true the first time it is, false when it ended before."""
        self._options = options
        self._screen = screen
        self._held: deque[str] | None = deque(maxlen=HELD_LINES)
        self._changed = asyncio.Event()
        self._is_wanted = True
        self._is_stopping = False
        self._failures = 0

    def show_output(self) -> None:
        """From now on, lines go to `output` at once; those held back so far come first."""
        held, self._held = self._held, None
        for line in held or ():
            self._screen.line(str(self.number), line)

    def kill_or_start(self) -> None:
        """SIGKILL it, or start it again if it is not running."""
        if self.pid:
            self._is_wanted = False
            self._signal(signal.SIGKILL)
        else:
            self._is_wanted = True
            self._failures = 0
            self._changed.set()

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM), and let `run` return."""
        self._is_stopping = True
        self._changed.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once (SIGKILL), and let `run` return."""
        self._is_stopping = True
        self._changed.set()
        self._signal(signal.SIGKILL)

    async def run(self) -> None:
        """Keep the process running. On cancellation it is killed."""
        while not self._is_stopping:
            await self._live_once()
            if not self._comes_back():
                break
            self._changed.clear()
            if self._is_wanted:
                await self._wait_before_next()
            else:
                self.state = ReplicaState.KILLED
                self._screen.say(f"replica {self.number} was killed: press {self.number} to start it again")
                await self._changed.wait()
        self.state = ReplicaState.STOPPED

    def _comes_back(self) -> bool:
        return not self._is_stopping and self.outcome.result()

    async def _wait_before_next(self) -> None:
        self.state = ReplicaState.WAITING
        delay_s = BACKOFF_S[min(self._failures, len(BACKOFF_S) - 1)]
        self._failures += 1
        self._screen.say(
            f"replica {self.number} ended by itself ({describe_exit(self.exit_code)}): again in {delay_s:g} s"
        )
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), delay_s)

    async def _live_once(self) -> None:
        """One process, from its start until all that it wrote has been read."""
        self.state = ReplicaState.STARTING
        loop = asyncio.get_running_loop()
        output_fd, child_output_fd = os.pipe()
        ready_fd, child_ready_fd = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command(child_ready_fd),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=child_output_fd,
                stderr=child_output_fd,
                pass_fds=(child_ready_fd,),
                start_new_session=True,  # Ctrl-C is for the parent, which ends its replicas in order
                env={**self._options.environment, "ANTIPHON_REPLICA": str(self.number)},
            )
        finally:
            os.close(child_output_fd)
            os.close(child_ready_fd)
        self.pid = process.pid
        Guard.shared().watch(process.pid)
        lines = _Lines(self._on_line)
        output, _ = await loop.connect_read_pipe(lambda: lines, os.fdopen(output_fd, "rb"))
        ready, _ = await loop.connect_read_pipe(lambda: _Readiness(self._on_ready), os.fdopen(ready_fd, "rb"))
        if self._is_stopping:
            self._signal(signal.SIGTERM)
        try:
            self.exit_code = await self._wait(process)
        finally:
            self._signal(signal.SIGKILL)  # whatever it started itself
            self.pid = 0
            Guard.shared().forget(process.pid)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(lines.ended.wait(), OUTPUT_TIMEOUT_S)
            output.close()
            ready.close()
        self._judge()

    async def _wait(self, process: asyncio.subprocess.Process) -> int:
        """Until the process ended; after `stop`, at most some seconds."""
        ended = asyncio.ensure_future(process.wait())
        try:
            while not ended.done():
                changed = asyncio.ensure_future(self._changed.wait())
                await asyncio.wait((ended, changed), return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
                if self._is_stopping:
                    await asyncio.wait((ended,), timeout=STOP_TIMEOUT_S)
                    self._signal(signal.SIGKILL)
                    break
                self._changed.clear()
            return await ended
        finally:
            if not ended.done():
                self._signal(signal.SIGKILL)
                await ended

    def _judge(self) -> None:
        was_up = self.state is ReplicaState.UP
        if was_up and time.monotonic() - self.up_since_s >= STEADY_S:
            self._failures = 0
        if not self.outcome.done():
            self.outcome.set_result(False)

    def _command(self, ready_fd: int) -> list[str]:
        options = self._options
        command = [sys.executable, "-m", "antiphon.dev.worker", options.app]
        command += ["--port", str(self.port), "--app-dir", options.app_dir, "--ready-fd", str(ready_fd)]
        return [*command, "--colors"] if options.colors else command

    def _on_ready(self) -> None:
        first = not self.outcome.done()
        self.state = ReplicaState.UP
        self.up_since_s = time.monotonic()
        if first:
            self.outcome.set_result(True)
        else:
            self._screen.say(f"replica {self.number} is up again on port {self.port} (pid {self.pid})")

    def _on_line(self, line: str) -> None:
        if self._held is None:
            self._screen.line(str(self.number), line)
        else:
            self._held.append(line)

    def _signal(self, number: signal.Signals) -> None:
        """To the process, or with SIGKILL to everything it started: it leads a group of its own."""
        if not self.pid:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if number is signal.SIGKILL:
                os.killpg(self.pid, number)
            else:
                os.kill(self.pid, number)


def describe_exit(code: int | None) -> str:
    """What an exit code says: `exit code 3`, or the signal's name."""
    if code is None or code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


class _Lines(asyncio.Protocol):
    """Cuts what a process writes into lines. A line without end is cut after 64 KiB."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self.ended = asyncio.Event()
        self._on_line = on_line
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""

    def data_received(self, data: bytes) -> None:
        *lines, self._rest = (self._rest + self._decoder.decode(data)).split("\n")
        for line in lines:
            self._on_line(line.rstrip("\r"))
        if len(self._rest) > LINE_BYTES:
            self._on_line(self._rest)
            self._rest = ""

    def connection_lost(self, exc: Exception | None) -> None:
        if self._rest:
            self._on_line(self._rest)
        self.ended.set()


class _Readiness(asyncio.Protocol):
    """The worker writes one byte when it accepts connections; the end alone means that it never did."""

    def __init__(self, on_ready: Callable[[], None]) -> None:
        self._on_ready = on_ready

    def data_received(self, data: bytes) -> None:
        self._on_ready()

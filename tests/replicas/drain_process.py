"""One process that drains, as tests see it: what it is told, what it answers, and how its clients' ends were spread."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port
from tests.replicas.client import Client, connect
from tests.replicas.recorder import Listener
from tests.replicas.replica import NOT_OURS, WAYS, eventually, request
from tests.replicas.report import Report

__all__ = ["PER_S", "SLACK_S", "TOKEN", "Process", "check_spread", "process"]

ROOT = Path(__file__).parents[2]
TOKEN = "canary-0123456789abcdef"
PER_S = 25
"""Sockets that are closed in a second, where the window is long enough."""
SLACK_S = 5.0
"""What the server may take after the drain, as faults.md has it; three times that is what the test allows."""


class Process:
    """One uvicorn process with `drain_app`, single-replica mode unless the environment says otherwise."""

    def __init__(self, way: str, log: Path, **environment: str) -> None:
        self.port = free_port()
        self._log = log
        inherited = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
        inherited |= {"PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "WAY": way, "ANTIPHON_DRAIN_TOKEN": TOKEN}
        command = [sys.executable, "-m", "uvicorn", "drain_app:app", "--app-dir", str(Path(__file__).parent)]
        command += ["--port", str(self.port), "--ws", WAYS[way], "--no-access-log", "--lifespan", "on"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=inherited | environment
            )
        Guard.shared().watch(self._process.pid)

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def tell(self, number: signal.Signals = signal.SIGTERM) -> None:
        self._process.send_signal(number)

    async def ended(self) -> int:
        async def look() -> int | None:
            return self._process.poll()

        code = await eventually(look, lambda code: code is not None, timeout_s=60.0, what=f"its end:\n{self.log}")
        assert code is not None
        return code

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        Guard.shared().forget(self._process.pid)

    async def ready(self) -> None:
        async def look() -> bool:
            with contextlib.suppress(OSError, AssertionError):
                await request(self.port, "GET", "/readyz")
                return True
            assert self._process.poll() is None, self.log
            return False

        await eventually(look, bool, what="the start")

    async def metric(self, line: str) -> float:
        """The value of one sample, spelled as in the text."""
        text = (await self.answer("GET", "/metrics"))[1]
        found = [one for one in text.splitlines() if one.startswith(f"{line} ")]
        return float(found[0].rpartition(" ")[2]) if found else math.nan

    async def answer(self, method: str, path: str) -> tuple[int, str]:
        """Status and body of one request."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=1 << 22)
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".encode())
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return int(head.split()[1]), body.decode()


@contextlib.asynccontextmanager
async def process(
    way: str = "protocol", *, clients: int = 0, **environment: str
) -> AsyncIterator[tuple[Process, list[Client]]]:
    """A process that serves, with so many clients that it has counted."""
    with tempfile.TemporaryDirectory() as directory:
        served = Process(way, Path(directory, "log"), **environment)
        try:
            await served.ready()
            joined = [
                await connect(Listener(f"c{number}", "R", frozenset({"t"})), served.port) for number in range(clients)
            ]
            if clients:
                await eventually(
                    lambda: served.metric('antiphon_connections{channel="live"}'),
                    lambda count: count == clients,
                    what=f"{clients} clients",
                )
            yield served, joined
            await asyncio.gather(*(client.close() for client in joined))
        finally:
            served.stop()


def check_spread(clients: list[Client], report: Report, fault: str) -> None:
    """Raise AssertionError unless the ends of these connections were spread over the window."""
    closed_at = sorted(client.closed_at for client in clients if client.closed_at is not None)
    fullest = max(sum(start <= at < start + 1 for at in closed_at) for start in closed_at)
    measure = f"{len(closed_at)} clients told to come back, the fullest second"
    report.add(fault, measure, fullest, target=str(2 * PER_S), gate=str(4 * PER_S))
    # Twice the average is what is wanted; the plan is tested without a network, here machines are busy.
    assert fullest <= 4 * PER_S
    # A machine that stands still meanwhile makes this longer, unless it does so before the first one.
    if len(closed_at) >= 2 * PER_S:
        assert closed_at[-1] - closed_at[0] >= len(closed_at) / PER_S / 4

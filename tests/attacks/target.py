"""The server under attack: a real uvicorn process, a broker of its own, and the way to look at both from outside."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import redis

from antiphon.dev.broker_server import BrokerServer
from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port
from antiphon.serving import PROTOCOL
from tests.attacks import credentials
from tests.attacks.attacker import ask
from tests.transports.servers import WAIT_S

__all__ = ["WAYS", "Target", "Way", "target"]

Way = Literal["asgi", "install", "protocol"]
WAYS: tuple[Way, ...] = ("asgi", "install", "protocol")
ROOT = Path(__file__).parents[2]
START_S = 30.0
OURS = re.compile("ANTIPHON_(?!CI|TEST)|REDIS_|USE_REDIS")


class Target:
    """The process and its broker, until `stop`."""

    def __init__(self, way: Way, *, log_level: str = "info") -> None:
        self.way = way
        self.broker = BrokerServer.start("valkey", arguments=("--requirepass", credentials.BROKER_PASSWORD))
        self._directory = tempfile.mkdtemp(prefix="antiphon-attacks-")
        Guard.shared().keep_clean(self._directory)
        self.log_path = Path(self._directory, "log")
        self._log_level = log_level
        self._process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not OURS.match(name)}
        environment |= {
            "ANTIPHON_BROKER_URL": self.broker.url,
            "ANTIPHON_DRAIN_TOKEN": f"{credentials.CANARY}-drain-token",
            "ANTIPHON_METRICS_TOKEN": credentials.METRICS_TOKEN,
            "ANTIPHON_SIGNING_KEYS": credentials.SIGNING_KEY,
            "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
            "PYTHONUNBUFFERED": "1",
            "WAY": self.way,
        }
        command = [sys.executable, "-W", "error", "-m", "uvicorn", "tests.attacks.app:app", "--port", str(self.port)]
        command += ["--log-level", self._log_level, "--timeout-graceful-shutdown", "1"]
        command += ["--ws", PROTOCOL if self.way == "protocol" else "websockets-sansio"]
        with self.log_path.open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
        Guard.shared().watch(process.pid)
        return process

    async def ready(self) -> None:
        """Wait until it serves and its link to the broker is up."""
        deadline = time.monotonic() + START_S
        while True:
            if self._process.poll() is not None:
                if "address already in use" not in self.log:
                    raise AssertionError(f"the server ended with {self._process.returncode}:\n{self.log[-4000:]}")
                Guard.shared().forget(self._process.pid)
                self._process = self._launch()  # somebody was quicker to take the port
            with contextlib.suppress(OSError, IndexError, TimeoutError):
                if b'"ok"' in (await ask(self.port, "GET /readyz")).body:
                    return
            assert time.monotonic() < deadline, f"no answer:\n{self.log[-4000:]}"
            time.sleep(0.05)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_path.read_text(errors="replace")

    def secrets(self) -> list[str]:
        """Lines of the log that hold one."""
        return [line for line in self.log.splitlines() if credentials.CANARY in line.lower()]

    @property
    def cpu_s(self) -> float:
        """Processor time that it has used, the kernel's for it included."""
        stat = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")

    @property
    def memory_bytes(self) -> int:
        """What of the memory is its own, shared pages in parts (Pss)."""
        found = re.search(r"(?m)^Pss:\s+(\d+) kB$", Path(f"/proc/{self._process.pid}/smaps_rollup").read_text())
        assert found is not None
        return int(found[1]) * 1024

    @property
    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def subscribed(self) -> set[str]:
        """The channels of the broker that somebody hears."""
        return {name.decode() for name in self._command("PUBSUB", "CHANNELS")}  # type: ignore[attr-defined] # untyped

    def subscribes(self) -> int:
        """How often SUBSCRIBE was sent to the broker."""
        found = self._command("INFO", "commandstats")
        assert isinstance(found, dict)
        stats = found.get("cmdstat_subscribe", {}), found.get("cmdstat_psubscribe", {})
        return sum(int(each.get("calls", 0)) for each in stats)

    def _command(self, *words: str) -> object:
        with redis.Redis(port=self.broker.port, password=credentials.BROKER_PASSWORD, socket_timeout=WAIT_S) as client:
            return client.execute_command(*words)

    async def metrics(self) -> dict[str, float]:
        """Everything that is counted, by the name with its labels."""
        token = f"Authorization: Bearer {credentials.METRICS_TOKEN}"
        head = f"GET /metrics HTTP/1.1\r\nHost: x\r\n{token}\r\nConnection: close\r\n\r\n"
        reply = await ask(self.port, head.encode())
        assert reply.status == 200, reply
        lines = [line.rpartition(" ") for line in reply.body.decode().splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the server has yet to do."""
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            await asyncio.sleep(0.02)

    async def look(self) -> dict[str, Any]:
        """What the application was asked and given, and who is here."""
        found: dict[str, Any] = json.loads((await ask(self.port, "GET /look")).body)
        return found

    @contextlib.asynccontextmanager
    async def nothing_gained(self, channel: str, *topics: str) -> AsyncIterator[dict[str, float]]:
        """Within the block nobody is let in, and nothing new is heard. What it yields is filled in with all counters
        that grew meanwhile, at its end.
        """
        grown: dict[str, float] = {}
        before, subscribes = await self.metrics(), self.subscribes()
        yield grown
        after = await self.metrics()
        assert self.subscribes() == subscribes
        assert not {f"{channel}/{topic}" for topic in topics} & self.subscribed()
        connects = f'antiphon_connects_total{{channel="{channel}"}}'
        assert after.get(connects) == before.get(connects)
        for name, value in after.items():
            if value > before.get(name, 0):
                grown[name] = value - before.get(name, 0)

    def stop(self) -> None:
        """End both, however they are."""
        self._process.terminate()
        try:
            self._process.wait(WAIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        Guard.shared().forget(self._process.pid)
        self.broker.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
        Guard.shared().forget_directory(self._directory)


@contextlib.contextmanager
def target(way: Way, *, log_level: str = "info", may_raise: bool = False) -> Iterator[Target]:
    """A server and its broker. In the end it lives, has told no secret, and has seen no exception (unless it may)."""
    found = Target(way, log_level=log_level)
    try:
        yield found
        assert found.alive, found.log[-4000:]
        assert found.secrets() == []
        log = found.log
        assert may_raise or "Traceback" not in log, log[max(0, log.index("Traceback") - 500) :][:4000]
    finally:
        found.stop()

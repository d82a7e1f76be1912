"""One server on its core: started, watched through /proc, stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CpuTime", "Launch", "ServerFailed", "Servers", "free_port", "queued_to_clients_bytes", "without_folders"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_START_S = 30.0
_STOP_S = 5.0


class ServerFailed(Exception):
    """A server did not start, or ended by itself; the text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start one process. It counts as started when `ready_port` accepts a connection."""

    argv: Sequence[str]
    ready_port: int
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None


@dataclass(frozen=True, slots=True)
class CpuTime:
    """Seconds since the processes started. `total_s` is the scheduler's own sum (ns), the other two are ticks."""

    total_s: float
    user_s: float
    system_s: float

    def __sub__(self, earlier: CpuTime) -> CpuTime:
        return CpuTime(self.total_s - earlier.total_s, self.user_s - earlier.user_s, self.system_s - earlier.system_s)


def free_port() -> int:
    """A port that nobody listens on now, below the range that clients' own ports come from."""
    low, high = (int(part) for part in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    candidates = range(max(1024, low - 8000), low) if low > 4000 else range(high + 1, 65535)
    start = int.from_bytes(os.urandom(2), "big") % len(candidates)
    for offset in range(len(candidates)):
        port = candidates[(start + offset) % len(candidates)]
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise ServerFailed("no free port")


@contextmanager
def _on_cores(cores: Iterable[int]) -> Iterator[None]:
    """Children inherit the cores that this process may use: there is no moment in which they run on a wrong one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(status.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(status.parent.name))
    found = [pid]
    for each in found:
        found.extend(children.get(each, ()))
    return found


def _cpu_of(pid: int) -> CpuTime:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user_s, system_s = int(fields[11]) / _TICKS_PER_S, int(fields[12]) / _TICKS_PER_S
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
    return CpuTime(total_ns / 1e9 if total_ns else user_s + system_s, user_s, system_s)


class Servers:
    """The processes of one system: the server on its core, helpers (a broker) on the others. Use it as a context."""

    def __init__(self, *, server_core: int, helper_cores: Sequence[int], log: Path) -> None:
        self._server_core = server_core
        self._helper_cores = helper_cores
        self._log = log
        self._processes: list[subprocess.Popen[bytes]] = []
        self._server: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, launch: Launch, helpers: Sequence[Launch]) -> None:
        """Start the helpers and then the server. Raises ServerFailed."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.write_bytes(b"")
        for helper in helpers:
            self._start(helper, self._helper_cores)
        self._server = self._start(launch, [self._server_core])

    def _start(self, launch: Launch, cores: Sequence[int]) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        with self._log.open("ab") as log, _on_cores(cores):
            process = subprocess.Popen(
                list(launch.argv),
                env={**environment, **launch.env},
                cwd=launch.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._processes.append(process)
        deadline = time.monotonic() + _START_S
        while True:
            with socket.socket() as attempt:
                attempt.settimeout(1.0)
                if attempt.connect_ex(("127.0.0.1", launch.ready_port)) == 0:
                    return process
            if process.poll() is not None or time.monotonic() > deadline:
                raise ServerFailed(f"{Path(launch.argv[0]).name} did not start: {self.log_end()}")
            time.sleep(0.02)

    def log_end(self) -> str:
        """The last lines of what the processes said."""
        lines = self._log.read_text(errors="replace").strip().splitlines()
        return without_folders(" | ".join(lines[-3:])[-600:])

    def _pids(self) -> list[int]:
        if self._server is None or self._server.poll() is not None:
            raise ServerFailed(f"the server ended by itself: {self.log_end()}")
        return _descendants(self._server.pid)

    def cpu(self) -> CpuTime:
        """CPU time of the server and all its children so far."""
        total = CpuTime(0.0, 0.0, 0.0)
        for pid in self._pids():
            try:
                each = _cpu_of(pid)
            except OSError:
                continue
            total = CpuTime(total.total_s + each.total_s, total.user_s + each.user_s, total.system_s + each.system_s)
        return total

    def memory_bytes(self) -> int:
        """Resident memory of the server and its children: the sum of their Pss, so that shared pages count once."""
        total_kib = 0
        for pid in self._pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            total_kib += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
        return total_kib * 1024

    def open_files(self) -> int:
        """File descriptors of the server and its children."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._pids())

    def stop(self) -> None:
        """End the processes that were started here, by their ids: asked first, killed after some seconds."""
        for process in reversed(self._processes):
            if process.poll() is None:
                pids = _descendants(process.pid)
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    _kill(pids)
                    process.wait()
        self._processes.clear()
        self._server = None


def without_folders(text: str) -> str:
    """A text without the folders of this machine: results are published."""
    return re.sub(r"(?<![\w:/])(?:/[\w.+@-]+)+/(?=[\w.+@-])", "", text)


def _kill(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def queued_to_clients_bytes(port: int) -> int:
    """What the kernel holds of the server's bytes because clients have not read them: the sum of its send queues."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port and fields[3] == "01":
            total += int(fields[4].partition(":")[0], 16)
    return total

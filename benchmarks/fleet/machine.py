"""The machine: which cores do what, and what the figures' readers have to know about it."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cores", "allow_many_files", "core_busy_s", "describe", "divide_cores"]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. The server has its core for itself as far as the machine allows."""

    server: int
    clients: tuple[int, ...]
    rest: tuple[int, ...]
    """For the harness itself and for brokers."""


def divide_cores(*, threads: int) -> Cores:
    """The last core for the server, those before it for the clients, the first for the rest.

    With two cores the clients share theirs with the rest. With one, client and server would measure each other.
    """
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < 2:
        raise SystemExit("bench: needs two cores: with one, the load generator would take the server's time")
    server, others = allowed[-1], allowed[:-1]
    clients = tuple(others[-threads:])
    rest = tuple(core for core in others if core not in clients) or clients
    return Cores(server=server, clients=clients, rest=rest)


def core_busy_s(core: int) -> float:
    """Seconds that this core was not idle since the machine started (all processes and interrupts)."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _wait, irq, softirq = (int(field) for field in fields[:7])
            return (user + nice + system + irq + softirq) / _TICKS_PER_S
    raise LookupError(f"no cpu{core} in /proc/stat")


def allow_many_files() -> int:
    """Raise this process's limit of open files, which its children inherit, and return it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _memory_gib() -> float:
    kib = int(Path("/proc/meminfo").read_text().split()[1])
    return round(kib / 1024 / 1024, 1)


def _virtual() -> bool:
    return " hypervisor " in Path("/proc/cpuinfo").read_text()


def _compiler() -> str:
    try:
        output = subprocess.run(["gcc", "-dumpfullversion"], capture_output=True, text=True, check=False).stdout
    except OSError:
        return "unknown"
    return output.strip()


def describe(cores: Cores) -> dict[str, object]:
    """What belongs beside every figure."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual": _virtual(),
        "memory_gib": _memory_gib(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "gcc": _compiler(),
        "server_cores": 1,
        "client_cores": len(cores.clients),
        "load_before": round(os.getloadavg()[0], 2),
    }

"""What is measured: each scenario starts a system, puts a load on it and returns its figures."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fleet.generator import Generator, GeneratorFailed, Result, Target
from benchmarks.fleet.machine import Cores, core_busy_s
from benchmarks.fleet.servers import CpuTime, Servers, free_port, queued_to_clients_bytes
from benchmarks.fleet.systems import Place, Scenario, System

__all__ = ["Figures", "Settings", "default_sizes", "measure"]

Figures = Mapping[str, float]

_WINDOW = 32
_IDLE_FIRST = 100
_STUCK, _STUCK_GOOD, _STUCK_BYTES, _STUCK_PER_S = 20, 130, 16 * 1024, 100


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and where."""

    cores: Cores
    duration_s: float
    warm_s: float
    stuck_s: float
    settle_s: float
    spin: bool
    folder: Path


def default_sizes(scenario: Scenario, asked: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers of connections that make sense for a scenario, of those that were asked for."""
    if scenario is Scenario.FANOUT:
        return asked
    if scenario is Scenario.STUCK:
        return (_STUCK_GOOD,)
    if scenario is Scenario.IDLE:
        return tuple(size for size in asked if size >= 1000) or (max(asked),)
    return (1000,) if 1000 in asked else (max(asked),)


class _Meter:
    """The server's CPU time and its core's, between the two moments that the generator names."""

    def __init__(self, servers: Servers, core: int) -> None:
        self._servers = servers
        self._core = core
        self._cpu = CpuTime(0.0, 0.0, 0.0)
        self._busy_s = 0.0
        self.used = self._cpu
        self.busy_s = 0.0

    def begin(self) -> None:
        self._cpu, self._busy_s = self._servers.cpu(), core_busy_s(self._core)

    def end(self) -> None:
        self.used = self._servers.cpu() - self._cpu
        self.busy_s = core_busy_s(self._core) - self._busy_s


class _Sampler:
    """The highest memory of the server, and of the kernel's send queues on its port, while a block runs."""

    def __init__(self, servers: Servers, port: int) -> None:
        self._servers, self._port = servers, port
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.memory_bytes = self.queued_bytes = 0

    def __enter__(self) -> _Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(0.25):
            self.memory_bytes = max(self.memory_bytes, self._servers.memory_bytes())
            self.queued_bytes = max(self.queued_bytes, queued_to_clients_bytes(self._port))


def measure(system: System, scenario: Scenario, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    """The phases of a scenario with their figures, as they come. Raises ServerFailed or GeneratorFailed."""
    steps = {
        Scenario.FANOUT: _fanout,
        Scenario.IDLE: _idle,
        Scenario.TOPICS: _topics,
        Scenario.DEFLATE: _deflate,
        Scenario.STUCK: _stuck,
    }
    yield from steps[scenario](system, connections, settings)


def _start(system: System, servers: Servers, scenario: Scenario, settings: Settings) -> Target:
    first, second = free_port(), free_port()
    while second == first:
        second = free_port()
    plan = system.start(Place(first, second, settings.folder))
    servers.start(plan.server, plan.helpers)
    return Target(first, system.paths[scenario], system.protocol, system.subprotocol)


def _servers(system: System, settings: Settings) -> Servers:
    return Servers(
        server_core=settings.cores.server,
        helper_cores=settings.cores.rest,
        log=settings.folder / "logs" / f"{system.name}.log",
    )


def _run(generator: Generator, servers: Servers, settings: Settings, command: str, duration_s: float) -> Figures:
    meter = _Meter(servers, settings.cores.server)
    line = f"{command} warm_s={settings.warm_s} duration_s={duration_s}"
    result = generator.run(line, begin=meter.begin, end=meter.end)
    return _figures(result, meter, generator.threads)


def _figures(result: Result, meter: _Meter, threads: int) -> Figures:
    used = meter.used
    ticks_s = used.user_s + used.system_s
    figures = {
        "seconds": result.seconds,
        "messages": result.messages,
        "deliveries": result.deliveries,
        "deliveries_per_s": result.deliveries / result.seconds,
        "server_cpu_s": used.total_s,
        "server_system_share": used.system_s / ticks_s if ticks_s else 0.0,
        "server_core_busy": meter.busy_s / result.seconds,
        "generator_busy": result.generator_cpu_s / result.seconds / threads,
        "missing": result.missing,
        "disorder": result.disorder,
        "corrupt": result.corrupt,
        "closed": result.closed,
        "not_drained": 0 if result.drained else 1,
        "mean_us": result.mean_us,
        "p50_us": result.p50_us,
        "p99_us": result.p99_us,
        "max_us": result.max_us,
    }
    if result.deliveries:
        figures["cpu_us"] = used.total_s / result.deliveries * 1e6
    return {name: round(value, 6) for name, value in figures.items()}


def _fanout(system: System, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    phases = {
        "saturated": f"saturate window={_WINDOW} publishers=4",
        "spread": f"saturate window={_WINDOW} publishers=32",
        "single": "single",
        "rate": "rate per_s=10",
    }
    with _servers(system, settings) as servers:
        target = _start(system, servers, Scenario.FANOUT, settings)
        clients = settings.cores.clients
        with Generator(target, connections=connections, cores=clients, spin=settings.spin) as generator:
            for phase, command in phases.items():
                if phase == "spread" and connections == 1:
                    continue
                figures = _run(generator, servers, settings, command, settings.duration_s)
                yield phase, figures
                if figures["not_drained"]:
                    raise GeneratorFailed(f"{phase}: {figures['missing']:.0f} deliveries were still missing long after")


def _idle(system: System, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    cores = settings.cores.clients
    with _servers(system, settings) as servers:
        target = _start(system, servers, Scenario.IDLE, settings)
        with Generator(target, connections=_IDLE_FIRST, cores=cores):
            time.sleep(settings.settle_s)
            memory, files, cpu = servers.memory_bytes(), servers.open_files(), servers.cpu()
            with Generator(target, connections=connections, cores=cores) as generator:
                used = servers.cpu() - cpu
                time.sleep(settings.settle_s)
                figures = {
                    "kib_per_connection": (servers.memory_bytes() - memory) / connections / 1024,
                    "connects_per_s": generator.connected.per_s,
                    "connect_cpu_us": used.total_s / connections * 1e6,
                    "files_per_connection": (servers.open_files() - files) / connections,
                }
                yield "idle", {name: round(value, 3) for name, value in figures.items()}


def _topics(system: System, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    with _servers(system, settings) as servers:
        target = _start(system, servers, Scenario.TOPICS, settings)
        clients = settings.cores.clients
        with Generator(target, connections=connections, cores=clients, publishers=1, topics=True) as generator:
            yield "sweep", _run(generator, servers, settings, "single", settings.duration_s)


def _deflate(system: System, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    with _servers(system, settings) as servers:
        target = _start(system, servers, Scenario.DEFLATE, settings)
        with Generator(target, connections=connections, cores=settings.cores.clients, deflate=True) as generator:
            for phase, command in {"saturated": f"saturate window={_WINDOW} publishers=4", "single": "single"}.items():
                figures = _run(generator, servers, settings, command, settings.duration_s)
                yield phase, {**figures, "compressed": float(generator.connected.deflate > 0)}


def _stuck(system: System, connections: int, settings: Settings) -> Iterator[tuple[str, Figures]]:
    for phase, stuck in {"baseline": 0, "stuck": _STUCK}.items():
        with _servers(system, settings) as servers:
            target = _start(system, servers, Scenario.STUCK, settings)
            with Generator(
                target,
                connections=connections,
                cores=settings.cores.clients,
                publishers=1,
                size_bytes=_STUCK_BYTES,
                stuck=stuck,
            ) as generator:
                before = servers.memory_bytes()
                meter = _Meter(servers, settings.cores.server)
                with _Sampler(servers, target.port) as sampler:
                    line = f"rate per_s={_STUCK_PER_S} warm_s={settings.warm_s} duration_s={settings.stuck_s}"
                    result = generator.run(line, begin=meter.begin, end=meter.end)
                figures = dict(_figures(result, meter, generator.threads))
                figures["peak_mib"] = round((sampler.memory_bytes - before) / 2**20, 3)
                figures["kernel_mib"] = round(sampler.queued_bytes / 2**20, 3)
                if stuck:
                    figures["gone"] = len(result.stuck_gone_s)
                    figures["gone_last_s"] = max(result.stuck_gone_s, default=0.0)
                yield phase, figures

"""What the library sets out to reach, and whether this run shows it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.fleet.results import Run
from benchmarks.report.tables import LIMIT

__all__ = ["Verdict", "judge"]

_ASGI_PEERS = ("tutorial_uvicorn", "tutorial_hypercorn", "tutorial_granian", "litestar", "python_socketio", "channels")
_PYTHON_PEERS = (*_ASGI_PEERS, "websockets", "picows")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target. `value` is None when the run did not measure it."""

    text: str
    value: float | None
    bound: float
    at_most: bool
    unit: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether the run shows it; None when it was not measured."""
        if self.value is None:
            return None
        return self.value <= self.bound if self.at_most else self.value >= self.bound


def judge(run: Run) -> list[Verdict]:
    """All targets, in the order of the scenarios."""
    return [
        *_saturated(run),
        *_single(run),
        *_latency(run),
        *_growth(run),
        *_other_servers(run),
        *_idle(run),
        *_rest(run),
    ]


def _cpu(run: Run, system: str, phase: str, size: int = 1000) -> float | None:
    return run.median((system, "fanout", phase, size), "cpu_us")


def _over(left: float | None, right: float | None) -> float | None:
    return left / right if left is not None and right else None


def _dearer(run: Run, peer: str, phase: str) -> float | None:
    """How many times the CPU of ours a peer needs: within each repeat, then the median."""
    return run.ratio((peer, "fanout", phase, 1000), ("antiphon_ws", "fanout", phase, 1000), "cpu_us")


def _best(run: Run, systems: tuple[str, ...], phase: str) -> float | None:
    """The same for the cheapest of them; None unless all that can be had here were measured."""
    found = [_dearer(run, system, phase) for system in systems if system not in run.unavailable]
    values = [value for value in found if value is not None]
    return min(values, default=None) if len(values) == len(found) else None


def _saturated(run: Run) -> Iterator[Verdict]:
    for system, how in (("antiphon_ws", "protocol class"), ("antiphon_install", "stock uvicorn")):
        key = (system, "fanout", "saturated", 1000)
        yield Verdict(f"saturated, {how}: CPU per delivery", run.median(key, "cpu_us"), 0.6, True, "µs")
        rate = run.median(key, "deliveries_per_s")
        yield Verdict(f"saturated, {how}: deliveries/s on one core", rate, 1_500_000, False)
    yield Verdict("saturated: nats-server's CPU over ours", _dearer(run, "nats", "saturated"), 1.0, False, "x")
    best = _best(run, _PYTHON_PEERS, "saturated")
    yield Verdict("saturated: best Python peer's CPU over ours", best, 20.0, False, "x")


def _single(run: Run) -> Iterator[Verdict]:
    for system, how in (("antiphon_ws", "protocol class"), ("antiphon_install", "stock uvicorn")):
        ratio = run.ratio((system, "fanout", "single", 1000), (LIMIT, "fanout", "single", 1000), "cpu_us")
        yield Verdict(f"one at a time, {how}: CPU over the C limit's", ratio, 1.15, True, "x")
    yield Verdict("one at a time: nchan's CPU over ours", _dearer(run, "nchan", "single"), 1.0, False, "x")
    best = _best(run, _ASGI_PEERS, "single")
    yield Verdict("one at a time: best ASGI peer's CPU over ours", best, 2.0, False, "x")
    for peer, name in (("python_socketio", "python-socketio"), ("channels", "Channels")):
        yield Verdict(f"one at a time: {name}'s CPU over ours", _dearer(run, peer, "single"), 10.0, False, "x")


def _latency(run: Run) -> Iterator[Verdict]:
    own = ("antiphon_ws", "fanout", "rate", 1000)
    for name in ("p50", "p99"):
        ratio = run.ratio(own, (LIMIT, "fanout", "rate", 1000), f"{name}_us")
        yield Verdict(f"10 messages/s: {name} over the C program's", ratio, 1.2, True, "x")
        ratio = run.ratio(own, ("tutorial_uvicorn", "fanout", "rate", 1000), f"{name}_us")
        yield Verdict(f"10 messages/s: {name} over the tutorial manager's", ratio, 0.5, True, "x")


def _growth(run: Run) -> Iterator[Verdict]:
    for phase in ("saturated", "single"):
        growth = _over(_cpu(run, "antiphon_ws", phase, 5000), _cpu(run, "antiphon_ws", phase, 100))
        yield Verdict(f"{phase}: CPU per delivery at 5,000 connections over that at 100", growth, 1.3, True, "x")
    key, limit = ("antiphon_ws", "topics", "sweep", 1000), (LIMIT, "topics", "sweep", 1000)
    ratio = run.ratio(key, limit, "cpu_us")
    yield Verdict("1,000 topics of one listener: CPU per message over the C program's", ratio, 1.5, True, "x")


def _other_servers(run: Run) -> Iterator[Verdict]:
    for server in ("hypercorn", "granian"):
        for phase in ("saturated", "single"):
            theirs, ours = (f"tutorial_{server}", "fanout", phase, 1000), (f"antiphon_{server}", "fanout", phase, 1000)
            ratio = run.ratio(theirs, ours, "cpu_us")
            yield Verdict(f"{phase}, on {server}: the tutorial manager's CPU over ours", ratio, 1.0, False, "x")


def _idle(run: Run) -> Iterator[Verdict]:
    sizes = [key[3] for key in run.keys("idle", "idle")]
    size = 5000 if 5000 in sizes else max(sizes, default=1000)
    for system, how, bound in (("antiphon_serve", "serve", 3.0), ("antiphon_ws", "a FastAPI endpoint", 18.0)):
        value = run.median((system, "idle", "idle", size), "kib_per_connection")
        yield Verdict(f"idle connection with {how}, {size:,} of them", value, bound, True, "KiB")
    key, peer = ("antiphon_ws", "idle", "idle", size), ("tutorial_uvicorn", "idle", "idle", size)
    for system in ("antiphon_serve", "antiphon_ws"):
        ratio = run.ratio((system, *key[1:]), peer, "connects_per_s")
        yield Verdict(f"connects/s, {system}: over the tutorial manager's", ratio, 2.0, False, "x")


def _rest(run: Run) -> Iterator[Verdict]:
    tutorial = ("tutorial_uvicorn", "deflate", "saturated", 1000)
    for system in ("antiphon_ws", "antiphon_install", "antiphon_deflate"):
        ratio = run.ratio(tutorial, (system, "deflate", "saturated", 1000), "cpu_us")
        yield Verdict(f"deflate offered, {system}: uvicorn's CPU over ours", ratio, 4.0, False, "x")
    own, baseline = ("antiphon_ws", "stuck", "stuck", 130), ("antiphon_ws", "stuck", "baseline", 130)
    yield Verdict(
        "20 stuck clients: the good ones' p99 over the baseline", run.ratio(own, baseline, "p99_us"), 1.5, True, "x"
    )
    yield Verdict("20 stuck clients: how many were freed", run.median(own, "gone"), 20, False)
    last_s = run.median(own, "gone_last_s") if run.median(own, "gone") else None
    yield Verdict("20 stuck clients: the last one freed after", last_s, 15.0, True, "s")
    yield Verdict("20 stuck clients: missing at the good ones", run.median(own, "missing"), 0, True)
    peak, kernel = run.median(own, "peak_mib"), run.median(own, "kernel_mib")
    held = None if peak is None or kernel is None else (peak + kernel) / 20
    yield Verdict("20 stuck clients: memory, process and kernel, for each", held, 2.0, True, "MiB")

"""The tables of the report, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.fleet.results import Key, Run
from benchmarks.fleet.systems import SYSTEMS, Family

__all__ = [
    "LIMIT",
    "by_size",
    "deflate",
    "fanout",
    "idle",
    "label",
    "latency",
    "number",
    "shown_size",
    "stuck",
    "table",
    "topics",
]

LIMIT = "c_limit"
_LABELS = {system.name: system.label for system in SYSTEMS}
_OWN = {system.name for system in SYSTEMS if system.family is Family.ANTIPHON}


def label(system: str) -> str:
    """A system's name for readers; ours in bold."""
    text = _LABELS.get(system, system)
    return f"**{text}**" if system in _OWN else text


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, figures to the right."""
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def shown_size(run: Run, scenario: str) -> int | None:
    """The number of connections that the tables show: 1,000 where it was measured, else the largest."""
    sizes = {key[3] for key in run.figures if key[1] == scenario}
    if not sizes:
        return None
    return 1000 if 1000 in sizes else max(sizes)


def _systems(run: Run, scenario: str, phase: str, size: int) -> list[str]:
    """Those measured, cheapest first."""
    names = [key[0] for key in run.keys(scenario, phase) if key[3] == size]
    return sorted(names, key=lambda name: run.median((name, scenario, phase, size), "cpu_us") or float("inf"))


def number(value: float | None, digits: int = 2) -> str:
    """Enough digits to compare, not more."""
    if value is None:
        return "–"
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits if value < 10 else 1 if value < 100 else 0}f}"


def _spread(run: Run, key: Key, name: str, scale: float = 1.0) -> str:
    values = [value * scale for value in run.values(key, name)]
    if len(values) < 2:
        return "–"
    return f"{number(min(values))}–{number(max(values))}"


def fanout(run: Run, phase: str, size: int) -> str:
    """CPU per delivery, its ratio to the C program, throughput."""
    rows = []
    for system in _systems(run, "fanout", phase, size):
        key = (system, "fanout", phase, size)
        system_share = run.median(key, "server_system_share")
        rows.append(
            [
                label(system),
                number(run.median(key, "cpu_us")),
                number(run.ratio(key, (LIMIT, "fanout", phase, size), "cpu_us")),
                _spread(run, key, "cpu_us"),
                number(run.median(key, "deliveries_per_s")),
                "–" if system_share is None else f"{system_share:.0%}",
            ]
        )
    head = ["system", "CPU µs per delivery", "of the C limit", "lowest–highest", "deliveries/s", "in the kernel"]
    return table(head, rows)


def latency(run: Run, size: int) -> str:
    """At a fixed moderate rate."""
    rows = []
    names = _systems(run, "fanout", "rate", size)
    for system in sorted(names, key=lambda name: run.median((name, "fanout", "rate", size), "p99_us") or 0.0):
        key, limit = (system, "fanout", "rate", size), (LIMIT, "fanout", "rate", size)
        rows.append(
            [
                label(system),
                *(number(_ms(run.median(key, name))) for name in ("p50_us", "p99_us")),
                *(number(run.ratio(key, limit, name)) for name in ("p50_us", "p99_us")),
                _spread(run, key, "p99_us", 1e-3),
            ]
        )
    head = ["system", "p50 ms", "p99 ms", "p50 of the C limit", "p99 of the C limit", "p99 lowest–highest"]
    return table(head, rows)


def _ms(value_us: float | None) -> float | None:
    return None if value_us is None else value_us / 1e3


def by_size(run: Run, phase: str) -> str:
    """CPU per delivery against the number of connections."""
    sizes = sorted({key[3] for key in run.keys("fanout", phase)})
    names = list(dict.fromkeys(key[0] for key in run.keys("fanout", phase)))
    rows = [
        [label(name), *(number(run.median((name, "fanout", phase, size), "cpu_us")) for size in sizes)]
        for name in names
    ]
    return table(["system", *(f"{size:,}" for size in sizes)], rows)


def idle(run: Run, size: int) -> str:
    """Memory and handshakes."""
    names = [key[0] for key in run.keys("idle", "idle") if key[3] == size]
    names.sort(key=lambda name: run.median((name, "idle", "idle", size), "kib_per_connection") or 0.0)
    rows = []
    for system in names:
        key = (system, "idle", "idle", size)
        rows.append(
            [
                label(system),
                number(run.median(key, "kib_per_connection"), 1),
                _spread(run, key, "kib_per_connection"),
                number(run.median(key, "connects_per_s")),
                number(run.median(key, "connect_cpu_us")),
            ]
        )
    return table(["system", "KiB a connection", "lowest–highest", "connects/s", "CPU µs a connect"], rows)


def topics(run: Run, size: int) -> str:
    """One message to each of many topics that have one listener each."""
    rows = []
    for system in _systems(run, "topics", "sweep", size):
        key = (system, "topics", "sweep", size)
        rows.append(
            [
                label(system),
                number(run.median(key, "cpu_us")),
                number(run.ratio(key, (LIMIT, "topics", "sweep", size), "cpu_us")),
                _spread(run, key, "cpu_us"),
                number(run.median(key, "deliveries_per_s")),
            ]
        )
    head = ["system", "CPU µs per message", "of the C limit", "lowest–highest", "messages/s"]
    return table(head, rows)


def deflate(run: Run, size: int) -> str:
    """When the clients offer compression."""
    rows = []
    for system in _systems(run, "deflate", "saturated", size):
        key, single = (system, "deflate", "saturated", size), (system, "deflate", "single", size)
        compressed = "yes" if run.median(key, "compressed") else "no"
        figures = (number(run.median(each, "cpu_us")) for each in (key, single))
        rows.append([label(system), compressed, *figures, number(run.median(key, "deliveries_per_s"))])
    head = ["system", "compression agreed on", "CPU µs, saturated", "CPU µs, one at a time", "deliveries/s"]
    return table(head, rows)


def stuck(run: Run, size: int) -> str:
    """Clients that never read among good ones."""
    rows = []
    for system in [key[0] for key in run.keys("stuck", "stuck") if key[3] == size]:
        key, baseline = (system, "stuck", "stuck", size), (system, "stuck", "baseline", size)
        gone = run.median(key, "gone")
        rows.append(
            [
                label(system),
                number(_ms(run.median(baseline, "p99_us"))),
                number(_ms(run.median(key, "p99_us"))),
                number(run.median(key, "missing"), 0),
                number(gone, 0),
                number(run.median(key, "gone_last_s")) if gone else "–",
                number(run.median(key, "peak_mib"), 1),
                number(run.median(key, "kernel_mib"), 1),
            ]
        )
    head = [
        "system",
        "p99 ms without",
        "p99 ms with",
        "missing",
        "gone of 20",
        "last gone after s",
        "peak MiB",
        "kernel MiB",
    ]
    return table(head, rows)

"""`benchmarks/RESULTS.md` and its plot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.fleet.results import Run
from benchmarks.fleet.systems import SYSTEMS
from benchmarks.report import tables
from benchmarks.report.plot import draw
from benchmarks.report.targets import Verdict, judge
from benchmarks.report.trust import trust

__all__ = ["write_report"]


def write_report(run: Run, folder: Path) -> list[Path]:
    """Write the report and the plot into a folder; return their paths."""
    if not run.figures:
        raise SystemExit("bench: nothing was measured, so there is nothing to report")
    written = []
    size = tables.shown_size(run, "fanout")
    if size is not None:
        plot = folder / "fanout.svg"
        plot.write_text(draw(run, size), encoding="utf-8")
        written.append(plot)
    report = folder / "RESULTS.md"
    report.write_text("\n\n".join(_sections(run)) + "\n", encoding="utf-8")
    return [*written, report]


def _sections(run: Run) -> Iterator[str]:
    yield "# Results of the benchmark"
    yield from _head(run)
    yield from _fanout(run)
    yield from _others(run)
    yield "## Targets"
    yield "What the library sets out to reach, judged by the medians of this run."
    yield tables.table(["target", "measured", "wanted", "reached"], [_row(verdict) for verdict in judge(run)])
    yield "## Can these figures be trusted?"
    yield trust(run)
    yield from _systems(run)


def _head(run: Run) -> Iterator[str]:
    machine = run.machine
    yield f"Written by `{machine['command']}` on {machine['date']}; how, and what can mislead: [README.md](README.md)."
    virtual = ", virtual machine" if machine["virtual"] else ""
    yield (
        f"Machine: {machine['cpu']}, {machine['cores']} cores{virtual}, {machine['memory_gib']} GiB, "
        f"Linux {machine['kernel']}, Python {machine['python']}, gcc {machine['gcc']}. The server has one "
        f"core, the load generator {machine['client_cores']}. Load average before the run: {machine['load_before']}."
    )
    yield (
        "Figures are medians of the repeats; ratios are medians of the ratios within each repeat. A delivery is one "
        "message of 200 bytes of JSON, received by one client. CPU is user and system time of the server's processes."
    )


def _fanout(run: Run) -> Iterator[str]:
    size = tables.shown_size(run, "fanout")
    if size is None:
        return
    yield "![CPU per delivery of every system](fanout.svg)"
    yield f"## Many messages in flight, {size:,} connections"
    yield "32 messages in flight: 4 publishers with 8 each. Systems that join what is ready write less often."
    yield tables.fanout(run, "saturated", size)
    yield f"## The same from 32 publishers with one message each, {size:,} connections"
    yield tables.fanout(run, "spread", size)
    yield f"## One message at a time, {size:,} connections"
    yield "The next message is sent when every client has the last one: there is nothing to join."
    yield tables.fanout(run, "single", size)
    yield f"## Latency at 10 messages/s, {size:,} connections"
    yield "From the moment a message was due until each single client had it."
    yield tables.latency(run, size)
    yield "## CPU µs per delivery by number of connections"
    for phase, title in (("saturated", "Many messages in flight"), ("single", "One message at a time")):
        yield f"{title}:"
        yield tables.by_size(run, phase)


def _others(run: Run) -> Iterator[str]:
    for idle in sorted({key[3] for key in run.keys("idle", "idle")}):
        yield f"## Idle connections: {idle:,}"
        yield "Resident memory (Pss) of the server's processes for each connection, without the kernel's buffers."
        yield tables.idle(run, idle)
    if size := tables.shown_size(run, "topics"):
        yield f"## Many topics: {size:,} with one listener each"
        yield "One request makes the server publish one message to each topic."
        yield tables.topics(run, size)
    if size := tables.shown_size(run, "deflate"):
        yield f"## Clients that offer permessage-deflate, as every browser does, {size:,} connections"
        yield tables.deflate(run, size)
    if size := tables.shown_size(run, "stuck"):
        yield f"## 20 clients that never read, among {size} good ones"
        yield "100 messages/s of 16 KiB. Latency and missing deliveries are those of the good clients."
        yield tables.stuck(run, size)


def _row(verdict: Verdict) -> list[str]:
    reached = {True: "yes", False: "**no**", None: "not measured"}[verdict.reached]
    sign = "≤" if verdict.at_most else "≥"
    measured = "–" if verdict.value is None else f"{tables.number(verdict.value)} {verdict.unit}".strip()
    return [verdict.text, measured, f"{sign} {tables.number(verdict.bound)} {verdict.unit}".strip(), reached]


def _systems(run: Run) -> Iterator[str]:
    yield "## The systems"
    known = {key[0] for key in run.figures}
    yield "\n".join(
        f"* {tables.label(system.name)} (`{system.name}`): {system.note or 'as its documentation starts it'}"
        for system in SYSTEMS
        if system.name in known
    )
    if run.unavailable:
        yield "Unavailable in this run:"
        yield "\n".join(f"* `{system}`: {why}" for system, why in run.unavailable.items())
    if run.failed:
        yield "Failed in this run:"
        yield "\n".join(
            f"* `{system}`, {scenario}, {size:,} connections: {why}" for system, scenario, size, why in run.failed
        )
    yield "Versions: " + ", ".join(f"{name} {version}" for name, version in sorted(run.versions.items())) + "."

"""The end of a run, on the terminal."""

from __future__ import annotations

from benchmarks.fleet.results import Run
from benchmarks.report.tables import LIMIT, number, shown_size
from benchmarks.report.targets import judge

__all__ = ["summarise"]


def summarise(run: Run) -> str:
    """CPU per delivery at the size that matters, cheapest first, and what went wrong."""
    lines = []
    size = shown_size(run, "fanout")
    if size is not None:
        lines.append(f"\nCPU µs per delivery at {size:,} connections (times the C program's)")
        lines.append(f"  {'':22}{'saturated':>18}{'one at a time':>18}{'p99 at 10/s':>14}")
        names = {key[0]: _saturated(run, key[0], size) for key in run.figures if key[1] == "fanout" and key[3] == size}
        for name in sorted(names, key=lambda each: names[each]):
            cells = [_cell(run, name, phase, size) for phase in ("saturated", "single")]
            p99_us = run.median((name, "fanout", "rate", size), "p99_us")
            last = "–" if p99_us is None else f"{p99_us / 1e3:.1f} ms"
            lines.append(f"  {name:22}{cells[0]:>18}{cells[1]:>18}{last:>14}")
    lines.extend(_targets(run))
    for system, why in run.unavailable.items():
        lines.append(f"  {system}: unavailable: {why}")
    for system, scenario, connections, why in run.failed:
        lines.append(f"  {system}: {scenario} with {connections:,} connections failed: {why}")
    return "\n".join(lines)


def _targets(run: Run) -> list[str]:
    measured = [verdict for verdict in judge(run) if verdict.value is not None]
    if not measured:
        return []
    lines = ["\nTargets that this run measured"]
    for verdict in measured:
        word = "reached" if verdict.reached else "NOT"
        sign = "at most" if verdict.at_most else "at least"
        lines.append(
            f"  {word:8} {verdict.text}: {number(verdict.value)} ({sign} {number(verdict.bound)} {verdict.unit})"
        )
    return lines


def _saturated(run: Run, name: str, size: int) -> float:
    return run.median((name, "fanout", "saturated", size), "cpu_us") or float("inf")


def _cell(run: Run, name: str, phase: str, size: int) -> str:
    key = (name, "fanout", phase, size)
    value, ratio = run.median(key, "cpu_us"), run.ratio(key, (LIMIT, *key[1:]), "cpu_us")
    return f"{number(value)} ({number(ratio)})" if value is not None else "–"

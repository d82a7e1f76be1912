"""What a run says about itself: whether anything was lost, and who was busy while it was measured."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.fleet.results import Run
from benchmarks.fleet.scenarios import Figures
from benchmarks.report.tables import label

__all__ = ["trust"]

_WRONG = ("missing", "disorder", "corrupt", "closed")
_LOADED = ("saturated", "spread")
_FOREIGN = 0.05


def trust(run: Run) -> str:
    """A list of statements, in Markdown."""
    return "\n".join(f"* {line}" for line in (*_checked(run), *_lost(run), *_busy(run)))


def _checked(run: Run) -> Iterator[str]:
    if run.noticed:
        yield f"Before the run the load generator was shown a faulty server, and noticed: {run.noticed}."


def _each(run: Run) -> Iterator[tuple[str, str, str, Figures]]:
    for (system, scenario, phase, connections), repeats in run.figures.items():
        for figures in repeats.values():
            yield system, f"{scenario}, {phase}, {connections:,} connections", phase, figures


def _lost(run: Run) -> Iterator[str]:
    measurements = deliveries = 0.0
    wrong: dict[str, float] = {}
    for system, where, _, figures in _each(run):
        measurements += 1
        deliveries += figures.get("deliveries", 0.0)
        count = sum(figures.get(name, 0.0) for name in _WRONG)
        if count and not where.startswith("stuck"):
            wrong[system] = wrong.get(system, 0.0) + count
    yield (
        f"{measurements:,.0f} measurements, {deliveries:,.0f} deliveries within the measured time, each compared byte "
        "by byte and in its order."
    )
    if wrong:
        named = ", ".join(f"{label(system)} {count:,.0f}" for system, count in sorted(wrong.items()))
        yield f"Missing, doubled, out of order, damaged or cut off: {named}."
    else:
        yield "None was missing, doubled, out of order or damaged, and no connection was cut off."


def _busy(run: Run) -> Iterator[str]:
    loaded = [entry for entry in _each(run) if "server_core_busy" in entry[3]]
    saturated = [entry for entry in loaded if entry[2] in _LOADED]
    if not saturated:
        return
    most = max(figures["generator_busy"] for _, _, _, figures in saturated)
    yield f"The load generator was busy for at most {most:.0%} of its cores while a server was saturated."
    lazy = {
        f"{label(system)} ({where}: {figures['server_core_busy']:.0%})"
        for system, where, _, figures in saturated
        if figures["server_core_busy"] < 0.9
    }
    if lazy:
        yield f"The server's core was not saturated although messages were in flight: {'; '.join(sorted(lazy))}."
    shares = sorted(_foreign(figures) for _, _, _, figures in loaded)
    disturbed = sum(share > _FOREIGN for share in shares)
    yield (
        f"Other processes and interrupts took {max(0.0, shares[len(shares) // 2]):.1%} of the server's core in the "
        f"median; in {disturbed:,} of {len(shares):,} measurements more than {_FOREIGN:.0%}."
    )


def _foreign(figures: Figures) -> float:
    """The part of the server's core that was busy with something else."""
    return figures["server_core_busy"] - figures["server_cpu_s"] / figures["seconds"]

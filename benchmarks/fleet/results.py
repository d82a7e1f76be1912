"""Results on disk: one JSON object a line, written as it is measured, so that an interrupted run can be reported."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.fleet.scenarios import Figures

__all__ = ["Run", "Writer", "latest", "read"]


class Writer:
    """Appends to the file of one run."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path

    def write(self, kind: str, **fields: object) -> None:
        """One line; complete on disk when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, **fields}) + "\n")


Key = tuple[str, str, str, int]
"""System, scenario, phase, connections."""


@dataclass
class Run:
    """What one file holds."""

    machine: dict[str, object] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)
    failed: list[tuple[str, str, int, str]] = field(default_factory=list)
    """System, scenario, connections, why."""
    noticed: str = ""
    """Which faults the load generator noticed before the run, and how often."""
    figures: dict[Key, dict[int, Figures]] = field(default_factory=dict)
    """For each key, the figures of each repeat."""

    def values(self, key: Key, name: str) -> list[float]:
        """One figure of all repeats, in order."""
        repeats = self.figures.get(key, {})
        return [repeats[repeat][name] for repeat in sorted(repeats) if name in repeats[repeat]]

    def median(self, key: Key, name: str) -> float | None:
        """The median of the repeats."""
        values = self.values(key, name)
        return median(values) if values else None

    def ratio(self, key: Key, other: Key, name: str) -> float | None:
        """The median of the ratios to another system, each within one repeat: both ran within the same minutes."""
        mine, theirs = self.figures.get(key, {}), self.figures.get(other, {})
        pairs = [
            mine[repeat][name] / theirs[repeat][name]
            for repeat in mine
            if repeat in theirs and name in mine[repeat] and theirs[repeat].get(name)
        ]
        return median(pairs) if pairs else None

    def keys(self, scenario: str, phase: str) -> Iterator[Key]:
        """All keys of a scenario's phase, in the order in which they were measured."""
        return (key for key in self.figures if key[1] == scenario and key[2] == phase)


def read(path: Path) -> Run:
    """Read a run's file. A last line that is incomplete is left out."""
    run = Run()
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        kind = entry.pop("kind")
        if kind == "machine":
            run.machine.update(entry)
        elif kind == "versions":
            run.versions.update(entry)
        elif kind == "unavailable":
            run.unavailable[entry["system"]] = entry["why"]
        elif kind == "selfcheck":
            run.noticed = entry["noticed"]
        elif kind == "failed":
            run.failed.append((entry["system"], entry["scenario"], entry["connections"], entry["why"]))
        elif kind == "figures":
            key = (entry["system"], entry["scenario"], entry["phase"], entry["connections"])
            run.figures.setdefault(key, {})[entry["repeat"]] = entry["figures"]
    return run


def latest(folder: Path) -> Path:
    """The newest run's file."""
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise SystemExit("bench: there are no results yet: python3 run bench")
    return files[-1]

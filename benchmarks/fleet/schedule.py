"""A whole run: prepares the components, goes through the systems in turn, and writes down what they did."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.fleet.cache import Component, Unavailable
from benchmarks.fleet.generator import LOADGEN, GeneratorFailed
from benchmarks.fleet.results import Writer
from benchmarks.fleet.scenarios import Figures, Settings, default_sizes, measure
from benchmarks.fleet.servers import ServerFailed, without_folders
from benchmarks.fleet.systems import Scenario, System

__all__ = ["Step", "perform", "plan_steps", "prepare"]


@dataclass(frozen=True, slots=True)
class Step:
    """One start of one system."""

    system: System
    scenario: Scenario
    connections: int
    repeat: int


def prepare(systems: Sequence[System], writer: Writer) -> list[System]:
    """Get everything ready that the systems need; return those that can run and write down the others."""
    try:
        LOADGEN.prepare()
    except Unavailable as error:
        raise SystemExit(f"bench: the load generator: {error}") from error
    outcome: dict[Component, str] = {}
    usable = []
    for system in systems:
        for component in system.needs:
            if component not in outcome:
                outcome[component] = _prepare_one(component, writer)
        reasons = [outcome[component] for component in system.needs if outcome[component]]
        if reasons:
            print(f"  {system.name} is unavailable: {'; '.join(reasons)}", flush=True)
            writer.write("unavailable", system=system.name, why="; ".join(reasons))
        else:
            usable.append(system)
    return usable


def _prepare_one(component: Component, writer: Writer) -> str:
    try:
        component.prepare()
        writer.write("versions", **component.versions())
    except Unavailable as error:
        return without_folders(str(error))
    return ""


def plan_steps(
    systems: Sequence[System], scenarios: Sequence[Scenario], sizes: tuple[int, ...], repeats: int
) -> list[Step]:
    """The order of a run: all systems one after the other, then all of them again, so that drift hits all alike."""
    return [
        Step(system, scenario, connections, repeat)
        for scenario in scenarios
        for connections in default_sizes(scenario, sizes)
        for repeat in range(repeats)
        for system in systems
        if scenario in system.paths
    ]


def perform(steps: Sequence[Step], settings: Settings, writer: Writer) -> None:
    """Carry the steps out; one that fails is written down, not repeated, and the rest goes on."""
    started = time.monotonic()
    given_up: set[tuple[str, Scenario, int]] = set()
    for number, step in enumerate(steps, 1):
        place = (step.system.name, step.scenario, step.connections)
        head = f"[{number}/{len(steps)}{_rest(started, number, len(steps))}] {step.scenario.value}"
        print(f"{head}, {step.connections:,} connections, {step.system.name}", end="", flush=True)
        if place in given_up:
            print(": failed before, left out", flush=True)
            continue
        try:
            _perform_one(step, settings, writer)
        except (ServerFailed, GeneratorFailed) as error:
            given_up.add(place)
            print(f": FAILED: {error}", end="", flush=True)
            fields = {"system": step.system.name, "scenario": step.scenario.value, "connections": step.connections}
            writer.write("failed", **fields, repeat=step.repeat, why=without_folders(str(error)))
        print(flush=True)


def _rest(started: float, number: int, total: int) -> str:
    """How long the rest will take if it goes on like this."""
    if number < 4:
        return ""
    minutes = (time.monotonic() - started) / (number - 1) * (total - number + 1) / 60
    return f", {minutes:.0f} min left"


def _perform_one(step: Step, settings: Settings, writer: Writer) -> None:
    for phase, figures in measure(step.system, step.scenario, step.connections, settings):
        print(f" | {phase} {_short(figures)}", end="", flush=True)
        writer.write(
            "figures",
            system=step.system.name,
            scenario=step.scenario.value,
            phase=phase,
            connections=step.connections,
            repeat=step.repeat,
            figures=dict(figures),
        )


def _short(figures: Figures) -> str:
    """What a person wants to see while it runs."""
    if "kib_per_connection" in figures:
        return f"{figures['kib_per_connection']:.1f} KiB, {figures['connects_per_s']:,.0f} connects/s"
    speed = f"{figures.get('cpu_us', 0.0):.2f} µs, {figures['deliveries_per_s']:,.0f}/s"
    text = f"{speed}, p99 {figures['p99_us'] / 1e3:.1f} ms"
    wrong = [f"{name} {figures[name]:,.0f}" for name in ("missing", "disorder", "corrupt", "closed") if figures[name]]
    return f"{text} ({', '.join(wrong)})" if wrong else text

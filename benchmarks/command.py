"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import datetime
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from antiphon import __version__
from benchmarks.fleet.machine import allow_many_files, describe, divide_cores
from benchmarks.fleet.results import Writer, latest, read
from benchmarks.fleet.scenarios import Settings
from benchmarks.fleet.schedule import perform, plan_steps, prepare
from benchmarks.fleet.selfcheck import check_generator
from benchmarks.fleet.systems import SYSTEMS, Scenario, System
from benchmarks.report.document import write_report
from benchmarks.report.summary import summarise

__all__ = ["main"]

FOLDER = Path(__file__).parent
OUT = FOLDER / "out"


def _names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in _names(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, like 1,100,1000") from None
    if not sizes or min(sizes) < 1:
        raise argparse.ArgumentTypeError("needs numbers from 1 on")
    return sizes


def _scenarios(text: str) -> tuple[Scenario, ...]:
    known = {scenario.value: scenario for scenario in Scenario}
    unknown = [name for name in _names(text) if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}. There are: {', '.join(known)}")
    return tuple(known[name] for name in _names(text))


def _systems(text: str) -> tuple[System, ...]:
    known = {system.name: system for system in SYSTEMS}
    unknown = [name for name in _names(text) if name not in known]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}. There are: {', '.join(known)}")
    return tuple(system for system in SYSTEMS if system.name in _names(text))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python3 run bench",
        description="Put the same load on Antiphon, its peers and a C program, each on one core, and compare.",
        epilog="What is measured, how, and what can mislead: benchmarks/README.md.",
    )
    add = parser.add_argument
    add("--list", action="store_true", help="say which systems and scenarios there are, and stop")
    add("--only", type=_systems, default=SYSTEMS, metavar="a,b", help="only these systems")
    add("--scenarios", type=_scenarios, default=tuple(Scenario), metavar="a,b", help="only these scenarios")
    add("--connections", type=_sizes, metavar="1,100", help="numbers of connections (default 1,100,1000,5000)")
    add("--repeats", type=int, metavar="N", help="how often each is measured (default 3)")
    add("--duration", type=float, metavar="S", help="seconds of each measurement (default 3)")
    add("--threads", type=int, default=2, metavar="N", help="cores for the load generator (default 2)")
    add("--spin", action="store_true", help="clients poll instead of sleeping: they cost the server no wake-ups")
    add("--quick", action="store_true", help="100 connections, one repeat of 1 s: does everything work?")
    add("--report", action="store_true", help="write benchmarks/RESULTS.md and its plot afterwards")
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="FILE",
        help="measure nothing: report on this file of results, or `latest`",
    )
    return parser


def _list() -> None:
    for system in SYSTEMS:
        scenarios = ", ".join(scenario.value for scenario in system.paths)
        print(f"{system.name:20} {system.label:38} {scenarios}")


def _settings(options: argparse.Namespace) -> Settings:
    duration_s = options.duration or (1.0 if options.quick else 3.0)
    return Settings(
        cores=divide_cores(threads=options.threads),
        duration_s=duration_s,
        warm_s=0.3 if options.quick else 1.0,
        stuck_s=max(duration_s, 6.0 if options.quick else 20.0),
        settle_s=0.5 if options.quick else 2.0,
        spin=options.spin,
        folder=OUT / "work",
    )


def _measure(options: argparse.Namespace, arguments: Sequence[str]) -> tuple[Path, bool]:
    """Run; return the file of results, and whether the run came to its end."""
    allow_many_files()
    settings = _settings(options)
    settings.folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    writer = Writer(OUT / f"{now:%Y%m%dT%H%M%SZ}.jsonl")
    command = shlex.join(["python3", "run", "bench", *arguments])
    writer.write("machine", **describe(settings.cores), command=command, date=f"{now:%Y-%m-%d %H:%M} UTC")
    try:
        writer.write("versions", antiphon=f"{__version__} (source tree)")
        systems = prepare(options.only, writer)
        writer.write("selfcheck", noticed=check_generator(settings))
        sizes = options.connections or ((100,) if options.quick else (1, 100, 1000, 5000))
        repeats = options.repeats or (1 if options.quick else 3)
        perform(plan_steps(systems, options.scenarios, sizes, repeats), settings, writer)
    except KeyboardInterrupt:
        print(f"\nbench: stopped. What was measured is in {writer.path.relative_to(FOLDER.parent)}", flush=True)
        return writer.path, False
    return writer.path, True


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out one command; the result is the status for the shell."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(given)
    if options.list:
        _list()
        return 0
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    finished = True
    if options.source:
        path = latest(OUT) if str(options.source) == "latest" else options.source
    else:
        path, finished = _measure(options, given)
    run = read(path)
    print(summarise(run))
    if options.report or options.source:
        for written in write_report(run, FOLDER):
            print(f"wrote {written.relative_to(FOLDER.parent)}")
    return 0 if finished else 130

"""What a system of the benchmark is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from benchmarks.fleet.cache import Component
from benchmarks.fleet.servers import Launch

__all__ = ["APPS", "Family", "Place", "Plan", "Scenario", "System"]

APPS = Path(__file__).parent / "apps"


class Family(str, Enum):
    """For the report's order and colours."""

    LIMIT = "limit"
    ANTIPHON = "antiphon"
    PYTHON = "python"
    OTHER = "other"


class Scenario(str, Enum):
    """What can be measured; a system names the path for each that makes sense with it."""

    FANOUT = "fanout"
    IDLE = "idle"
    TOPICS = "topics"
    DEFLATE = "deflate"
    STUCK = "stuck"


@dataclass(frozen=True, slots=True)
class Place:
    """Where one start of a system happens: its port, another one if it needs it, and a folder for its files."""

    port: int
    second_port: int
    folder: Path


@dataclass(frozen=True, slots=True)
class Plan:
    """The server, and what has to run before it."""

    server: Launch
    helpers: Sequence[Launch] = ()


@dataclass(frozen=True, slots=True)
class System:
    """A server that sends what one client says to all the others."""

    name: str
    label: str
    family: Family
    needs: tuple[Component, ...]
    start: Callable[[Place], Plan]
    paths: Mapping[Scenario, str]
    protocol: str = "raw"
    subprotocol: str | None = None
    note: str = ""
    """For the report: what exactly runs."""

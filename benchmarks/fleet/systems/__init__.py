"""The systems that are compared. To add one: a `System` in one of these modules, and its program in `apps/`."""

from __future__ import annotations

from benchmarks.fleet.systems import native, other, own, python
from benchmarks.fleet.systems.system import Family, Place, Plan, Scenario, System

__all__ = ["SYSTEMS", "Family", "Place", "Plan", "Scenario", "System"]

SYSTEMS: tuple[System, ...] = (*native.SYSTEMS, *own.SYSTEMS, *python.SYSTEMS, *other.SYSTEMS)

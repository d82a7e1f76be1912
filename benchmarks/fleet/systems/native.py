"""The yardsticks: C programs that do nothing but send."""

from __future__ import annotations

from benchmarks.fleet.cache import Native
from benchmarks.fleet.servers import Launch
from benchmarks.fleet.systems.system import Family, Place, Plan, Scenario, System

__all__ = ["SYSTEMS"]

_LIMIT = Native("limit")


def _limit(place: Place) -> Plan:
    return Plan(Launch([str(_LIMIT.path), "--port", str(place.port)], place.port))


def _joined(place: Place) -> Plan:
    return Plan(Launch([str(_LIMIT.path), "--port", str(place.port), "--join"], place.port))


SYSTEMS = (
    System(
        name="c_limit",
        label="C, one frame, one send() each",
        family=Family.LIMIT,
        needs=(_LIMIT,),
        start=_limit,
        paths={
            Scenario.FANOUT: "/ws",
            Scenario.IDLE: "/ws",
            Scenario.TOPICS: "/topics",
            Scenario.DEFLATE: "/ws",
            Scenario.STUCK: "/ws",
        },
        note="epoll, one thread, one prebuilt frame; the denominator of all ratios",
    ),
    System(
        name="c_joined",
        label="C, frames of one turn joined",
        family=Family.LIMIT,
        needs=(_LIMIT,),
        start=_joined,
        paths={Scenario.FANOUT: "/ws"},
        note="the same with the frames of everything that was readable in one turn behind one another",
    ),
)

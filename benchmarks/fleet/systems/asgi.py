"""How ASGI applications of `apps/` are started on the servers that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from benchmarks.fleet.cache import ROOT, Peers
from benchmarks.fleet.servers import Launch
from benchmarks.fleet.systems.system import APPS, Place, Plan

__all__ = ["PEERS", "daphne", "granian", "hypercorn", "python_program", "uvicorn"]

PEERS = Peers("peers")


def _environment(env: Mapping[str, str] | None) -> dict[str, str]:
    # Only the programs and the library come from the source tree; everything else from the environment of the peers.
    return {"PYTHONPATH": f"{APPS}:{ROOT / 'src'}", "PYTHONDONTWRITEBYTECODE": "1", **(env or {})}


def uvicorn(app: str, *, options: Sequence[str] = (), env: Mapping[str, str] | None = None) -> Callable[[Place], Plan]:
    """Plain `uvicorn app:app`, logs of single requests off."""

    def start(place: Place) -> Plan:
        argv = [PEERS.program("uvicorn"), app, "--port", str(place.port), "--log-level", "warning", "--no-access-log"]
        return Plan(Launch([*argv, *options], place.port, _environment(env), place.folder))

    return start


def hypercorn(app: str, *, env: Mapping[str, str] | None = None) -> Callable[[Place], Plan]:
    """One worker on uvloop."""

    def start(place: Place) -> Plan:
        argv = [PEERS.program("hypercorn"), app, "--bind", f"127.0.0.1:{place.port}", "--worker-class", "uvloop"]
        return Plan(Launch([*argv, "--log-level", "WARNING"], place.port, _environment(env), place.folder))

    return start


def granian(app: str, *, env: Mapping[str, str] | None = None) -> Callable[[Place], Plan]:
    """One worker, ASGI, on uvloop."""

    def start(place: Place) -> Plan:
        argv = [PEERS.program("granian"), app, "--interface", "asgi", "--host", "127.0.0.1", "--port", str(place.port)]
        argv += ["--workers", "1", "--ws", "--loop", "uvloop", "--no-access-log", "--log-level", "warning"]
        return Plan(Launch(argv, place.port, _environment(env), place.folder))

    return start


def daphne(app: str) -> Callable[[Place], Plan]:
    """Daphne, quiet."""

    def start(place: Place) -> Plan:
        argv = [PEERS.program("daphne"), "-b", "127.0.0.1", "-p", str(place.port), "-v", "0", app]
        return Plan(Launch(argv, place.port, _environment(None), place.folder))

    return start


def python_program(name: str) -> Callable[[Place], Plan]:
    """A program of `apps/` that takes the port as its argument."""

    def start(place: Place) -> Plan:
        argv = [PEERS.program("python"), str(APPS / f"{name}.py"), str(place.port)]
        return Plan(Launch(argv, place.port, _environment(None), place.folder))

    return start

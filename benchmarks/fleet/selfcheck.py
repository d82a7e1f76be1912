"""Before a run: does the load generator notice a server that loses, doubles, damages or swaps messages?"""

from __future__ import annotations

from benchmarks.fleet.cache import Native
from benchmarks.fleet.generator import Generator, Result, Target
from benchmarks.fleet.scenarios import Settings
from benchmarks.fleet.servers import Launch, Servers, free_port

__all__ = ["check_generator"]

_LIMIT = Native("limit")
_EXPECTED = {
    "": (),
    "lose": ("missing",),
    "double": ("disorder",),
    "damage": ("corrupt", "missing"),
    "swap": ("disorder", "missing"),
}
"""For each fault the counters that have to show it; all others have to stay at 0."""


def check_generator(settings: Settings) -> str:
    """Run the C server with each fault. Returns what was noticed; SystemExit when something was not."""
    _LIMIT.prepare()
    noticed = []
    for fault, expected in _EXPECTED.items():
        result = _run(fault, settings)
        counts = {name: int(getattr(result, name)) for name in ("missing", "disorder", "corrupt")}
        if any((count > 0) != (name in expected) for name, count in counts.items()):
            raise SystemExit(f"bench: the load generator is wrong: {fault or 'no'} fault, but it counted {counts}")
        if expected:
            noticed.append(f"{fault} {counts[expected[0]]}")
    return ", ".join(noticed)


def _run(fault: str, settings: Settings) -> Result:
    port = free_port()
    argv = [str(_LIMIT.path), "--port", str(port), *(["--fault", fault] if fault else [])]
    log = settings.folder / "logs" / "selfcheck.log"
    with Servers(server_core=settings.cores.server, helper_cores=settings.cores.rest, log=log) as servers:
        servers.start(Launch(argv, port), [])
        target = Target(port, "/ws", "raw", None)
        with Generator(target, connections=10, cores=settings.cores.clients, publishers=1) as generator:
            return generator.run("rate per_s=1000 warm_s=0 duration_s=0.5", begin=_nothing, end=_nothing)


def _nothing() -> None:
    """Nothing is measured here."""

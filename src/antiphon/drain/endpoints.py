"""What load balancers and orchestrators ask: is it ready, does it live, and let it drain."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from antiphon.drain.sequence import Drain
from antiphon.health.status import Health, health_of
from antiphon.health.vitals import Measured
from antiphon.manager import managers_here

__all__ = ["drain_endpoint", "health_endpoint", "liveness_endpoint", "readiness", "replica_health"]

Endpoint: TypeAlias = Callable[[Request], Awaitable[Response]]

_FRESH = {"Cache-Control": "no-store"}


def replica_health(*, red_when_degraded: bool = False) -> Health:
    """How this process is: all its managers, and whether it drains. Never raises."""
    managers = managers_here()
    since_s: dict[str, float] = {}
    for manager in managers:
        if isinstance(manager, Measured):
            stats, history = manager.stats(), manager.vitals().history
            if history is not None and stats.link is not None:
                since_s[stats.link.replica] = history.since_s
    return health_of(
        [manager.stats() for manager in managers],
        draining=Drain.has_begun(),
        red_when_degraded=red_when_degraded,
        since_s=since_s,
    )


def readiness(*, red_when_degraded: bool = False) -> Endpoint:
    """An endpoint for a load balancer: 200 when new clients should come here, 503 when not; both with a JSON object.

        Route("/readyz", antiphon.readiness(red_when_degraded=True))

    A replica whose broker is away is ready, and says `degraded`; with `red_when_degraded` it answers 503: only for
    applications that are of no use without the other replicas, since all of them turn red together.
    """

    async def endpoint(request: Request) -> Response:
        health = replica_health(red_when_degraded=red_when_degraded)
        return JSONResponse(health.as_dict(), 200 if health.ready else 503, headers=_FRESH)

    return endpoint


async def health_endpoint(request: Request) -> Response:
    """`readiness()` for `Route("/readyz", antiphon.health_endpoint)`. Shows no address, version or name."""
    return await readiness()(request)


async def liveness_endpoint(request: Request) -> Response:
    """200 as long as the event loop answers, for `Route("/livez", …)`: a broker that is away is no reason to kill."""
    return JSONResponse({"status": "alive"}, headers=_FRESH)


async def drain_endpoint(request: Request) -> Response:
    """`Drain.endpoint` of this process, for `Route("/drain", antiphon.drain_endpoint, methods=["POST"])`."""
    return await Drain.current().endpoint(request)

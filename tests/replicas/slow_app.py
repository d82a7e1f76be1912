"""A replica with slow clients, as an application would set it up. Started by `uvicorn --app-dir`; WAY=install installs
the quick way to the sockets.
"""

from __future__ import annotations

import logging
import os

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import antiphon
from antiphon.transports.base import SendLimits

logging.basicConfig(level=logging.INFO, format="%(created).3f %(levelname)s %(name)s: %(message)s")
logging.captureWarnings(True)

# Comments wait for as long as the slowest machine takes for the test.
manager = antiphon.WebSocketManager(channel="live", send_limits=SendLimits(queued_age_s=120))
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


async def ws(websocket: WebSocket) -> None:
    await manager.serve(websocket)


async def state(request: Request) -> JSONResponse:
    stats = manager.stats()
    with open("/proc/self/statm") as file:
        rss_bytes = int(file.read().split()[1]) * PAGE_BYTES
    return JSONResponse(
        {
            "state": stats.state.value,
            "connections": stats.connections,
            "delivered": stats.delivered,
            "lost": dict(stats.lost),
            "dropped_slow": dict(stats.dropped_slow),
            "queued_bytes": manager.vitals().queued_bytes,
            "rss_bytes": rss_bytes,
        }
    )


app = Starlette(routes=[WebSocketRoute("/ws", ws), Route("/state", state)], lifespan=antiphon.lifespan)
if os.environ.get("WAY") == "install":
    antiphon.install(app)

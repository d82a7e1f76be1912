"""A replica that drains, as an application would set it up. Started by `uvicorn --app-dir`; WAY=install installs the
quick way to the sockets.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

import antiphon
from antiphon.drain import drain_endpoint, drains_on_signals, health_endpoint
from antiphon.manager import WebSocketManager
from antiphon.metrics import metrics_endpoint

logging.basicConfig(level=logging.INFO, format="%(created).3f %(levelname)s %(name)s: %(message)s")
logging.captureWarnings(True)

manager = WebSocketManager(channel="live")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    with drains_on_signals():
        await manager.start()
        yield
        await manager.stop()


async def ws(websocket: WebSocket) -> None:
    topics = [topic for topic in websocket.query_params.get("topics", "").split(",") if topic]
    await manager.serve(websocket, websocket.query_params.get("user_id"), topics=topics)


async def publish(request: Request) -> JSONResponse:
    receipt = await manager.broadcast(await request.json())
    return JSONResponse({"scope": receipt.scope, "queued": receipt.queued})


async def block(request: Request) -> JSONResponse:
    time.sleep(float(request.query_params["s"]))  # on purpose: a handler that holds up everybody
    return JSONResponse({})


app = Starlette(
    routes=[
        WebSocketRoute("/ws", ws),
        Route("/readyz", health_endpoint),
        Route("/metrics", metrics_endpoint),
        Route("/drain", drain_endpoint, methods=["POST"]),
        Route("/publish", publish, methods=["POST"]),
        Route("/block", block, methods=["POST"]),
    ],
    lifespan=lifespan,
)
if os.environ.get("WAY") == "install":
    antiphon.install(app)

"""The same application with Antiphon's manager; `BENCH_INSTALL` chooses the variant.

`/ws` is an endpoint with a loop of its own, `/serve` leaves the reading to the manager, `/topics` listens to one topic
and, for every message that comes in, publishes one to each topic.
"""

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

import antiphon
from antiphon import Connection, Limits, WebSocketManager

app = FastAPI(lifespan=antiphon.lifespan)
# Four clients publish as much as the server takes: honest ones are held to 100 messages a second.
LIMITS = Limits(
    frames_per_s=1_000_000, frames_burst=1_000_000, inbound_bytes_per_s=1_000_000_000, inbound_bytes_burst=1_000_000_000
)
manager = WebSocketManager(channel="bench", limits=LIMITS)
routed = WebSocketManager(channel="routed")
topics: set[str] = set()


@app.websocket("/ws")
async def endpoint(websocket: WebSocket) -> None:
    """What one client sends goes to all."""
    await manager.connect(websocket)
    try:
        while True:
            message = await websocket.receive_json()
            await manager.broadcast(message)
    except WebSocketDisconnect:
        pass
    finally:
        manager.disconnect(websocket)


async def publish(connection: Connection, message: object) -> None:
    """What a served client sends goes to all."""
    await manager.broadcast(message)


@app.websocket("/serve")
async def served(websocket: WebSocket) -> None:
    """An endpoint that leaves reading to the manager."""
    await manager.serve(websocket, on_message=publish)


@app.websocket("/topics")
async def topic_endpoint(websocket: WebSocket, topic: str) -> None:
    """One topic a client; a message goes to every topic, each as a publication of its own."""
    name = f"topic:{topic}"
    topics.add(name)
    await routed.connect(websocket, topics=(name,))
    try:
        while True:
            message = await websocket.receive_json()
            for each in topics:
                await routed.broadcast(message, topic=each)
    except WebSocketDisconnect:
        pass
    finally:
        routed.disconnect(websocket)


if os.environ.get("BENCH_INSTALL"):
    antiphon.install(app)

"""The same application with Antiphon's manager; `BENCH_INSTALL` chooses the variant.

`/ws` is an endpoint with a loop of its own, `/serve` leaves the reading to the manager, `/topics` listens to one topic
and, for every message that comes in, publishes one to each topic.
"""

import os

from fastapi import FastAPI, WebSocket, WebSocketDisconnect

import antiphon
from antiphon import Connection, WebSocketManager

app = FastAPI(lifespan=antiphon.lifespan)
manager = WebSocketManager(channel="bench")
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

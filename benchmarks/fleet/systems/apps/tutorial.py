"""The manager of FastAPI's tutorial ("Advanced User Guide: WebSockets"), as it stands there."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect


class ConnectionManager:
    """Every connection in a list; a broadcast sends to one after the other."""

    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        """Accept, and remember."""
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        """Forget."""
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        """Send to all, one after the other."""
        for connection in self.active_connections:
            await connection.send_text(message)


app = FastAPI()
manager = ConnectionManager()


@app.websocket("/ws")
async def endpoint(websocket: WebSocket) -> None:
    """What one client sends goes to all."""
    await manager.connect(websocket)
    try:
        while True:
            data = await websocket.receive_text()
            await manager.broadcast(data)
    except WebSocketDisconnect:
        manager.disconnect(websocket)

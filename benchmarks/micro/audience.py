"""A hub with real sockets behind it, for counting: the quick transport on socket pairs, in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from starlette.websockets import WebSocket

from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.manager import WebSocketManager
from antiphon.publication import Publication, new_publication
from antiphon.transports.base import SendLimits
from antiphon.transports.door import EXTENSION, Door
from antiphon.transports.sockets import SocketLane, SocketTransport

__all__ = ["MESSAGE", "Audience", "ManagedAudience", "audience", "publication"]

MESSAGE = {"type": "new_comment", "track_id": "12345", "comment": {"id": 7, "content": "x" * 120}}


class _Protocol(asyncio.Protocol):
    """What a server's protocol object tells a door."""

    door: Door

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.door = Door(cast(asyncio.Transport, transport), say_close=self.say_close)
        self.door.open()

    def connection_lost(self, error: Exception | None) -> None:
        self.door.lost()

    def pause_writing(self) -> None:
        self.door.writing_paused()

    def resume_writing(self) -> None:
        self.door.writing_resumed()

    def say_close(self, code: int, reason: str) -> None:
        self.door.transport.close()


class _Sockets:
    """Accepted sockets, and the clients' ends of them."""

    def __init__(self) -> None:
        self.clients: list[socket.socket] = []
        self._transports: list[asyncio.BaseTransport] = []

    async def accept(self) -> Door:
        """One client more."""
        served, client = socket.socketpair()
        client.setblocking(False)
        self.clients.append(client)
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(_Protocol, served)
        self._transports.append(transport)
        return protocol.door

    def received(self) -> list[bytes]:
        """What each client has got, and not read before."""
        return [_read(client) for client in self.clients]

    async def close(self) -> None:
        """Close all sockets."""
        for transport in self._transports:
            transport.close()
        for client in self.clients:
            client.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


class Audience(_Sockets):
    """A hub with connections."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = SocketLane()
        self.hub = Hub("bench")
        self.connections: list[Connection] = []

    async def join(self, topics: tuple[str, ...] = ()) -> Connection:
        """One client more."""
        number = len(self.clients)
        door = await self.accept()
        quick = SocketTransport(door, lane=self.lane, on_lost=lambda reason: None, limits=SendLimits())
        connection = Connection(f"c{number}", user_id=None, transport=quick)
        self.connections.append(connection)
        self.hub.add(connection)
        for topic in topics:
            self.hub.subscribe(connection, topic)
        return connection

    async def deliver(self, *publications: Publication) -> None:
        """Deliver them in one turn of the event loop, and wait until all is written."""
        for each in publications:
            self.hub.deliver(each)
        while self.lane.backlog_bytes:
            await asyncio.sleep(0)
        # The turn after the last write belongs to it.
        await asyncio.sleep(0)

    async def close(self) -> None:
        """Close all sockets."""
        self.lane.close()
        await super().close()


class ManagedAudience(_Sockets):
    """A whole manager without a broker, and its connections."""

    def __init__(self) -> None:
        super().__init__()
        self.manager = WebSocketManager(channel="bench", url="")
        self._websockets: list[WebSocket] = []
        """Held as an endpoint holds its own: a socket that nobody holds is forgotten."""

    async def join(self, topics: tuple[str, ...] = ()) -> WebSocket:
        """One client more."""
        extensions = {EXTENSION: {"door": await self.accept()}}
        scope = {"type": "websocket", "path": "/", "headers": [], "extensions": extensions}
        websocket = WebSocket(scope, receive=_receive, send=_send)
        await self.manager.connect(websocket, topics=topics, accept=False)
        self._websockets.append(websocket)
        return websocket

    async def written(self) -> None:
        """Wait until all that was published is written."""
        assert self.manager._attachment is not None
        while self.manager._attachment.lanes.backlog_bytes:
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Close all sockets, and the manager."""
        await self.manager.close()
        await super().close()


async def _receive() -> dict[str, object]:
    raise AssertionError("nobody reads here")


async def _send(event: object) -> None:
    raise AssertionError("the quick way to the sockets does not go through ASGI")


def _read(client: socket.socket) -> bytes:
    parts = []
    while True:
        try:
            parts.append(client.recv(1024 * 1024))
        except BlockingIOError:
            return b"".join(parts)


def publication(number: int = 0, *, topic: str | None = None) -> Publication:
    """A publication of about 200 bytes."""
    message = {**MESSAGE, "number": number}
    return new_publication(message, sender="replica", channel="bench", limit_bytes=65_536, topic=topic)


@asynccontextmanager
async def audience(size: int) -> AsyncIterator[Audience]:
    """So many clients, all warm: each has had a message already."""
    made = Audience()
    try:
        for _ in range(size):
            await made.join()
        await made.deliver(publication())
        made.received()
        yield made
    finally:
        await made.close()

"""A hub with real sockets behind it, for counting: the quick transport on socket pairs, in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.publication import Publication, new_publication
from antiphon.transports.base import SendLimits
from antiphon.transports.door import Door
from antiphon.transports.sockets import SocketLane, SocketTransport

__all__ = ["MESSAGE", "Audience", "audience", "publication"]

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


class Audience:
    """A hub with connections, and the clients' ends of their sockets."""

    def __init__(self) -> None:
        self.lane = SocketLane()
        self.hub = Hub("bench")
        self.clients: list[socket.socket] = []
        self.connections: list[Connection] = []
        self._transports: list[asyncio.BaseTransport] = []

    async def join(self, topics: tuple[str, ...] = ()) -> Connection:
        """One client more."""
        number = len(self.clients)
        served, client = socket.socketpair()
        client.setblocking(False)
        self.clients.append(client)
        transport, protocol = await asyncio.get_running_loop().connect_accepted_socket(_Protocol, served)
        self._transports.append(transport)
        quick = SocketTransport(protocol.door, lane=self.lane, on_lost=lambda reason: None, limits=SendLimits())
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

    def received(self) -> list[bytes]:
        """What each client has got, and not read before."""
        return [_read(client) for client in self.clients]

    async def close(self) -> None:
        """Close all sockets."""
        self.lane.close()
        for transport in self._transports:
            transport.close()
        for client in self.clients:
            client.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


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

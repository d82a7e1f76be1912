"""A uvicorn of the test's own, in its event loop, with an application that speaks to lanes and groups directly."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import ClientConnection, connect

from antiphon import install
from antiphon.serving import DEFLATING_PROTOCOL, PROTOCOL
from antiphon.transports.base import Group, Lane, SendLimits, Transport
from antiphon.transports.choice import Lanes, transport_for
from antiphon.wire.frames import Frame

Way = Literal["asgi", "install", "protocol", "deflating"]
PROTOCOLS: dict[Way, str] = {
    "asgi": "websockets-sansio",
    "install": "websockets-sansio",
    "protocol": PROTOCOL,
    "deflating": DEFLATING_PROTOCOL,
}
WAYS = tuple(PROTOCOLS)
DOORS: tuple[Way, ...] = ("install", "protocol", "deflating")

WAIT_S = 15.0
"""How long a test waits for what has to happen, on a machine that is busy with other things."""


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other tasks make true; fail when it takes far too long."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        await asyncio.sleep(0.005)


@dataclass(eq=False)
class Client:
    """One accepted socket, as the server's side of the test sees it."""

    websocket: WebSocket
    transport: Transport
    lost: list[str] = field(default_factory=list)
    left: asyncio.Event = field(default_factory=asyncio.Event)
    left_with: str = ""


class Everybody:
    """All sockets that are there, of whatever lane."""

    def __init__(self) -> None:
        self.groups: dict[Lane, Group] = {}

    def add(self, transport: Transport) -> None:
        lane = transport.lane
        if lane not in self.groups:
            self.groups[lane] = lane.group()
        self.groups[lane].add(transport)

    def discard(self, transport: Transport) -> None:
        self.groups[transport.lane].discard(transport)

    def deliver(self, frame: Frame) -> None:
        for group in self.groups.values():
            group.deliver(frame)

    def __len__(self) -> int:
        return sum(map(len, self.groups.values()))


class Site:
    """The server's side: its clients in the order they came, one group of them all, and the address."""

    def __init__(self, *, way: Way, limits: SendLimits) -> None:
        self.way = way
        self.limits = limits
        self.clients: list[Client] = []
        self.lanes = Lanes()
        self.everybody = Everybody()
        self.url = ""
        self.port = 0
        self.server: uvicorn.Server | None = None

    async def endpoint(self, websocket: WebSocket) -> None:
        """Join everybody's group, echo what comes in, until the client goes or says "return"."""
        await websocket.accept()
        lost: list[str] = []
        transport = transport_for(websocket, lanes=self.lanes, on_lost=lost.append, limits=self.limits)
        client = Client(websocket, transport, lost)
        self.everybody.add(transport)
        self.clients.append(client)
        try:
            while True:
                message = await websocket.receive()
                if message["type"] == "websocket.disconnect":
                    client.left_with = f"disconnect {message['code']}"
                    return
                if message.get("text") == "return":
                    return
                if message.get("bytes") is not None:
                    await websocket.send_bytes(message["bytes"])
                else:
                    await websocket.send_text(message["text"])
        except (RuntimeError, WebSocketDisconnect) as error:
            client.left_with = type(error).__name__
        finally:
            self.everybody.discard(transport)
            transport.detach()
            client.left.set()

    def deliver(self, *texts: str) -> None:
        """Deliver to everybody, in this turn of the event loop."""
        for text in texts:
            self.everybody.deliver(Frame.of_text(text))

    async def came(self, number: int) -> list[Client]:
        """The first clients, when so many have come."""
        await until(lambda: len(self.clients) >= number)
        return self.clients[:number]

    @property
    def sockets(self) -> int:
        """Connections that the server still holds."""
        assert self.server is not None
        return len(self.server.server_state.connections)


@asynccontextmanager
async def site(way: Way, *, limits: SendLimits | None = None, **options: object) -> AsyncIterator[Site]:
    """Serve a `Site` in this event loop; `options` are those of `serving`."""
    served = Site(way=way, limits=limits or SendLimits())
    async with serving(way, served.endpoint, **options) as (server, url):  # type: ignore[arg-type] # as said
        served.server = server
        served.url = url
        served.port = int(url.removesuffix("/").rpartition(":")[2])
        yield served
    served.lanes.close()
    await asyncio.sleep(0)


@asynccontextmanager
async def serving(
    way: Way,
    endpoint: Callable[[WebSocket], Awaitable[None]],
    *,
    tls: tuple[str, str] | None = None,
    send_buffer_bytes: int | None = None,
    ping_s: float | None = None,
    deflate: bool = True,
) -> AsyncIterator[tuple[uvicorn.Server, str]]:
    """Serve one WebSocket endpoint in this event loop. Yields the server and the address."""
    app = Starlette(routes=[WebSocketRoute("/", endpoint)])
    config = uvicorn.Config(
        install(app) if way == "install" else app,
        ws=PROTOCOLS[way],
        lifespan="off",
        log_config=None,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
        ws_ping_interval=ping_s,
        ws_ping_timeout=ping_s,
        ws_per_message_deflate=deflate,
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listening = socket.socket()
    if send_buffer_bytes is not None:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    listening.bind(("127.0.0.1", 0))
    await server.startup(sockets=[listening])
    try:
        yield server, f"{'wss' if tls else 'ws'}://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)


@asynccontextmanager
async def clients(
    served: Site, number: int = 1, *, tls: bool = False, compression: str | None = "deflate"
) -> AsyncIterator[list[ClientConnection]]:
    """So many connected clients; the server knows them in the same order."""
    before = len(served.clients)
    context = None
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opened: list[ClientConnection] = []
    try:
        for _ in range(number):
            opened.append(
                await connect(
                    served.url,
                    ssl=context,
                    compression=compression,
                    max_size=None,
                    ping_interval=None,
                    open_timeout=WAIT_S,
                )
            )
            await served.came(before + len(opened))
        yield opened
    finally:
        for client in opened:
            client.transport.abort()


async def texts(client: ClientConnection, number: int) -> list[str]:
    """The next so many messages."""
    received: list[str] = []
    async with asyncio.timeout(WAIT_S):
        while len(received) < number:
            message = await client.recv()
            assert isinstance(message, str)
            received.append(message)
    return received


HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


class DeafClient:
    """Opens a WebSocket, and then reads nothing unless told to."""

    def __init__(self, served: Site, *, receive_buffer_bytes: int = 4096) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self.socket.setblocking(False)
        self._port = served.port

    async def __aenter__(self) -> DeafClient:
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.socket, ("127.0.0.1", self._port))
        await loop.sock_sendall(self.socket, HANDSHAKE)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await loop.sock_recv(self.socket, 1)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.socket.close()

    async def read_to_end(self) -> tuple[bytes, bool]:
        """Everything that is still to be had, and whether the connection was reset rather than closed."""
        loop = asyncio.get_running_loop()
        data = b""
        async with asyncio.timeout(WAIT_S):
            while True:
                try:
                    chunk = await loop.sock_recv(self.socket, 65536)
                except ConnectionError:
                    return data, True
                if not chunk:
                    return data, False
                data += chunk

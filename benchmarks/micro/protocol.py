"""The library's uvicorn protocol on wires that lead nowhere."""

from __future__ import annotations

import asyncio
import logging
import struct
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import uvicorn
from uvicorn.server import ServerState

from antiphon.transports.uvicorn import AntiphonProtocol

__all__ = ["REQUEST", "Server", "Wire", "server", "text"]

REQUEST = (
    b"GET /ws?room=1 HTTP/1.1\r\nhost: example.org\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
    b"origin: https://example.org\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)


class Wire(asyncio.Transport):
    """Takes everything that is written."""

    __slots__ = ()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Gone."""

    def close(self) -> None:
        """Stays open."""

    def is_closing(self) -> bool:
        return False

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Goes on."""

    def resume_reading(self) -> None:
        """Goes on."""

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is kept."""


class Server:
    """Makes protocol objects as uvicorn does; the application leaves its socket to the library and returns."""

    def __init__(self) -> None:
        received: list[Mapping[str, object]] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            assert scope["extensions"]["antiphon"]["door"].adopt(received.append)

        self.received = received
        self.config = uvicorn.Config(app, log_config=None, lifespan="off", ws_ping_interval=20.0)
        self.config.load()
        self.state = ServerState()
        self.app_state: dict[str, Any] = {}
        self.state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]

    def begin(self, wire: Wire) -> AntiphonProtocol:
        protocol = AntiphonProtocol(self.config, self.state, self.app_state)
        protocol.connection_made(wire)
        protocol.data_received(REQUEST)
        return protocol

    async def settled(self) -> None:
        while self.state.tasks:
            await asyncio.sleep(0)


@contextmanager
def _quiet() -> Iterator[None]:
    """uvicorn writes no line for a socket, whatever was set up for its log before: writing is not what is counted."""
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "uvicorn.access")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """Warm: two clients have been there."""
    with _quiet():
        async with _server() as made:
            yield made


@asynccontextmanager
async def _server() -> AsyncIterator[Server]:
    made = Server()
    for _ in range(2):
        first = made.begin(Wire())
        await made.settled()
        first.data_received(text(b"{}"))
        first.connection_lost(None)
    made.received.clear()
    yield made
    for protocol in list(made.state.connections):
        protocol.connection_lost(None)
    await made.settled()


def text(payload: bytes, *, first: int = 0x81) -> bytes:
    """A masked frame of a client."""
    size = len(payload)
    header = bytes((first, 0x80 | size)) if size < 126 else struct.pack("!BBH", first, 0xFE, size)
    return header + bytes(4) + payload

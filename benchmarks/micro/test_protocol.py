"""The library's uvicorn protocol: what a connect, an incoming message and an idle connection cost."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from antiphon.transports.uvicorn import AntiphonProtocol
from benchmarks.micro.counting import count, peak_bytes

REQUEST = (
    b"GET /ws?room=1 HTTP/1.1\r\nhost: example.org\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n"
    b"origin: https://example.org\r\nuser-agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    b"sec-websocket-extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
)
MANY = 64


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


@asynccontextmanager
async def server() -> AsyncIterator[Server]:
    """Warm: two clients have been there."""
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


async def test_connect_takes_few_instructions_and_calls() -> None:
    async with server() as made:
        with count() as counts:
            protocols = [made.begin(Wire()) for _ in range(MANY)]
            await made.settled()
        assert all(protocol.door.is_open for protocol in protocols)
        assert counts.instructions / MANY < 1950
        assert counts.calls / MANY < 125


@pytest.mark.parametrize(
    ("data", "messages", "instructions"),
    [
        pytest.param(text(b"x" * 200), 1, 330, id="one message"),
        pytest.param(text(b"x" * 20) * 8, 8, 240, id="eight messages in one read"),
        pytest.param(text(b"x", first=0x01) + text(b"y", first=0x80), 1, 800, id="a message in two fragments"),
    ],
)
async def test_incoming_message_takes_few_instructions(data: bytes, messages: int, instructions: int) -> None:
    async with server() as made:
        protocol = made.begin(Wire())
        await made.settled()
        with count() as counts:
            for _ in range(MANY):
                protocol.data_received(data)
        assert len(made.received) == MANY * messages
        assert counts.instructions / MANY / messages < instructions


async def test_idle_connection_takes_little_memory_and_has_no_parser_and_no_timer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timers = 0

    async with server() as made:
        loop = asyncio.get_running_loop()
        call_at: Callable[..., asyncio.TimerHandle] = loop.call_at

        def counting(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*arguments, **options)

        monkeypatch.setattr(loop, "call_at", counting)
        wires = [Wire() for _ in range(MANY)]
        with peak_bytes() as result:
            protocols = [made.begin(wire) for wire in wires]
            await made.settled()
        assert result[1] / MANY < 900
        assert timers <= 1
        assert all(protocol._parser is None for protocol in protocols)
        assert len({protocol._common for protocol in protocols}) == 1

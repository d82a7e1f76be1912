"""Clients that mean harm: messages above the limit, deflate bombs, broken frames, half a frame, a byte at a time.

Memory is measured in a process of the server's own; the bounds are three times what a quiet machine must show.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
from starlette.websockets import WebSocket

from antiphon import Connection, WebSocketManager
from antiphon.transports.base import SendLimits
from antiphon.transports.choice import Lanes, transport_for
from antiphon.wire.frames import Frame
from tests.transports.echo_server import EchoServer, echo_server
from tests.transports.raw_client import (
    BINARY,
    CONTINUATION,
    PING,
    TEXT,
    Answer,
    close,
    close_frame,
    frame,
    pong,
    raw_client,
    text,
    unconnected_client,
)
from tests.transports.servers import DOORS, HANDSHAKE, WAIT_S, WAYS, Way, clients, serving, site, texts, until

KIB, MIB = 1024, 1024 * 1024
LIMIT_BYTES = 64 * KIB
LARGE_LIMIT_BYTES = 4 * MIB
GROWTH_BYTES = 3 * 2 * MIB
COMPRESSED = 0b100
EVERY_LOOP = ("asyncio", "uvloop")

# The way to the sockets, the event loop, and who reads.
ASGI = [("asgi", "asyncio", "/")]
PROTOCOL = [("protocol", "uvloop", "/"), ("protocol", "uvloop", "/serve"), ("protocol", "asyncio", "/")]
DEFLATING = [
    ("install", "uvloop", "/"),
    ("install", "asyncio", "/serve"),
    ("deflating", "uvloop", "/serve"),
    ("deflating", "asyncio", "/"),
]


@pytest.fixture
def server(way: Way, loop: str, limit_bytes: int) -> Iterator[EchoServer]:
    """A server that has warmed up; it must live and have nothing to tell in its log at the end."""
    with echo_server(way, loop=loop, limit_bytes=limit_bytes) as server:
        yield server
        assert server.log == ""


async def attack(server: EchoServer, *sends: bytes, path: str, offer: str | None = None) -> list[Answer]:
    """Send as much as the server takes, and hear what it says."""
    async with raw_client(server.port, path=path, offer=offer) as client:
        reading = asyncio.create_task(client.answers())
        for data in sends:
            if not await client.send(data):
                break
        return await reading


async def lives(server: EchoServer, *, path: str) -> None:
    """An honest client is served, with a message of nearly the limit."""
    content = f'{{"x":"{"x" * 60_000}"}}'
    async with raw_client(server.port, path=path) as client:
        await client.send(frame(TEXT, content.encode()))
        assert await client.answer() == text(content)
        await client.send(close_frame(1000))
        assert await client.answers() == [close(1000)]


def in_ones(number: int, *, payload: bytes = b"x") -> bytes:
    """A message that never ends, in so many fragments."""
    return frame(TEXT, b"x", fin=False) + frame(CONTINUATION, payload, fin=False) * number


# Sizes


@pytest.mark.parametrize(("way", "loop", "path"), [*ASGI, *PROTOCOL, *DEFLATING])
@pytest.mark.parametrize("limit_bytes", [LIMIT_BYTES])
async def test_message_above_the_limit_is_refused_and_takes_no_memory(server: EchoServer, path: str) -> None:
    await lives(server, path=path)
    before = server.memory_bytes
    for size in (65 * KIB, MIB, 17 * MIB):
        assert await attack(server, frame(TEXT, b"x" * size), path=path) == [close(1009)]
        fragments = (frame(CONTINUATION, b"x" * KIB, fin=False) for _ in range(size // KIB))
        assert await attack(server, frame(TEXT, fin=False), *fragments, path=path) == [close(1009)]
    await lives(server, path=path)
    assert server.memory_bytes - before < GROWTH_BYTES


@pytest.mark.parametrize(("way", "loop", "path"), [*PROTOCOL, *DEFLATING])
@pytest.mark.parametrize("limit_bytes", [LIMIT_BYTES])
async def test_fragments_of_one_byte_count_to_the_limit_and_take_little_memory(server: EchoServer, path: str) -> None:
    await lives(server, path=path)
    before = server.memory_bytes
    with server.peak() as peak:
        assert await attack(server, in_ones(70_000), path=path) == [close(1009)]
    await lives(server, path=path)
    assert server.memory_bytes - before < GROWTH_BYTES
    assert peak[0] < GROWTH_BYTES


@pytest.mark.parametrize(("way", "loop", "path"), [*PROTOCOL, *DEFLATING])
@pytest.mark.parametrize("limit_bytes", [LIMIT_BYTES])
async def test_fragments_without_content_are_not_taken_for_ever(server: EchoServer, path: str) -> None:
    await lives(server, path=path)
    with server.peak() as peak:
        assert await attack(server, in_ones(100_000, payload=b""), path=path) == [close(1009)]
    await lives(server, path=path)
    assert peak[0] < GROWTH_BYTES


@pytest.mark.parametrize(("way", "loop", "path"), [*PROTOCOL, *DEFLATING])
@pytest.mark.parametrize("limit_bytes", [LARGE_LIMIT_BYTES])
async def test_memory_of_what_never_became_a_message_is_free_when_its_client_has_gone(
    server: EchoServer, path: str
) -> None:
    await lives(server, path=path)
    before, sockets = server.memory_bytes, server.sockets
    whole = b"x" * (LARGE_LIMIT_BYTES - 1)
    for begun in (frame(BINARY, whole)[:-1], frame(BINARY, whole, fin=False)) * 20:
        async with raw_client(server.port, path=path) as client:
            await client.send(begun)
    await until(lambda: server.sockets <= sockets)
    await lives(server, path=path)
    assert server.memory_bytes - before < 6 * LARGE_LIMIT_BYTES  # of 40 clients


@pytest.mark.parametrize("path", ["/deaf"])
@pytest.mark.parametrize(("way", "loop", "limit_bytes"), [("protocol", loop, LIMIT_BYTES) for loop in EVERY_LOOP])
async def test_messages_that_nobody_receives_are_left_in_the_socket(server: EchoServer, path: str) -> None:
    tiny, number = frame(PING) + frame(TEXT) * 40_000, 10
    before = server.memory_bytes
    async with contextlib.AsyncExitStack() as opened:
        for _ in range(number):
            client = await opened.enter_async_context(raw_client(server.port, path=path))
            await client.send(tiny)
            assert await client.answer() == pong()
        await lives(server, path="/")
        growth = server.memory_bytes - before
    assert growth < number * MIB + GROWTH_BYTES


# Deflate bombs


def bomb(size: int) -> bytes:
    """Zeros, which deflate to a thousandth. Blocks that refer to nothing before them may be repeated."""
    compressor = zlib.compressobj(level=9, wbits=-9)
    block = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return (block * (size // MIB)).removesuffix(b"\0\0\xff\xff")


@pytest.mark.parametrize(("way", "loop", "limit_bytes"), [("protocol", "uvloop", LARGE_LIMIT_BYTES)])
async def test_deflate_is_not_negotiated_unless_asked_for(server: EchoServer) -> None:
    bad = frame(TEXT, bomb(15 * MIB), rsv=COMPRESSED)
    async with raw_client(server.port, offer="permessage-deflate; client_max_window_bits") as client:
        assert client.field("sec-websocket-extensions") is None
        await client.send(bad)
        assert await client.answers() == [close(1002)]


@pytest.mark.parametrize(("way", "loop", "path"), DEFLATING)
@pytest.mark.parametrize("limit_bytes", [LARGE_LIMIT_BYTES])
async def test_deflate_bomb_is_refused_before_it_has_gone_off(server: EchoServer, path: str) -> None:
    await lives(server, path=path)
    before = server.memory_bytes
    small, large = bomb(15 * MIB), bomb(200 * MIB)
    assert len(small) < 20_000
    assert len(large) < 300_000
    pieces = [large[start : start + 2000] for start in range(0, len(large), 2000)]
    fragments = [frame(TEXT, pieces[0], fin=False, rsv=COMPRESSED)]
    fragments += [frame(CONTINUATION, piece, fin=False) for piece in pieces[1:]]
    for sends in ([frame(TEXT, small, rsv=COMPRESSED)], [frame(BINARY, large, rsv=COMPRESSED)], fragments):
        with server.peak() as peak:
            assert await attack(server, *sends, path=path, offer="permessage-deflate") == [close(1009)]
        assert peak[0] < 2 * LARGE_LIMIT_BYTES + GROWTH_BYTES
    for _ in range(40):
        bomber = attack(server, frame(TEXT, small, rsv=COMPRESSED), path=path, offer="permessage-deflate")
        assert await bomber == [close(1009)]
    await lives(server, path=path)
    assert server.memory_bytes - before < 6 * LARGE_LIMIT_BYTES  # of 43 bombs


# Broken frames, where the library reads


class Service:
    """An endpoint that serves, and what it heard."""

    def __init__(self) -> None:
        self.manager = WebSocketManager(channel="hostile")
        self.messages: list[object] = []
        self.closed = 0

    async def endpoint(self, websocket: WebSocket) -> None:
        await self.manager.serve(websocket, on_message=self.on_message, on_close=self.on_close)

    async def on_message(self, connection: Connection, message: object) -> None:
        self.messages.append(message)
        await self.manager.send_personal_message("heard", connection)

    def on_close(self, connection: Connection) -> None:
        self.closed += 1


@pytest.fixture
async def service(way: Way, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Service, int]]:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)
    served = Service()
    async with serving(way, served.endpoint) as (_, url):
        yield served, int(url.removesuffix("/").rpartition(":")[2])
        await served.manager.close()


def json_frame(number: int) -> bytes:
    return frame(TEXT, b'{"number":%d}' % number)


BROKEN = {
    "invalid UTF-8": (frame(TEXT, b'"\xc3\x28"'), 1007),
    "invalid UTF-8 in fragments": (frame(TEXT, b'"\xc3', fin=False) + frame(CONTINUATION, b'("'), 1007),
    "a reserved bit": (frame(TEXT, b"1", rsv=0b001), 1002),
    "compression that was not agreed upon": (frame(TEXT, b"1", rsv=COMPRESSED), 1002),
    "a reserved opcode": (frame(3, b"1"), 1002),
    "no mask": (frame(TEXT, b"1", mask=None), 1002),
    "a ping of 200 bytes": (frame(PING, b"x" * 200), 1002),
    "a ping in fragments": (frame(PING, b"x", fin=False), 1002),
    "a continuation of nothing": (frame(CONTINUATION, b"1"), 1002),
    "a close code that may not be sent": (close_frame(1006), 1002),
    "17 MiB": (struct.pack("!BBQI", 0x81, 0xFF, 17 * MIB, 0), 1009),
}


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", BROKEN)
async def test_broken_frame_ends_its_own_connection_alone(service: tuple[Service, int], name: str) -> None:
    served, port = service
    broken, code = BROKEN[name]
    async with raw_client(port) as honest, raw_client(port) as hostile:
        await hostile.send(json_frame(1))
        assert await hostile.answer() == text("heard")
        await hostile.send(broken + json_frame(2))
        assert await hostile.answers() == [close(code)]
        await until(lambda: served.closed == 1)
        assert served.messages == [{"number": 1}]
        assert served.manager.get_connection_count() == 1
        await honest.send(json_frame(3))
        assert await honest.answer() == text("heard")
        assert served.messages == [{"number": 1}, {"number": 3}]


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
async def test_binary_is_refused_where_the_library_reads(service: tuple[Service, int]) -> None:
    served, port = service
    async with raw_client(port) as client:
        await client.send(frame(BINARY, b'{"number":1}') + json_frame(2))
        assert await client.answer() == close(1003)
        await client.send(close_frame(1003))
        assert await client.answers() == []
        await until(lambda: served.closed == 1)
        assert served.messages == []


@pytest.mark.every_loop
@pytest.mark.parametrize("way", DOORS)
async def test_text_that_is_no_utf_8_ends_quietly_with_a_close_frame_behind_it(way: Way) -> None:
    """Both in one segment: the closing handshake has begun when the text is looked at."""
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    async with site(way) as served:
        async with raw_client(served.port) as client:
            await served.came(1)
            await client.send(frame(TEXT, b"\xc3\x28") + close_frame(1000))
            assert await client.answers() in ([close(1007)], [close(1000)])
            await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        await until(lambda: served.sockets == 0)
    assert complaints == []


# Clients that take their time


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
async def test_client_that_stays_within_a_frame_still_hears_and_holds_up_nobody(way: Way) -> None:
    async with site(way) as served, raw_client(served.port) as slow, clients(served) as (other,):
        await served.came(2)
        begun = frame(TEXT, b"slowly, but whole")
        for at in range(len(begun)):
            served.deliver(f"to all {at}")
            assert await slow.answer() == text(f"to all {at}")
            assert await texts(other, 1) == [f"to all {at}"]
            await slow.send(begun[at : at + 1])
        assert await slow.answer() == text("slowly, but whole")


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
async def test_client_that_stays_within_a_frame_is_closed_by_the_keep_alive(way: Way) -> None:
    async with site(way, ping_s=0.2) as served, raw_client(served.port) as client:
        await served.came(1)
        await client.send(frame(TEXT, b"never whole")[:-1])
        answers = await client.answers()
        assert [answer.kind for answer in answers] in (["ping", "close"], ["ping"])
        await asyncio.wait_for(served.clients[0].left.wait(), WAIT_S)
        await until(lambda: served.sockets == 0)


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
async def test_handshake_and_frames_that_come_byte_by_byte_are_understood(way: Way) -> None:
    async with site(way) as served, unconnected_client(served.port) as slow, clients(served) as (other,):
        for at in range(len(HANDSHAKE) - 1):
            await slow.send(HANDSHAKE[at : at + 1])
            await asyncio.sleep(0)
        await served.came(1)
        served.deliver("meanwhile")
        assert await texts(other, 1) == ["meanwhile"]
        await slow.shake_hands(HANDSHAKE[-1:])
        assert slow.status == 101
        await served.came(2)
        for byte in frame(TEXT, b"at last"):
            await slow.send(bytes((byte,)))
            await asyncio.sleep(0)
        assert await slow.answer() == text("at last")
        served.clients[1].transport.send(Frame.of_text("welcome"))
        assert await slow.answer() == text("welcome")


@pytest.mark.every_loop
@pytest.mark.parametrize("way", WAYS)
async def test_handshake_that_breaks_off_leaves_nothing(way: Way) -> None:
    async with site(way) as served:
        for at in (0, 1, 20, len(HANDSHAKE) - 1):
            async with unconnected_client(served.port) as client:
                await client.send(HANDSHAKE[:at])
                await until(lambda: served.sockets == 1)
            await until(lambda: served.sockets == 0)
        async with clients(served) as (honest,):
            await honest.send("still there")
            assert await texts(honest, 1) == ["still there"]
        assert len(served.clients) == 1


@pytest.mark.every_loop
@pytest.mark.parametrize("way", DOORS)
@pytest.mark.parametrize("by_library", [False, True])
async def test_close_frame_behind_messages_that_nobody_receives_ends_the_connection(way: Way, by_library: bool) -> None:
    closes = asyncio.Event()
    lanes = Lanes()

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        await closes.wait()
        if by_library:
            lost: list[str] = []
            transport_for(websocket, lanes=lanes, on_lost=lost.append, limits=SendLimits()).close(4001, "enough")
            await until(lambda: bool(lost))
        else:
            await websocket.close(4001, "enough")
        while (await websocket.receive())["type"] != "websocket.disconnect":
            continue

    async with serving(way, endpoint) as (server, url):
        async with raw_client(int(url.removesuffix("/").rpartition(":")[2])) as client:
            for connection in server.server_state.connections:
                vars(connection)["close_timeout"] = 10 * WAIT_S
            await client.send(frame(TEXT, b"x") * 1000 + close_frame(3456))
            for _ in range(20):  # the server reads it in one of these turns, as much as it likes
                await asyncio.sleep(0.001)
            closes.set()
            assert await client.answers() in ([close(4001)], [close(3456)])
        await until(lambda: not server.server_state.connections)
    lanes.close()

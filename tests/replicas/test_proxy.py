"""The proxy breaks what it is told to break, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest

from tests.replicas.proxy import Proxy
from tests.replicas.resp import Splitter

DEADLINE_S = 20.0


class Server:
    """Answers each RESP command with the command itself, as an integer reply to each PUBLISH, and remembers it."""

    def __init__(self) -> None:
        self.heard: list[bytes] = []
        self.port = 0
        self._talks: set[asyncio.Task[object]] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._talks.add(task)
        commands = Splitter()
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                for command in commands.feed(data):
                    self.heard.append(command.raw)
                    writer.write(b":%d\r\n" % len(self.heard) if command.name == b"PUBLISH" else b"+OK\r\n")
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async def close(self) -> None:
        """Wait for the end of all connections."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._talks)

    async def until_heard(self, count: int) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while len(self.heard) < count:
                await asyncio.sleep(0.005)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    listening = await asyncio.start_server(server.talk, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    await server.close()


@pytest.fixture
async def proxy(server: Server) -> AsyncIterator[Proxy]:
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@contextlib.asynccontextmanager
async def dialled(proxy: Proxy) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def line(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(DEADLINE_S):
        return await reader.readline()


async def nothing(reader: asyncio.StreamReader, *, for_s: float = 0.2) -> bool:
    """Whether nothing came in a short while; that something comes later is then tested by `line`."""
    try:
        async with asyncio.timeout(for_s):
            await reader.read(1)
    except TimeoutError:
        return True
    return False


async def ended(reader: asyncio.StreamReader) -> bytes:
    """What still came before the end of the connection."""
    data = b""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(DEADLINE_S):
            while part := await reader.read(1024):
                data += part
    return data


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


PING = command(b"PING")


async def test_bytes_pass_both_ways_when_nothing_is_broken(proxy: Proxy, server: Server) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(PING + command(b"publish", b"c", b"x" * 200_000))
        assert (await line(reader), await line(reader)) == (b"+OK\r\n", b":2\r\n")
    assert server.heard[1] == command(b"publish", b"c", b"x" * 200_000)


async def test_everything_is_late_and_in_order_when_delayed(proxy: Proxy) -> None:
    proxy.delay(0.1, jitter_s=0.09)
    async with dialled(proxy) as (reader, writer):
        begun = time.monotonic()
        for _ in range(20):
            writer.write(command(b"PUBLISH", b"c", b"x"))
            await asyncio.sleep(0.005)
        assert [await line(reader) for _ in range(20)] == [b":%d\r\n" % number for number in range(1, 21)]
        assert time.monotonic() - begun >= 0.02


async def test_nothing_arrives_when_both_ways_are_a_hole(proxy: Proxy, server: Server) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        assert await line(reader) == b"+OK\r\n"
        proxy.blackhole()
        writer.write(PING)
        assert await nothing(reader)
        assert len(server.heard) == 1
        proxy.heal()
        assert await ended(reader) == b""
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        assert await line(reader) == b"+OK\r\n"


async def test_commands_are_carried_out_when_only_the_answers_are_lost(proxy: Proxy, server: Server) -> None:
    proxy.blackhole(to_server=False)
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        await server.until_heard(1)
        assert await nothing(reader)


async def test_everything_arrives_late_when_held_back(proxy: Proxy, server: Server) -> None:
    async with dialled(proxy) as (reader, writer):
        proxy.hold()
        writer.write(PING)
        assert await nothing(reader)
        proxy.heal()
        assert await line(reader) == b"+OK\r\n"
    assert len(server.heard) == 1


async def test_only_every_third_reply_to_publish_is_lost_when_swallowed(proxy: Proxy, server: Server) -> None:
    proxy.swallow(b"publish", every=3)
    async with dialled(proxy) as (reader, writer):
        for _ in range(3):
            writer.write(PING + command(b"PUBLISH", b"c", b"x"))
        writer.write(PING)
        replies = [await line(reader) for _ in range(6)]
    assert replies == [b"+OK\r\n", b":2\r\n", b"+OK\r\n", b":4\r\n", b"+OK\r\n", b"+OK\r\n"]
    assert len(server.heard) == 7
    assert proxy.swallowed == 1


async def test_connection_ends_inside_a_reply_when_cut(proxy: Proxy) -> None:
    proxy.cut_after(7)
    async with dialled(proxy) as (reader, writer):
        writer.write(PING * 3)
        assert await ended(reader) == b"+OK\r\n+O"


async def test_dialling_is_accepted_and_never_answered_when_hanging(proxy: Proxy, server: Server) -> None:
    proxy.hang()
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        assert await nothing(reader)
        assert proxy.connections == 1
        assert server.heard == []


async def test_connections_end_and_new_ones_work_when_reset(proxy: Proxy) -> None:
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        await line(reader)
        proxy.reset()
        assert await ended(reader) == b""
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        assert await line(reader) == b"+OK\r\n"


async def test_dialling_is_refused_until_healed(proxy: Proxy) -> None:
    proxy.refuse()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", proxy.port)
    proxy.heal()
    async with dialled(proxy) as (reader, writer):
        writer.write(PING)
        assert await line(reader) == b"+OK\r\n"


@pytest.mark.parametrize(
    "value",
    [
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":12\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"*0\r\n",
        b"*-1\r\n",
        b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n",
        b"%1\r\n+a\r\n:1\r\n",
        b">2\r\n+message\r\n$1\r\nx\r\n",
        b"_\r\n",
        b"#t\r\n",
        b",1.5\r\n",
        b"=5\r\ntxt:x\r\n",
        b"|1\r\n+ttl\r\n:1\r\n+OK\r\n",
    ],
)
def test_stream_is_cut_into_values_wherever_the_chunks_end(value: bytes) -> None:
    stream = value + b"+END\r\n" + value
    for size in range(1, len(stream) + 1):
        splitter = Splitter()
        values = [found.raw for at in range(0, len(stream), size) for found in splitter.feed(stream[at : at + size])]
        assert values == [value, b"+END\r\n", value]

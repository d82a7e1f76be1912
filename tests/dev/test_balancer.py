"""The port in front of all replicas: who gets which connection, and how connections end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from antiphon.dev.balancer import Balancer
from antiphon.dev.ports import free_port

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
BIG = b"0123456789abcdef" * 65_536


pytestmark = pytest.mark.timeout(60)


@asynccontextmanager
async def replica(handler: Handler) -> AsyncIterator[int]:
    server = await asyncio.start_server(handler, "127.0.0.1", free_port())
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@asynccontextmanager
async def balancer(*ports: int) -> AsyncIterator[tuple[Balancer, int]]:
    shared = free_port()
    running = Balancer(port=shared, living=lambda: ports)
    await running.start()
    try:
        yield running, shared
    finally:
        await running.close()


def says(name: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name)
        writer.close()

    return handler


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while chunk := await reader.read(65_536):
        writer.write(chunk)
        await writer.drain()
    writer.close()


async def reply_of(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        return await reader.read()
    finally:
        writer.close()


async def test_connections_go_round_the_replicas_in_turn() -> None:
    async with replica(says(b"a")) as a, replica(says(b"b")) as b, balancer(a, b) as (_, shared):
        first, second = await reply_of(shared), await reply_of(shared)
        assert {first, second} == {b"a", b"b"}
        assert [await reply_of(shared) for _ in range(4)] == [first, second, first, second]


async def test_a_replica_that_refuses_is_skipped() -> None:
    async with replica(says(b"a")) as a, balancer(a, free_port()) as (_, shared):
        assert [await reply_of(shared) for _ in range(4)] == [b"a"] * 4


async def test_nobody_there_is_an_http_503() -> None:
    async with balancer() as (_, shared):
        assert (await reply_of(shared)).startswith(b"HTTP/1.1 503 ")


async def test_everything_passes_in_both_directions_after_the_client_ended_its_half() -> None:
    async with replica(echo) as port, balancer(port) as (_, shared):
        reader, writer = await asyncio.open_connection("127.0.0.1", shared)

        async def send() -> None:
            writer.write(BIG)
            await writer.drain()
            writer.write_eof()

        sending = asyncio.create_task(send())
        assert await reader.read(-1) == BIG
        await sending
        writer.close()


async def test_a_client_that_does_not_read_holds_the_replica_back() -> None:
    held: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def pours(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for _ in range(256):  # 256 MiB: more than all buffers on the way
                writer.write(BIG)
                await asyncio.wait_for(writer.drain(), 1.0)
            held.set_result(False)
        except TimeoutError:
            held.set_result(True)
        writer.transport.abort()

    async with replica(pours) as port, balancer(port) as (_, shared):
        _, writer = await asyncio.open_connection("127.0.0.1", shared, limit=1_024)
        assert await held
        writer.transport.abort()


async def test_the_client_is_cut_off_when_the_replica_dies() -> None:
    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.transport.abort()

    async with replica(dies) as port, balancer(port) as (running, shared):
        reader, writer = await asyncio.open_connection("127.0.0.1", shared)
        writer.write(b"x")
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        while running.connection_count:
            await asyncio.sleep(0.01)


async def test_the_replica_sees_the_end_when_the_client_goes() -> None:
    ended = asyncio.Event()

    async def waits(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        except ConnectionResetError:
            pass
        ended.set()
        writer.close()

    async with replica(waits) as port, balancer(port) as (running, shared):
        _, writer = await asyncio.open_connection("127.0.0.1", shared)
        writer.write(b"hello")
        writer.close()
        await ended.wait()
        while running.connection_count:
            await asyncio.sleep(0.01)


async def test_close_ends_every_connection() -> None:
    async with replica(echo) as port, balancer(port) as (running, shared):
        reader, writer = await asyncio.open_connection("127.0.0.1", shared)
        writer.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        await running.close()
        assert running.connection_count == 0
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", shared)
        writer.close()

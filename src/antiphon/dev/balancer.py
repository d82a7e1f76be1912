"""One port in front of all replicas: each new connection goes to the next one that is up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from typing import Final

from antiphon.dev.ports import HOST

__all__ = ["Balancer"]

CHUNK_BYTES: Final = 65_536
CONNECT_TIMEOUT_S: Final = 2.0
NOBODY: Final = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 21\r\n"
    b"Retry-After: 1\r\nConnection: close\r\n\r\nno replica is up now\n"
)


class Balancer:
    """Passes TCP connections on, byte for byte, to the ports that `living` names at that moment, in turn.

    A replica that refuses is skipped. When a replica dies, the connections that went to it are reset, as a client would
    see it without a balancer. With nobody to pass it to, a client gets an HTTP 503.
    """

    def __init__(self, *, port: int, living: Callable[[], Sequence[int]]) -> None:
        self._port = port
        self._living = living
        self._last_port = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connection_count(self) -> int:
        """How many connections pass through right now."""
        return len(self._tasks)

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        self._server = await asyncio.start_server(self._accept, HOST, self._port, limit=CHUNK_BYTES)

    async def close(self) -> None:
        """Stop listening, and end every connection."""
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._pass_on(reader, writer), name="antiphon dev connection")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replica = None
        try:
            replica = await self._next_replica()
            if replica is None:
                writer.write(NOBODY)
                await writer.drain()
                writer.write_eof()
                await asyncio.wait_for(reader.read(CHUNK_BYTES), CONNECT_TIMEOUT_S)  # a reset would eat the answer
                return
            await _join(reader, writer, *replica)
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()
            if replica is not None:
                replica[1].close()

    async def _next_replica(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        ports = sorted(self._living())
        later = [port for port in ports if port > self._last_port]
        for port in later + [port for port in ports if port <= self._last_port]:
            self._last_port = port
            with contextlib.suppress(OSError, TimeoutError):
                return await asyncio.wait_for(asyncio.open_connection(HOST, port, limit=CHUNK_BYTES), CONNECT_TIMEOUT_S)
        return None


async def _join(
    client: asyncio.StreamReader,
    to_client: asyncio.StreamWriter,
    replica: asyncio.StreamReader,
    to_replica: asyncio.StreamWriter,
) -> None:
    """Until the replica has said all, or either side is lost. A client may end its half first."""
    upwards = asyncio.create_task(_copy(client, to_replica))
    downwards = asyncio.create_task(_copy(replica, to_client))
    try:
        await asyncio.wait((upwards, downwards), return_when=asyncio.FIRST_COMPLETED)
        if upwards.done():
            await upwards
            to_replica.write_eof()
        await downwards
    finally:
        upwards.cancel()
        downwards.cancel()
        await asyncio.gather(upwards, downwards, return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until the end of `reader`, at the speed of `writer`."""
    while chunk := await reader.read(CHUNK_BYTES):
        writer.write(chunk)
        await writer.drain()

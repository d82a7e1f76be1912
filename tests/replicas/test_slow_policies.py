"""A flood of messages that may be dropped, at clients that read slowly: nobody is cut, and comments arrive."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from antiphon import Publisher
from antiphon.dev.broker_server import BrokerServer
from antiphon.dev.guard import Guard
from antiphon.dev.ports import free_port
from tests.replicas.client import PING, PONG, frame
from tests.replicas.conftest import or_skipped
from tests.replicas.replica import NOT_OURS, WAYS, Json, eventually, request

ROOT = Path(__file__).parents[2]
CLIENTS = 60
PER_S = 1000
COMMENT_EVERY = 100
LEAST_S, MOST_S = 3, 30
"""The flood lasts until everybody has missed much of it."""
PADDING = "." * 700
READ_BYTES, READ_EVERY_S = 1024, 0.1
MOST_EACH_BYTES = 1024 * 1024
"""What the process may take for each client in the worst case: many times what waits for it here."""


class SlowReader:
    """Reads a little now and then, until it is told to read everything."""

    def __init__(self, peer: socket.socket) -> None:
        self.messages: list[Json] = []
        self.ended = False
        self.hurries = False
        self._peer = peer
        self._task = asyncio.create_task(self._read())

    @classmethod
    async def open(cls, port: int, stack: contextlib.AsyncExitStack) -> SlowReader:
        """Connect; `stack` closes it."""
        peer = stack.enter_context(socket.socket())
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        peer.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(peer, ("127.0.0.1", port))
        await loop.sock_sendall(
            peer,
            b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += await loop.sock_recv(peer, 1)
        assert head.startswith(b"HTTP/1.1 101"), head
        reader = cls(peer)
        stack.push_async_callback(reader.close)
        return reader

    async def _read(self) -> None:
        loop = asyncio.get_running_loop()
        buffer = bytearray()
        while data := await loop.sock_recv(self._peer, 1 << 16 if self.hurries else READ_BYTES):
            buffer += data
            for opcode, payload in _frames(buffer):
                if opcode == PING:
                    await loop.sock_sendall(self._peer, frame(PONG, payload))
                elif opcode == 1:
                    self.messages.append(json.loads(payload))
                else:
                    raise AssertionError(f"frame {opcode:#x}: {payload!r}")
            if not self.hurries:
                await asyncio.sleep(READ_EVERY_S)
        self.ended = True

    def numbers(self, kind: str, who: str | None = None) -> list[int]:
        return [found["n"] for found in self.messages if found["type"] == kind and who in (None, found.get("who"))]

    async def close(self) -> None:
        self._task.cancel()
        (outcome,) = await asyncio.gather(self._task, return_exceptions=True)
        if isinstance(outcome, Exception):
            raise outcome


def _frames(buffer: bytearray) -> Iterator[tuple[int, bytes]]:
    """Take the whole frames from the buffer; a frame that is cut in two would be none."""
    while len(buffer) >= 2:
        size, start = buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(buffer[2:4], "big"), 4
        if len(buffer) < start + size:
            return
        assert buffer[0] & 0xF0 == 0x80, "not the beginning of a frame"
        assert buffer[1] < 127, "there are no frames of this size here"
        yield buffer[0] & 0x0F, bytes(buffer[start : start + size])
        del buffer[: start + size]


@contextlib.asynccontextmanager
async def replica(way: str, url: str, log: Path) -> AsyncIterator[int]:
    """A process that serves; its port."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name not in NOT_OURS}
    environment |= {
        "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
        "WAY": way,
        "ANTIPHON_BROKER_URL": url,
    }
    command = [sys.executable, "-m", "uvicorn", "slow_app:app", "--app-dir", str(Path(__file__).parent)]
    command += ["--port", str(port), "--ws", WAYS[way], "--no-access-log", "--lifespan", "on"]
    # A ping waits behind megabytes in the kernel: a client that reads so slowly would answer too late.
    command += ["--ws-ping-interval", "300", "--ws-ping-timeout", "300"]
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment)
    Guard.shared().watch(process.pid)

    async def look() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError, AssertionError):
            return bool((await request(port, "GET", "/state"))["state"] == "up")
        return False

    try:
        await eventually(look, bool, what="the start")
        yield port
        assert process.poll() is None, log.read_text()
    finally:
        process.kill()
        process.wait()
        Guard.shared().forget(process.pid)


async def flood(publisher: Publisher, begin: int, *, whos: list[str]) -> None:
    """A second of typing notices at a steady rate, and a comment now and then."""
    begun = time.monotonic()
    for number in range(begin, begin + PER_S):
        who = whos[number % len(whos)]
        message = {"type": "typing", "who": who, "n": number, "padding": PADDING}
        await publisher.publish("live", message, slow="newest_per_key", key=f"typing:{who}")
        if number % 3 == 0:
            await publisher.publish("live", message | {"type": "cursor"}, slow="drop_oldest")
        if number % COMMENT_EVERY == 0:
            await publisher.publish("live", {"type": "comment", "n": number // COMMENT_EVERY})
        # Where the machine does not keep up the rate is lower, and nothing comes in a burst.
        await asyncio.sleep(max(0.0, begun + (number - begin) / PER_S - time.monotonic()))


@pytest.mark.parametrize("way", WAYS)
async def test_nobody_is_cut_for_typing_notices_and_comments_arrive(way: str, tmp_path: Path) -> None:
    whos = [f"user {number}" for number in range(20)]  # their newest together fit into `droppable_bytes`
    with or_skipped():
        broker = BrokerServer.start("valkey")
    try:
        async with (
            replica(way, broker.url, tmp_path / "log") as port,
            Publisher(broker.url) as publisher,
            contextlib.AsyncExitStack() as stack,
        ):
            slow = []
            for _ in range(CLIENTS):
                slow.append(await SlowReader.open(port, stack))
            quick = await SlowReader.open(port, stack)
            quick.hurries = True

            async def state() -> Json:
                found: Json = await request(port, "GET", "/state")
                return found

            before = await eventually(state, lambda now: now["connections"] == CLIENTS + 1)
            published, during = 0, before
            for second in range(MOST_S):
                await flood(publisher, published, whos=whos)
                published += PER_S
                during = await state()
                assert during["connections"] == CLIENTS + 1
                assert during["lost"] == {}
                assert during["rss_bytes"] - before["rss_bytes"] < (CLIENTS + 1) * MOST_EACH_BYTES
                if second >= LEAST_S and sum(during["dropped_slow"].values()) > CLIENTS * PER_S:
                    break
            else:
                raise AssertionError(f"nothing much was dropped: {during}")

            for reader in slow:
                reader.hurries = True
            last_comment = published // COMMENT_EVERY
            await publisher.publish("live", {"type": "comment", "n": last_comment})
            await eventually(
                state, lambda now: now["queued_bytes"] == 0, timeout_s=60, what="nothing waiting for anybody"
            )
            readers = [quick, *slow]
            for reader in readers:
                assert not reader.ended

                async def last(reader: SlowReader = reader) -> list[int]:
                    return reader.numbers("comment")[-1:]

                await eventually(last, lambda found: found == [last_comment], timeout_s=60, what="the last comment")
            for reader in readers:
                assert not reader.ended
                assert reader.numbers("comment") == list(range(last_comment + 1))
                for kind in ("typing", "cursor"):
                    assert reader.numbers(kind) == sorted(set(reader.numbers(kind)))
                for number, who in enumerate(whos, published - len(whos)):
                    assert reader.numbers("typing", who)[-1] == number
            assert all(len(reader.numbers("typing")) < published for reader in slow)
            after = await state()
            assert (after["connections"], after["lost"]) == (CLIENTS + 1, {})
    finally:
        broker.stop()

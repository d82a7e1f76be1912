"""Replicas of `guarded_app`: the database of sessions that they share, and clients that sign in, or read nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import secrets
import socket
import sqlite3
import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import redis.asyncio

from antiphon.dev.broker_server import BrokerServer
from tests.replicas.client import Client, connect
from tests.replicas.cluster import CHANNEL, Cluster, Kind
from tests.replicas.conftest import or_skipped
from tests.replicas.recorder import Listener
from tests.replicas.replica import Replica, eventually

__all__ = [
    "Database",
    "GuardedCluster",
    "Program",
    "StuckClient",
    "guarded",
    "join",
    "send_queue_bytes",
    "start",
]


class Database:
    """The application's sessions: what is true, whatever the replicas have been told."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = sqlite3.connect(path, timeout=10.0, isolation_level=None)
        self._connection.execute("CREATE TABLE sessions (cookie TEXT PRIMARY KEY, id TEXT, user TEXT, roles TEXT)")

    def sign_in(self, user: str, *, roles: str = "") -> tuple[str, str]:
        """A new session: its cookie and its id."""
        cookie, id = secrets.token_hex(16), secrets.token_hex(4)
        self._connection.execute("INSERT INTO sessions VALUES (?, ?, ?, ?)", (cookie, id, user, roles))
        return cookie, id

    def end(self, session: str) -> None:
        self._connection.execute("DELETE FROM sessions WHERE id = ?", (session,))

    def end_all(self, user: str, *, but: str = "") -> None:
        self._connection.execute("DELETE FROM sessions WHERE user = ? AND id != ?", (user, but))

    def set_roles(self, user: str, roles: str) -> None:
        self._connection.execute("UPDATE sessions SET roles = ? WHERE user = ?", (roles, user))

    def close(self) -> None:
        self._connection.close()


class GuardedReplica(Replica):
    """`guarded_app` in uvicorn. WAY and PING_S of the environment are the way to the sockets and the pings' times."""

    application = "guarded_app:app"

    def server_options(self, environment: Mapping[str, str]) -> list[str]:
        ping_s = environment.get("PING_S", "20")
        return [
            *super().server_options(environment),
            *("--ws-ping-interval", ping_s, "--ws-ping-timeout", ping_s, "--timeout-graceful-shutdown", "5"),
            # The address of the client is what this application finds, not what uvicorn makes of the header.
            "--no-proxy-headers",
        ]

    def noise(self, *, since: float = 0.0) -> list[str]:
        """As for every replica, but for what uvicorn itself says of each refusal that has a status of its own."""
        return [line for line in super().noise(since=since) if "without completing handshake" not in line]


class GuardedCluster(Cluster):
    """Replicas of `guarded_app`."""

    replica_class = GuardedReplica

    async def until_complete(self, *, timeout_s: float = 30.0) -> None:
        """Wait until all replicas are up and know of one another."""
        for replica in self.running:
            await eventually(
                replica.state,
                lambda found: found["state"] == "up" and found["replicas"] == len(self.running),
                timeout_s=timeout_s,
                what=f"{replica.name} being up with {len(self.running)} replicas",
            )

    async def until_connected(self, count: int, *, timeout_s: float = 30.0) -> None:
        """Wait until all replicas together count so many connections."""

        async def look() -> int:
            return sum([(await replica.state())["connections"] for replica in self.running])

        await eventually(look, lambda found: found == count, timeout_s=timeout_s, what=f"{count} connections")

    async def channels(self) -> list[str]:
        """What anybody has subscribed to at the broker, but for the library's own channels."""
        found = await asyncio.to_thread(self.command, "PUBSUB", "CHANNELS", f"{CHANNEL}*")
        return sorted(name.decode() for name in found)


def start(
    names: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    kind: Kind = "valkey",
    way: str | None = None,
) -> GuardedCluster:
    """Start a broker, and replicas with these settings; they take the ways to the sockets in turn, unless told one."""
    environment = dict(environment or {})
    if way is not None:
        environment["WAY"] = way
    with or_skipped():
        cluster = GuardedCluster.start(kind, names=names, environment=environment)
    assert isinstance(cluster, GuardedCluster)
    return cluster


@contextlib.asynccontextmanager
async def guarded(
    *names: str, environment: Mapping[str, str] | None = None, kind: Kind = "valkey", way: str | None = None
) -> AsyncIterator[GuardedCluster]:
    """A broker and replicas of the test's own, which know of one another."""
    cluster = await asyncio.to_thread(partial(start, names, environment, kind=kind, way=way))
    try:
        await cluster.until_complete()
        yield cluster
        check_quiet(cluster)
    finally:
        await asyncio.to_thread(cluster.close)


def check_quiet(cluster: Cluster) -> None:
    """Raise AssertionError for what should not be in the logs."""
    noise = [f"{replica.name}: {line}" for replica in cluster.replicas for line in replica.noise()]
    if noise:
        raise AssertionError("\n".join(noise))


async def join(
    replica: Replica,
    name: str,
    *,
    cookie: str | None = None,
    topics: Collection[str] = (),
    v1: bool = False,
    headers: Iterable[tuple[str, str]] = (),
) -> Client:
    """Open a client as a browser would, on the page of the replica itself."""
    lines = [("Origin", f"http://127.0.0.1:{replica.port}"), *headers]
    if cookie is not None:
        lines.append(("Cookie", f"session={cookie}"))
    if v1:
        lines.append(("Sec-WebSocket-Protocol", "antiphon.v1"))
    return await connect(Listener(name, replica.name, frozenset(topics)), replica.port, headers=lines)


class Program:
    """Another program, which publishes numbered messages at a steady rate; `at` says when each was published."""

    def __init__(
        self,
        broker: BrokerServer,
        *,
        per_s: float,
        topic: str | None = None,
        padding_bytes: int = 0,
        name: str = "program",
    ) -> None:
        self.name = name
        self.at: list[float] = []
        self._client = redis.asyncio.Redis(port=broker.port, socket_timeout=5.0, socket_connect_timeout=5.0)
        self._running = True
        self._per_s = per_s
        self._topic = topic
        self._padding = "." * padding_bytes
        self._task = asyncio.create_task(self._run())

    def heard_by(self, listener: Listener) -> list[int]:
        """The numbers of its messages that reached a client, in the order of arrival."""
        return [receipt.key.sequence for receipt in listener.receipts if receipt.key.publisher == self.name]

    async def _run(self) -> None:
        channel = CHANNEL if self._topic is None else f"{CHANNEL}/{self._topic}"
        begun = time.monotonic()
        while self._running:
            message: dict[str, Any] = {"pub": self.name, "topic": self._topic, "seq": len(self.at)}
            if self._padding:
                message["padding"] = self._padding
            self.at.append(time.monotonic())
            with contextlib.suppress(redis.RedisError):
                await self._client.publish(channel, json.dumps(message))
            # One that was held up goes on at the rate, it does not catch up in a burst.
            begun = max(begun, time.monotonic() - (len(self.at) + 1) / self._per_s)
            await asyncio.sleep(begun + len(self.at) / self._per_s - time.monotonic())

    async def __aenter__(self) -> Program:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._running = False  # to cancel a publication under way may be in vain
        await self._task
        await self._client.aclose()


class StuckClient:
    """A client with small buffers that shakes hands and then reads nothing, unless it is told to."""

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        self.socket.setblocking(False)
        self.received = bytearray()
        """What was read since the handshake."""

    @classmethod
    async def open(cls, port: int, *, topics: str = "") -> StuckClient:
        """One that the server has accepted."""
        client, loop = cls(), asyncio.get_running_loop()
        key = base64.b64encode(os.urandom(16)).decode()
        head = f"GET /ws?topics={topics} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        head += f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
        async with asyncio.timeout(30.0):
            await loop.sock_connect(client.socket, ("127.0.0.1", port))
            await loop.sock_sendall(client.socket, head.encode())
            answer = bytearray()
            while b"\r\n\r\n" not in answer:
                answer += await loop.sock_recv(client.socket, 1)
        assert answer.startswith(b"HTTP/1.1 101"), bytes(answer)
        return client

    async def read(self, size: int) -> bool:
        """Read up to so many bytes; False at the end of the connection, however it came."""
        try:
            data = await asyncio.get_running_loop().sock_recv(self.socket, size)
        except ConnectionError:
            return False
        self.received += data
        return bool(data)

    def close_code(self) -> int | None:
        """The code of the close frame, if what was read has one behind whole frames; None if it breaks off before."""
        data, at = self.received, 0
        while at + 2 <= len(data):
            opcode, size, start = data[at] & 0x0F, data[at + 1] & 0x7F, at + 2
            if size >= 126:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width]), start + width
            if opcode == 8 and start + 2 <= len(data):
                return int.from_bytes(data[start : start + 2])
            at = start + size
        return None

    def close(self) -> None:
        self.socket.close()


def send_queue_bytes(port: int) -> int:
    """What the kernel holds for clients of a server and could not send yet."""
    total = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            total += int(fields[4].partition(":")[0], 16)
    return total

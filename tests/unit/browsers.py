"""Clients without a network, and replicas without processes, for the tests of the manager."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

from starlette.websockets import WebSocket

from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.limits import Limits
from antiphon.manager import OutagePolicy, WebSocketManager
from antiphon.outbox import OutboxLimits
from antiphon.transports.base import SendLimits

Event = MutableMapping[str, Any]


async def until(condition: Callable[[], bool], *, within_s: float = 30.0) -> None:
    """Wait for a condition; the limit only ends a test that would hang."""
    loop = asyncio.get_running_loop()
    start = loop.time()
    while not condition():
        assert loop.time() - start < within_s, "it did not happen"
        await asyncio.sleep(0.005)


async def settle() -> None:
    """Let everything happen that needs no more than turns of the event loop: for what must not happen."""
    for _ in range(100):
        await asyncio.sleep(0)


@contextmanager
def closed_port() -> Iterator[int]:
    """A port that nobody listens on, held so that nobody takes it."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


class Browser:
    """One client as its server shows it to the application: `websocket`. It writes down what it is sent."""

    def __init__(self, name: str = "") -> None:
        self.name = name
        self.events: list[Event] = []
        self.is_gone = False
        """Sending to it fails, as when its connection was reset."""
        self.is_stuck = False
        """It reads no more: sending to it does not end."""
        self.gate: asyncio.Event | None = None
        """Set one: sending to it ends when that is set."""
        self.accepting: asyncio.Event | None = None
        """Set one to hold up the handshake until it is set."""
        self._incoming: asyncio.Queue[Event] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope: Event = {
            "type": "websocket",
            "path": "/",
            "headers": [],
            "query_string": b"",
            "subprotocols": ["a", "b"],
        }
        self.websocket = WebSocket(scope, self._incoming.get, self._send)

    async def _send(self, event: Event) -> None:
        if self.is_gone:
            raise OSError("the connection was reset")
        if event["type"] == "websocket.accept" and self.accepting is not None:
            await self.accepting.wait()
        if self.is_stuck:
            await asyncio.get_running_loop().create_future()
        if self.gate is not None:
            await self.gate.wait()
        self.events.append(event)

    @property
    def texts(self) -> list[str]:
        """The text frames that it got."""
        return [event["text"] for event in self.events if event["type"] == "websocket.send"]

    @property
    def messages(self) -> list[object]:
        """The same, decoded."""
        return [json.loads(text) for text in self.texts]

    @property
    def accepted(self) -> Event | None:
        """The answer to its handshake."""
        return next((event for event in self.events if event["type"] == "websocket.accept"), None)

    @property
    def close_code(self) -> int | None:
        """The code of the close frame that it got."""
        return next((event["code"] for event in self.events if event["type"] == "websocket.close"), None)

    def says(self, text: str | None = None, *, binary: bytes | None = None) -> None:
        """Send a message."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": text, "bytes": binary})

    def leaves(self, code: int = 1001) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})


class Fleet:
    """Replicas in one process: a manager each, with a link each to one broker in memory.

    At the end nothing may be left: no task, no connection.
    """

    def __init__(
        self,
        size: int = 2,
        *,
        channel: str = "c",
        outage: OutagePolicy = "local",
        limits: Limits | None = None,
        send_limits: SendLimits | None = None,
        outbox_limits: OutboxLimits | None = None,
    ) -> None:
        self.server = MemoryServer()
        self.brokers = [MemoryBroker(self.server) for _ in range(size)]
        self.managers = [
            WebSocketManager(
                channel,
                broker=broker,
                outage=outage,
                limits=limits,
                send_limits=send_limits,
                outbox_limits=outbox_limits,
            )
            for broker in self.brokers
        ]

    async def __aenter__(self) -> Self:
        self._tasks_before = asyncio.all_tasks()
        for manager in self.managers:
            await manager.start()
        await until(lambda: all(manager.state is State.UP for manager in self.managers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.thaw()
        for manager in self.managers:
            await manager.close()
        if error is None:
            await nothing_left(self._tasks_before)
            assert self.server.connections == 0

    async def join(
        self, replica: int = 0, user_id: str | None = None, *, topics: tuple[str, ...] = (), name: str = ""
    ) -> Browser:
        """A new client of a replica."""
        browser, _ = await self.join_as(replica, user_id, topics=topics, name=name)
        return browser

    async def join_as(
        self, replica: int = 0, user_id: str | None = None, *, topics: tuple[str, ...] = (), name: str = ""
    ) -> tuple[Browser, Connection]:
        """The same, with its connection."""
        browser = Browser(name)
        connection = await self.managers[replica].connect(browser.websocket, user_id, topics=topics)
        return browser, connection

    async def everybody(self, *browsers: Browser, have: list[str]) -> None:
        """Wait until all of them have exactly these texts, and see that no more come."""
        await until(lambda: all(len(browser.texts) >= len(have) for browser in browsers))
        await settle()
        assert [browser.texts for browser in browsers] == [have] * len(browsers)

    async def lose_broker(self) -> None:
        """End all connections to the broker, and admit no new ones."""
        self.server.down = True
        self.server.kill()
        await until(lambda: all(manager.state is State.DEGRADED for manager in self.managers))

    async def regain_broker(self) -> None:
        """The broker is back, and all replicas have found it."""
        self.server.down = False
        await until(lambda: all(manager.state is State.UP for manager in self.managers))

    async def publish_raw(self, route: str, payload: bytes) -> int:
        """What another program does with PUBLISH."""
        publishing = await MemoryBroker(self.server).open_publishing()
        try:
            return await publishing.publish(route, payload)
        finally:
            await publishing.close()


async def nothing_left(tasks_before: set[asyncio.Task[Any]]) -> None:
    """All tasks since then have ended, or are about to."""
    await until(lambda: asyncio.all_tasks() - {asyncio.current_task()} <= tasks_before)

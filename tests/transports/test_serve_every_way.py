"""`WebSocketManager.serve` on every way to the sockets, with the application's coroutine and without."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
import uvicorn
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon import Connection, WebSocketManager
from antiphon.transports.base import SendLimits
from tests.transports.servers import WAIT_S, WAYS, Way, serving, until

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize("way", WAYS)]

ADOPTING: tuple[Way, ...] = ("protocol", "deflating")


@dataclass
class Service:
    """An endpoint that only serves, and what it was told."""

    manager: WebSocketManager
    messages: list[object] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)
    returned: int = 0
    pause_s: float = 0.0
    server: uvicorn.Server | None = None
    url: str = ""

    async def endpoint(self, websocket: WebSocket) -> None:
        await self.manager.serve(websocket, on_message=self.on_message, on_close=self.on_close)
        self.returned += 1

    async def on_message(self, connection: Connection, message: object) -> None:
        await asyncio.sleep(self.pause_s)
        self.messages.append(message)
        await self.manager.send_personal_message({"echo": message}, connection)

    def on_close(self, connection: Connection) -> None:
        self.closed.append(connection.id)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[ClientConnection]:
        async with connect(self.url, ping_interval=None, open_timeout=WAIT_S, close_timeout=WAIT_S) as client:
            yield client


@asynccontextmanager
async def service(way: Way, *, limits: SendLimits | None = None, ping_s: float | None = None) -> AsyncIterator[Service]:
    manager = WebSocketManager(channel="serving", send_limits=limits or SendLimits())
    served = Service(manager)
    async with serving(way, served.endpoint, ping_s=ping_s) as (server, url):
        served.server, served.url = server, url
        yield served
        await manager.close()


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


async def received(client: ClientConnection, number: int) -> list[object]:
    async with asyncio.timeout(WAIT_S):
        return [json.loads(await client.recv()) for _ in range(number)]


async def test_messages_go_both_ways_in_order_and_the_end_is_told_once(way: Way) -> None:
    async with service(way) as served:
        async with served.client() as client:
            for number in range(50):
                await client.send(json.dumps({"n": number}))
            assert await received(client, 50) == [{"echo": {"n": number}} for number in range(50)]
            await until(lambda: served.returned == (way in ADOPTING))
            await served.manager.broadcast({"to": "all"})
            await client.send(['{"n":"fragm', 'ents"}'])
            assert await received(client, 2) == [{"to": "all"}, {"echo": {"n": "fragments"}}]
            await asyncio.wait_for(await client.ping(), WAIT_S)
            assert served.manager.get_connection_count() == 1
            assert served.closed == []
        await until(lambda: served.manager.get_connection_count() == 0)
        await until(lambda: len(served.closed) == 1)
        server = served.server
        assert server is not None
        await until(lambda: not server.server_state.connections)
        assert len(served.closed) == 1


async def test_messages_that_came_before_are_not_lost(way: Way) -> None:
    async with service(way) as served:
        connections = await asyncio.gather(*(connect(served.url, ping_interval=None) for _ in range(10)))
        for client in connections:
            await client.send('{"n":"at once"}')
        for client in connections:
            assert await received(client, 1) == [{"echo": {"n": "at once"}}]
            client.transport.abort()
        await until(lambda: len(served.closed) == 10)


async def test_client_waits_while_the_handler_is_slow_and_nothing_is_lost(way: Way) -> None:
    async with service(way) as served, served.client() as client:
        served.pause_s = 0.001
        for number in range(200):
            await client.send(json.dumps({"n": number, "x": "x" * 2000}))
        echoes = await received(client, 200)
        assert [message["n"] for message in served.messages if isinstance(message, dict)] == list(range(200))
        assert len(echoes) == 200


async def test_messages_before_the_end_are_handled_before_it_is_told(way: Way) -> None:
    events: list[object] = []
    counts: list[int] = []

    async def on_message(connection: Connection, message: object) -> None:
        await asyncio.sleep(0.05)
        await manager.send_personal_message({"echo": message}, connection)  # who has gone gets nothing
        events.append(message)

    def on_close(connection: Connection) -> None:
        events.append("closed")
        counts.append(manager.get_connection_count())

    async def endpoint(websocket: WebSocket) -> None:
        await manager.serve(websocket, on_message=on_message, on_close=on_close)

    manager = WebSocketManager(channel="serving")
    async with serving(way, endpoint) as (_, url):
        async with connect(url, ping_interval=None, open_timeout=WAIT_S, close_timeout=WAIT_S) as client:
            for number in range(5):
                await client.send(json.dumps({"n": number}))
        await until(lambda: "closed" in events)
        await manager.close()
        assert events == [*({"n": number} for number in range(5)), "closed"]
        assert counts == [0]
        assert manager.stats().handler_errors == 0


async def test_what_is_not_json_is_answered_with_an_error(way: Way) -> None:
    async with service(way) as served, served.client() as client:
        await client.send("{")
        await client.send('{"n":1}')
        error, echo = await received(client, 2)
        assert isinstance(error, dict)
        assert error["type"] == "error"
        assert echo == {"echo": {"n": 1}}


async def test_closing_the_manager_closes_the_socket_with_its_code(way: Way) -> None:
    async with service(way) as served, served.client() as client:
        await client.send('{"n":1}')
        assert await received(client, 1) == [{"echo": {"n": 1}}]
        await served.manager.close(code=1012, reason="restart")
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), WAIT_S)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "restart")


async def test_reset_by_the_client_is_told_once(way: Way) -> None:
    async with service(way) as served:
        async with served.client() as client:
            await client.send('{"n":1}')
            assert await received(client, 1) == [{"echo": {"n": 1}}]
            client.transport.abort()
        await until(lambda: len(served.closed) == 1)
        assert served.manager.get_connection_count() == 0


async def test_shutdown_of_the_server_is_told_once(way: Way) -> None:
    async with service(way) as served, served.client() as client:
        await client.send('{"n":1}')
        assert await received(client, 1) == [{"echo": {"n": 1}}]
        assert served.server is not None
        for connection in list(served.server.server_state.connections):
            connection.shutdown()
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), WAIT_S)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1012
        await until(lambda: len(served.closed) == 1)
        assert served.manager.get_connection_count() == 0

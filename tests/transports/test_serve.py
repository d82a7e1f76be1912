"""`serve` over every way to the sockets: the same for the client, with and without a coroutine on the server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon import Connection, WebSocketManager, install
from tests.transports.servers import WAIT_S, WAYS, Way, until

pytestmark = pytest.mark.parametrize("way", WAYS)


class Served:
    """A manager behind a uvicorn in this event loop, with an endpoint that does nothing but `serve`."""

    def __init__(self) -> None:
        self.manager = WebSocketManager("c")
        self.closed: list[str] = []
        self.returned = 0
        self.heard: list[object] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""
        self.server: uvicorn.Server | None = None

    async def endpoint(self, websocket: WebSocket) -> None:
        await self.manager.serve(
            websocket,
            websocket.query_params.get("user"),
            topics=["t"],
            on_message=self.on_message,
            on_close=lambda connection: self.closed.append(connection.id),
        )
        self.returned += 1

    async def on_message(self, connection: Connection, message: object) -> None:
        await self.gate.wait()
        self.heard.append(message)
        if message == "raise":
            raise ZeroDivisionError
        await self.manager.send_personal_message({"echo": message}, connection)


@asynccontextmanager
async def serving(way: Way) -> AsyncIterator[Served]:
    served = Served()
    app = Starlette(routes=[WebSocketRoute("/", served.endpoint)])
    config = uvicorn.Config(
        install(app) if way == "install" else app,
        ws="antiphon.transports.uvicorn:AntiphonProtocol" if way == "protocol" else "websockets-sansio",
        lifespan="off",
        log_config=None,
    )
    config.load()
    server = served.server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    await server.startup(sockets=[listening])
    served.url = f"ws://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        yield served
    finally:
        served.gate.set()
        await served.manager.close()
        for listener in server.servers:
            listener.close()
        for connection in list(server.server_state.connections):
            connection.transport.abort()
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)


async def opened(served: Served, user: str = "") -> ClientConnection:
    before = served.manager.get_connection_count()
    client = await connect(f"{served.url}?user={user}" if user else served.url, ping_interval=None, open_timeout=WAIT_S)
    await until(lambda: served.manager.get_connection_count() > before)
    return client


async def next_of(client: ClientConnection) -> object:
    return json.loads(await asyncio.wait_for(client.recv(), WAIT_S))


async def test_a_client_hears_and_is_heard(way: Way) -> None:
    async with serving(way) as served:
        client = await opened(served, "7")
        await client.send('{"n": 1}')
        assert await next_of(client) == {"echo": {"n": 1}}
        assert (await served.manager.broadcast({"to": "all"})).connections == 1
        assert (await served.manager.broadcast({"to": "topic"}, topic="t")).connections == 1
        assert (await served.manager.send_to_user("7", {"to": "user"})).connections == 1
        assert [await next_of(client) for _ in range(3)] == [{"to": "all"}, {"to": "topic"}, {"to": "user"}]
        await client.close()


async def test_messages_are_handled_one_at_a_time_and_in_order_when_they_come_faster(way: Way) -> None:
    async with serving(way) as served:
        client = await opened(served)
        served.gate.clear()
        for number in range(300):
            await client.send(json.dumps(number))
        served.gate.set()
        assert [await next_of(client) for _ in range(300)] == [{"echo": number} for number in range(300)]
        await client.close()


async def test_what_is_no_json_is_answered_and_a_handler_that_raises_is_counted(way: Way) -> None:
    async with serving(way) as served:
        client = await opened(served)
        await client.send("nonsense")
        answer = await next_of(client)
        assert isinstance(answer, dict)
        assert (answer["type"], answer["code"]) == ("error", "bad_request")
        await client.send('"raise"')
        await client.send('"after"')
        assert await next_of(client) == {"echo": "after"}
        assert served.manager.stats().handler_errors == 1
        await client.close()


@pytest.mark.parametrize("abrupt", [False, True])
async def test_the_end_is_told_once_when_the_client_goes(way: Way, abrupt: bool) -> None:
    async with serving(way) as served:
        stays, goes = await opened(served), await opened(served)
        if abrupt:
            goes.transport.abort()
        else:
            await goes.close()
        await until(lambda: len(served.closed) == 1 and served.manager.get_connection_count() == 1)
        await stays.send("1")
        assert await next_of(stays) == {"echo": 1}
        assert len(served.closed) == 1
        await stays.close()
        await until(lambda: len(served.closed) == 2 and served.manager.get_connection_count() == 0)
        await until(lambda: served.returned == 2)


async def test_no_coroutine_is_kept_where_the_server_allows_it(way: Way) -> None:
    async with serving(way) as served:
        clients = [await opened(served) for _ in range(5)]
        assert served.server is not None
        tasks = served.server.server_state.tasks
        await until(lambda: len(tasks) == (0 if way == "protocol" else 5))
        for client in clients:
            await client.send("1")
            assert await next_of(client) == {"echo": 1}
            await client.close()
        await until(lambda: len(served.closed) == 5)


async def test_closing_the_manager_closes_the_sockets_with_a_code(way: Way) -> None:
    async with serving(way) as served:
        client = await opened(served)
        await served.manager.broadcast("last")
        await served.manager.close(code=1001, reason="bye")
        assert await asyncio.wait_for(client.recv(), WAIT_S) == "last"
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), WAIT_S)
        assert (client.close_code, client.close_reason) == (1001, "bye")
        await until(lambda: len(served.closed) == 1)


async def test_a_server_that_shuts_down_ends_what_it_serves(way: Way) -> None:
    async with serving(way) as served:
        client = await opened(served)
        assert served.server is not None
        for connection in list(served.server.server_state.connections):
            connection.shutdown()
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(client.recv(), WAIT_S)
        await until(lambda: served.manager.get_connection_count() == 0 and len(served.closed) == 1)

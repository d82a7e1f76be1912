"""`WebSocketManager.serve(on_connect=…)` on every way to the sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from antiphon import Connection, Forbidden, Limits, WebSocketManager
from tests.transports.servers import WAIT_S, WAYS, Way, serving, until

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize("way", WAYS)]


class Hall:
    """An endpoint that greets: what its greeting raises, or waits for, and what was told of its clients."""

    def __init__(self) -> None:
        self.manager = WebSocketManager(channel="greeting", limits=Limits(connections_per_user=1))
        self.greeted: list[Connection] = []
        self.messages: list[object] = []
        self.closed: list[Connection] = []
        self.returned = 0
        self.error: Exception | None = None
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.url = ""

    async def endpoint(self, websocket: WebSocket) -> None:
        try:
            await self.manager.serve(
                websocket, "42", on_connect=self.on_connect, on_message=self.on_message, on_close=self.closed.append
            )
        finally:
            self.returned += 1

    async def on_connect(self, connection: Connection) -> None:
        self.greeted.append(connection)
        await self.manager.send_personal_message({"type": "hello"}, connection)
        await self.go_on.wait()
        if self.error is not None:
            raise self.error

    async def on_message(self, connection: Connection, message: object) -> None:
        self.messages.append(message)
        await self.manager.send_personal_message({"echo": message}, connection)

    async def come(self) -> ClientConnection:
        return await connect(self.url, ping_interval=None, open_timeout=WAIT_S, close_timeout=WAIT_S)


@asynccontextmanager
async def hall(way: Way) -> AsyncIterator[Hall]:
    served = Hall()
    async with serving(way, served.endpoint) as (_, served.url):
        yield served
        await served.manager.close()


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


async def received(client: ClientConnection) -> object:
    async with asyncio.timeout(WAIT_S):
        return json.loads(await client.recv())


async def ended_with(client: ClientConnection) -> int | None:
    """The code of the close frame, when everything before it was read."""
    async with asyncio.timeout(WAIT_S):
        with pytest.raises(ConnectionClosed):
            while True:
                await client.recv()
    return client.close_code


async def test_greeting_comes_first_and_what_the_client_says_waits_for_it(way: Way) -> None:
    async with hall(way) as served:
        served.go_on.clear()
        client = await served.come()
        await client.send('{"n":1}')
        assert await received(client) == {"type": "hello"}
        await served.manager.broadcast({"to": "all"})
        assert await received(client) == {"to": "all"}
        assert served.messages == []
        served.go_on.set()
        assert await received(client) == {"echo": {"n": 1}}
        await client.close()
        await until(lambda: served.closed == served.greeted)


@pytest.mark.parametrize(("error", "code"), [(ZeroDivisionError(), 1011), (Forbidden(), 4503)])
async def test_greeting_that_raises_ends_the_socket_and_gives_its_place_back(
    way: Way, error: Exception, code: int
) -> None:
    async with hall(way) as served:
        served.error = error
        for _ in range(3):  # each has the one place of the user
            client = await served.come()
            assert await received(client) == {"type": "hello"}
            assert await ended_with(client) == code
        await until(lambda: served.returned == 3)
        assert served.manager.get_connection_count() == 0
        served.error = None
        client = await served.come()
        await client.send('{"n":1}')
        assert [await received(client), await received(client)] == [{"type": "hello"}, {"echo": {"n": 1}}]
        assert (len(served.greeted), served.closed) == (4, [])
        await client.close()
        await until(lambda: served.closed == served.greeted[3:])


async def test_client_that_leaves_while_it_is_greeted_is_let_go_and_its_end_is_told_once(way: Way) -> None:
    async with hall(way) as served:
        served.go_on.clear()
        client = await served.come()
        assert await received(client) == {"type": "hello"}
        client.transport.abort()
        await client.wait_closed()
        served.go_on.set()
        await until(lambda: served.returned == 1)
        await until(lambda: served.manager.get_connection_count() == 0)
        await until(lambda: served.closed == served.greeted)
        served.go_on.set()
        again = await served.come()
        assert await received(again) == {"type": "hello"}
        await again.close()


async def test_nothing_is_read_of_a_client_that_is_revoked_while_it_is_greeted(way: Way) -> None:
    async with hall(way) as served:
        served.go_on.clear()
        client = await served.come()
        assert await received(client) == {"type": "hello"}
        await client.send('{"n":1}')
        assert (await served.manager.disconnect_user("42")).connections == 1
        assert await ended_with(client) == 4502
        assert served.manager.get_connection_count() == 0
        served.go_on.set()
        await until(lambda: served.returned == 1)
        await until(lambda: served.closed == served.greeted)
        assert served.messages == []


async def test_greeting_that_fails_because_the_client_was_revoked_changes_nothing_of_that(way: Way) -> None:
    async with hall(way) as served:
        served.go_on.clear()
        served.error = Forbidden()
        client = await served.come()
        assert await received(client) == {"type": "hello"}
        await served.manager.disconnect_user("42")
        served.go_on.set()
        assert await ended_with(client) == 4502
        await until(lambda: served.returned == 1)
        assert served.closed == []

"""Clients that speak `antiphon.v1`, bare ones, and those that send too much, on every way to the sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from antiphon import Connection, Limits, Security, WebSocketManager
from antiphon.conversation import ClientPublishing
from tests.transports.servers import WAIT_S, WAYS, Way, serving, until

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize("way", WAYS)]

V1 = "antiphon.v1"


class Chat:
    """An endpoint that serves, with rules by name: topics `open:…` may be heard, `chat:…` be published on too."""

    def __init__(self, url: str, manager: WebSocketManager) -> None:
        self.url = url
        self.manager = manager

    @asynccontextmanager
    async def client(self, *protocols: str) -> AsyncIterator[Client]:
        async with connect(
            self.url,
            subprotocols=[Subprotocol(name) for name in protocols] or None,
            ping_interval=None,
            open_timeout=WAIT_S,
            close_timeout=WAIT_S,
            max_queue=None,
        ) as socket:
            yield Client(socket)


class Client:
    """What one client says and hears."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket

    async def says(self, **frame: object) -> None:
        await self.socket.send(json.dumps(frame))

    async def hears(self) -> dict[str, Any]:
        """The next frame, but for the server's signs of life, which may come at any time."""
        async with asyncio.timeout(WAIT_S):
            while True:
                frame: dict[str, Any] = json.loads(await self.socket.recv())
                if frame.get("type") != "ping":
                    return frame

    async def is_closed(self) -> tuple[int | None, Counter[str]]:
        """The code, and what came before it: the code of an error, or the type of another frame."""
        heard: Counter[str] = Counter()
        try:
            while True:
                frame = await self.hears()
                heard[frame.get("code", frame["type"])] += 1
        except ConnectionClosed:
            return self.socket.close_code, heard


@asynccontextmanager
async def chat(way: Way, *, limits: Limits | None = None) -> AsyncIterator[Chat]:
    manager = WebSocketManager(
        "chat",
        limits=limits,
        security=Security(authorize=lambda identity, topic: topic.startswith(("first", "open:", "chat:"))),
        client_publishing=ClientPublishing(
            may_publish=lambda connection, topic: topic.startswith("chat:"), fields=["type", "text"]
        ),
    )

    async def on_message(connection: Connection, message: object) -> None:
        await manager.send_personal_message({"type": "echo", "of": message}, connection)

    async def endpoint(websocket: WebSocket) -> None:
        await manager.serve(websocket, "42", topics=["first"], on_message=on_message, heartbeat="earlier")

    async with serving(way, endpoint) as (_, url):
        yield Chat(url, manager)
        await manager.close()


@pytest.fixture(autouse=True)
def no_broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTIPHON_BROKER_URL", raising=False)
    monkeypatch.delenv("REDIS_URL", raising=False)


async def test_each_client_gets_messages_in_the_form_that_it_speaks(way: Way) -> None:
    async with chat(way) as served, served.client(V1) as one, served.client() as bare, served.client(V1) as two:
        assert (one.socket.subprotocol, bare.socket.subprotocol) == (V1, None)
        for client in (one, two):
            welcome = await client.hears()
            assert (welcome["type"], welcome["state"], welcome["topics"]) == ("welcome", "up", ["first"])
        await until(lambda: served.manager.get_connection_count() == 3)
        receipts = [
            await served.manager.broadcast({"type": "welcome", "n": 1}),
            await served.manager.broadcast({"n": 2}, topic="first"),
            await served.manager.broadcast("no json"),
            await served.manager.broadcast({"n": 4}, {"42"}),
        ]
        for client in (one, two):
            assert [await client.hears() for _ in receipts] == [
                {"type": "message", "id": receipts[0].id, "message": {"type": "welcome", "n": 1}},
                {"type": "message", "id": receipts[1].id, "topic": "first", "message": {"n": 2}},
                {"type": "message", "id": receipts[2].id, "message": "no json"},
                {"type": "message", "id": receipts[3].id, "message": {"n": 4}},
            ]
        texts = [await bare.socket.recv() for _ in receipts]
        assert texts == ['{"type":"welcome","n":1}', '{"n":2}', "no json", '{"n":4}']


async def test_topics_and_publications_of_clients_go_by_the_rules(way: Way) -> None:
    async with chat(way) as served, served.client(V1) as ann, served.client(V1) as ben:
        assert [(await client.hears())["type"] for client in (ann, ben)] == ["welcome"] * 2
        for number, topic in enumerate(["chat:1", "user:1", "__control", "*", "../x", "a" * 300, "a\0", "tr\u0430ck"]):
            await ann.says(type="subscribe", topic=topic, ref=number)
        answers = [await ann.hears() for _ in range(8)]
        assert [answer["ref"] for answer in answers] == list(range(8))
        assert [answer.get("code") for answer in answers] == [None, *["forbidden"] * 2, *["invalid_topic"] * 5]
        assert served.manager.stats().topics == 2

        forged: Mapping[str, object] = {"type": "chat", "text": "Hi", "from": "1", "user_id": "1", "admin": True}
        await ben.says(type="publish", topic="chat:1", message=forged, ref=1, id="x", off=9)
        published = await ben.hears()
        assert (published["type"], published["ref"], published["scope"]) == ("published", 1, "local")
        assert await ann.hears() == {
            "type": "message",
            "id": published["id"],
            "topic": "chat:1",
            "message": {"type": "chat", "text": "Hi", "user_id": "42"},
        }
        await ben.says(type="publish", topic="open:1", message=forged, ref=2)
        assert (await ben.hears())["code"] == "forbidden"
        await ann.says(type="unsubscribe", topic="chat:1", ref=9)
        assert await ann.hears() == {"type": "unsubscribed", "topic": "chat:1", "ref": 9}
        await ben.says(type="publish", topic="chat:1", message=forged)
        assert (await ben.hears())["type"] == "published"
        await ann.says(type="message", message={"type": "subscribe", "topic": "open:1"})
        assert (await ann.hears())["message"] == {"type": "echo", "of": {"type": "subscribe", "topic": "open:1"}}


async def test_bare_client_of_the_earlier_protocol_is_answered_and_the_application_asked(way: Way) -> None:
    async with chat(way) as served, served.client() as client:
        await client.says(type="ping")
        assert await client.hears() == {"type": "pong"}
        await client.says(type="subscribe", topic="open:1")
        assert await client.hears() == {"type": "echo", "of": {"type": "subscribe", "topic": "open:1"}}
        for text in ("7", "[]", "{", '{"a":NaN}', '{"a":"\\ud800"}', "[" * 60_000):
            await client.socket.send(text)
            assert (await client.hears())["code"] == "bad_request"
        await client.says(type="ping")
        assert await client.hears() == {"type": "pong"}


async def test_client_of_a_later_version_is_told_so(way: Way) -> None:
    async with chat(way) as served, served.client("antiphon.v9") as client:
        assert client.socket.subprotocol == "antiphon.v9"
        assert await client.is_closed() == (4507, Counter())
        assert served.manager.get_connection_count() == 0


@pytest.mark.parametrize("protocols", [(), (V1,)], ids=["bare", "v1"])
async def test_client_that_sends_too_much_is_told_and_then_closed(way: Way, protocols: tuple[str, ...]) -> None:
    async with chat(way, limits=Limits(frames_per_s=10, frames_burst=20)) as served, served.client() as honest:
        async with served.client(*protocols) as client:

            async def flood() -> None:
                for _ in range(2_000):
                    await client.says(type="ping", ref=1)

            flooding = asyncio.create_task(flood())
            code, heard = await client.is_closed()
            await asyncio.gather(flooding, return_exceptions=True)
            assert code == 4505
            assert heard["pong"] >= 20
            assert heard["too_fast"] >= 20
        await until(lambda: served.manager.get_connection_count() == 1)
        await honest.says(type="ping")
        assert await honest.hears() == {"type": "pong"}


@pytest.mark.parametrize("size", [65 * 1024, 1024 * 1024, 15 * 1024 * 1024])
async def test_message_that_is_too_large_ends_the_connection_alone(way: Way, size: int) -> None:
    async with chat(way) as served, served.client() as honest, served.client() as client:
        with contextlib.suppress(ConnectionClosed):  # refused while it is still being sent
            await client.socket.send('"' + "x" * size + '"')
        assert (await client.is_closed())[0] == 1009
        await until(lambda: served.manager.get_connection_count() == 1)
        await honest.says(n="x" * (65_536 - 10))
        assert (await honest.hears())["type"] == "echo"


@pytest.mark.parametrize("protocols", [(), (V1,)], ids=["bare", "v1"])
async def test_binary_ends_the_connection_alone(way: Way, protocols: tuple[str, ...]) -> None:
    async with chat(way) as served, served.client(*protocols) as client:
        await client.socket.send(b"{}")
        assert (await client.is_closed())[0] == 1003
        await until(lambda: served.manager.get_connection_count() == 0)

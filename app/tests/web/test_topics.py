"""Clients that speak `antiphon.v1` on the site's sockets hear no topic that is not theirs, and publish nothing."""

from __future__ import annotations

import asyncio
import json

import pytest
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from encore.accounts.sessions import cookie_name
from harness.site import Json, Person, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

SOCKETS = ("/ws/broadcasts", "/ws/book-requests", "/api/forum/ws/v2", "/api/forum/ws/global")
NAMES = (
    ("*", "thread:*", "../site", "a" * 300, "thread:1\0", "thrеad:1", "thread: 1", ""),
    (
        "__control",
        "broadcasts",
        "book_requests_admin",
        "user:1",
        "forum:thread:1",
        "thread:0",
        "thread:01",
        "track:9999",
    ),
)
"""What is no name at all (of those with a letter that only looks like one), and what nobody may hear."""


async def answers(person: Person, path: str, requests: list[Json]) -> list[str]:
    """The code of each answer, or its type."""
    address = person.base.replace("http", "ws", 1) + path
    headers = {"Cookie": f"{cookie_name()}={person.token}", "Origin": person.base}
    found = []
    async with connect(
        address, additional_headers=headers, subprotocols=[Subprotocol("antiphon.v1")], proxy=None
    ) as connection:
        for number, request in enumerate(requests):
            await connection.send(json.dumps({**request, "ref": number}))
            async with asyncio.timeout(20):
                while (answer := json.loads(await connection.recv())).get("ref") != number:
                    pass
            found.append(str(answer.get("code", answer["type"])))
    return found


@pytest.mark.parametrize("path", SOCKETS)
async def test_no_topic_is_heard_that_is_not_for_the_one_who_asks(shared_site: Site, path: str) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    body = {"title": "Ours", "content": "Hello", "is_private": True}
    private = (await ben.post("/api/forum/threads", body, status=201))["thread"]["id"]
    bad, denied = NAMES
    asked = [*bad, *denied, f"thread:{private}"]
    found = await answers(ann, path, [{"type": "subscribe", "topic": topic} for topic in asked])
    assert set(found[: len(bad)]) <= {"invalid_topic", "bad_request"}
    assert found[len(bad) :] == ["forbidden"] * (len(denied) + 1)


@pytest.mark.parametrize("path", SOCKETS)
async def test_nothing_is_published_by_a_client(shared_site: Site, path: str) -> None:
    ann, ben = await shared_site.person(), await shared_site.person(replica=1)
    thread = (await ann.post("/api/forum/threads", {"title": "Open", "content": "Hello"}, status=201))["thread"]["id"]
    async with ben.socket(path) as socket:
        await socket.heard()
        if path.endswith("v2"):
            await socket.send({"type": "subscribe", "thread_id": thread})
            await socket.next("subscribed")
        message = {"type": "new_broadcast", "thread_id": thread, "broadcast": {"id": 1, "message": "Buy this"}}
        topics = (f"thread:{thread}", "broadcasts", "site", "track:1")
        asked: list[Json] = [{"type": "publish", "topic": topic, "message": message} for topic in topics]
        assert await answers(ann, path, asked) == ["forbidden"] * len(topics)
        assert [told["type"] for told in await socket.heard()] == []


@pytest.mark.parametrize("replica", [0, 1])
async def test_nothing_is_heard_when_access_is_lost_while_one_subscribes(shared_site: Site, replica: int) -> None:
    ann, ben = await shared_site.person(), await shared_site.person(replica=replica)
    body = {"title": "Ours", "content": "Hello", "is_private": True, "member_ids": [ben.id]}
    thread = (await ann.post("/api/forum/threads", body, status=201))["thread"]["id"]
    path = f"/api/forum/threads/{thread}"
    async with ben.socket("/api/forum/ws/v2") as socket, ann.socket("/api/forum/ws/v2") as of_ann:
        await socket.next("connected")
        await of_ann.send({"type": "subscribe", "thread_id": thread})
        await of_ann.next("subscribed")

        async def subscribe() -> None:
            for _ in range(10):
                await socket.send({"type": "subscribe", "thread_id": thread})
                await asyncio.sleep(0)

        await asyncio.gather(subscribe(), ann.delete(f"{path}/members/{ben.id}"), subscribe())
        await ann.post(f"{path}/messages", {"content": "behind his back"}, status=201)
        await of_ann.next("new_message")
        await socket.heard()
        assert "behind his back" not in json.dumps(socket.received)
        await socket.send({"type": "subscribe", "thread_id": thread})
        assert (await socket.next("error"))["code"] == "not_found"

"""S13, S16: hearing and publishing what is not for oneself."""

from __future__ import annotations

import asyncio

from tests.attacks.attacker import (
    handshake,
    handshaken,
    json_frame,
    json_of,
    new_topic,
    socket_of,
    subscribe,
    until_closed,
)
from tests.attacks.credentials import cookie
from tests.attacks.target import Target
from tests.transports.raw_client import close

DENIED = 'antiphon_refused_messages_total{channel="site",reason="forbidden"}'
INVALID = 'antiphon_refused_messages_total{channel="site",reason="invalid_topic"}'
CLOSED = 'antiphon_refused_connections_total{channel="site",reason="forbidden"}'
NONSENSE = 'antiphon_refused_connections_total{channel="site",reason="bad_request"}'

NOT_FOR_ALICE = (
    "user:bob",
    "mod:reports",
    "__control",
    "control",
    "antiphon:control",
    "antiphon:probe",
    "user:",
    "user",
)
NO_NAMES = {
    "a pattern": "*",
    "a pattern behind a name": "user:*",
    "another pattern": "user:[ab]*",
    "a directory above": "../site",
    "another channel": "site/user:bob",
    "300 characters": "x" * 300,
    "129 characters": "x" * 129,
    "NUL": "user:alice\0",
    "a line": "user:alice\r\nSUBSCRIBE x",
    "a newline at the end": "user:alice\n",
    "a homoglyph": "user:\u0430lice",
    "another kind of colon": "user\uff1aalice",
    "a space": "user: alice",
    "nothing": "",
    "a percent sign": "user%3Aalice",
}


async def test_client_gets_no_topic_that_is_not_for_it(site: Target) -> None:
    names = (*NOT_FOR_ALICE, *NO_NAMES.values())
    async with socket_of(site.port, cookie=cookie("alice"), v1=True) as client:
        async with site.nothing_gained("site", *names) as grown:
            for ref, topic in enumerate(names):
                await client.send(subscribe(topic, ref=ref))
            answers = [json_of(await client.answer()) for _ in names]
        assert [(answer["type"], answer["ref"]) for answer in answers] == [("error", ref) for ref in range(len(names))]
        codes = ["forbidden"] * len(NOT_FOR_ALICE) + ["invalid_topic"] * len(NO_NAMES)
        assert [answer["code"] for answer in answers] == codes
        assert (grown[DENIED], grown[INVALID]) == (len(NOT_FOR_ALICE), len(NO_NAMES))
        # Who may is asked with the name as it is, and not about what is none.
        asked = await site.look()
        assert asked["asked"][-len(NOT_FOR_ALICE) :] == list(NOT_FOR_ALICE)
        await client.send(subscribe("user:alice"))
        assert json_of(await client.answer())["type"] == "subscribed"
        assert "site/user:alice" in site.subscribed()


async def test_topic_that_is_no_text_of_unicode_is_refused(site: Target) -> None:
    async with socket_of(site.port, cookie=cookie("alice"), v1=True) as client:
        for topic in (None, 1, ["user:alice"], {"$ne": ""}, True, "user:\ud800"):
            await client.send(json_frame({"type": "subscribe", "topic": topic, "ref": 1}))
            assert json_of(await client.answer())["code"] == "bad_request"


async def test_topic_in_the_address_is_asked_about_before_anything_is_heard(site: Target) -> None:
    async def opens(topics: str) -> list[object]:
        request = handshake(f"/site?{topics}", cookie=cookie("alice"), v1=True)
        async with handshaken(site.port, request) as client:
            return list(await until_closed(client))

    fresh, no_names = new_topic(), ("*", "..%2Fsite", "x" * 300, "user:alice%00")
    attacks = [f"topic={fresh}&topic={topic}" for topic in (*NOT_FOR_ALICE, *no_names)]
    expected = [[close(4503)]] * len(NOT_FOR_ALICE) + [[close(4506)]] * len(no_names)
    async with site.nothing_gained("site", fresh, *NOT_FOR_ALICE) as grown:
        assert await asyncio.gather(*map(opens, attacks)) == expected
    assert (grown[CLOSED], grown[NONSENSE]) == (len(NOT_FOR_ALICE), len(no_names))


async def test_client_publishes_nowhere_but_where_it_may_and_only_as_itself(site: Target) -> None:
    chat, news = new_topic("chat"), new_topic("news")
    forged = {
        "type": "chat",
        "text": "hello",
        "user_id": "bob",
        "from": "bob",
        "id": "1",
        "off": 7,
        "ts": 1,
        "at": 1,
        "admin": True,
        "roles": ["moderator"],
        "__proto__": {"admin": True},
    }
    envelope = {
        "ref": 1,
        "from": "bob",
        "id": "forged",
        "user_id": "bob",
        "users": ["bob"],
        "not": ["x"],
        "kind": "revoke",
    }
    async with (
        socket_of(site.port, f"/site?topic={chat}&topic={news}", cookie=cookie("alice"), v1=True) as alice,
        socket_of(site.port, f"/site?topic={chat}&topic={news}", cookie=cookie("bob"), v1=True) as bob,
    ):
        denied_before = (await site.metrics()).get(DENIED, 0)
        elsewhere = (news, "user:bob", "antiphon:control", "control", new_topic("public"))
        for topic in elsewhere:
            await alice.send(json_frame({"type": "publish", "topic": topic, "message": forged, **envelope}))
            answer = json_of(await alice.answer())
            assert (answer["type"], answer["code"]) == ("error", "forbidden")
        await alice.send(json_frame({"type": "publish", "topic": chat, "message": forged, **envelope}))
        answers = [json_of(await alice.answer()) for _ in range(2)]
        published = next(answer for answer in answers if answer["type"] == "published")
        assert published["id"] != "forged"
        # The first thing that bob hears is what was allowed, and of that only what was named.
        assert json_of(await bob.answer()) == {
            "type": "message",
            "id": published["id"],
            "topic": chat,
            "message": {"type": "chat", "text": "hello", "user_id": "alice"},
        }
        assert (await site.metrics())[DENIED] - denied_before == len(elsewhere)


async def test_message_for_the_handler_cannot_pass_for_a_frame_of_the_server(site: Target) -> None:
    """What others see of a message is always within `message`."""
    chat = new_topic("chat")
    path = f"/site?topic={chat}"
    async with (
        socket_of(site.port, path, cookie=cookie("alice"), v1=True) as alice,
        socket_of(site.port, path, cookie=cookie("bob"), v1=True) as bob,
    ):
        fake = {"type": "unsubscribed", "text": {"type": "welcome", "topics": []}, "code": "forbidden"}
        await alice.send(json_frame({"type": "publish", "topic": chat, "message": fake}))
        heard = json_of(await bob.answer())
        assert (heard["type"], heard["topic"]) == ("message", chat)
        assert heard["message"] == {"type": "unsubscribed", "text": fake["text"], "user_id": "alice"}

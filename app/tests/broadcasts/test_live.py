"""Broadcasts as people on two replicas see them: with a broker, with one that dies half-way, and without."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
from conftest import MakeSite
from sqlalchemy import update

from encore.broadcasts.models import Broadcast, Status
from encore.db import now
from harness.site import Json, Person, Site, Socket, eventually

PATHS = ("/api/creator/broadcast/ws", "/ws/broadcasts")


async def sockets_of(stack: AsyncExitStack, people: list[Person]) -> list[Socket]:
    opened = []
    for number, person in enumerate(people):
        socket = await stack.enter_async_context(person.socket(PATHS[number % 2]))
        assert await socket.next("connected") == {
            "type": "connected",
            "message": "Connected to broadcast live updates",
        }
        opened.append(socket)
    return opened


def redis_keys(site: Site) -> Any:
    import redis

    assert site.broker is not None
    return redis.Redis.from_url(site.broker.url)


async def in_redis(ask: Callable[[str], Any], key: str) -> Any:
    """For `eventually`: Redis is written behind the messages, and again when it did not answer in time."""
    return ask(key)


async def stats_when(cleo: Person, holds: Any) -> Json:
    stats: Json = await eventually(lambda: cleo.get("/api/creator/broadcast/stats"), holds)
    return stats


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_everybody_hears_and_acknowledges_on_any_replica_when_the_broker_is_up(
    make_site: MakeSite, kind: str
) -> None:
    site = await make_site(kind)
    cleo = await site.person("cleo", roles={"creator"})
    ann, ben = await site.person("ann", replica=0), await site.person("ben", replica=1)
    async with AsyncExitStack() as stack:
        ann1, ann2, ben2 = await sockets_of(stack, [ann, ann.at(1), ben])
        sent = await cleo.at(1).post("/api/creator/broadcast", {"message": "New album ✨", "type": "success"})
        assert sent["scope"] == "cluster"
        assert (sent["sent_to_users"], sent["reached"], sent["replicas"]) == (2, 3, 2)
        number = sent["broadcast"]["id"]
        for socket in (ann1, ann2, ben2):
            assert (await socket.next("new_broadcast"))["broadcast"] == sent["broadcast"]
        with redis_keys(site) as redis:
            await eventually(
                lambda: in_redis(redis.get, "current_broadcast"), lambda seen: b"New album" in (seen or b"")
            )
            # It is active for who comes later, until they acknowledge.
            later = (await sockets_of(stack, [ann]))[0]
            assert (await later.next("active_broadcast"))["broadcast"]["id"] == number
            await ann2.send({"type": "acknowledge_broadcast", "broadcast_id": number})
            for socket in (ann1, ann2, later):
                assert await socket.next() == {"type": "broadcast_cleared", "broadcast_id": number}
            await eventually(lambda: in_redis(redis.exists, f"broadcast:{number}:ack:{ann.id}"), lambda seen: seen == 1)
        again = (await sockets_of(stack, [ann]))[0]
        assert await again.heard() == []
        assert (await ann.get("/api/creator/broadcast/active")) == {
            "broadcast": None,
            "others": [],
            "acknowledged": [number],
        }
        await ben2.send({"type": "get_active_broadcast"})
        assert (await ben2.next("active_broadcast"))["broadcast"]["id"] == number
        assert await ben2.heard() == []
        stats = await stats_when(cleo, lambda seen: seen["cluster"]["delivered"] == 2)
        assert stats["cluster"]["acknowledged"] == 1
        assert stats["cluster"]["acknowledgement_rate"] == 0.5
        assert stats["connected_users_note"] == "Count is for this replica only"
        assert (stats["max_characters"], stats["broadcasts_today"], stats["connected_users"]) == (280, 1, 1)
        assert (stats["cluster"]["connected"], stats["cluster"]["connected_users"]) == (5, 2)
        receipts = (await cleo.get(f"/api/creator/broadcasts/{number}/receipts"))["items"]
        assert [(row["username"], row["acknowledged_at"] is not None) for row in receipts] == [
            ("ann", True),
            ("ben", False),
        ]
        assert await cleo.post("/api/creator/broadcast/clear") == {"cleared": [number]}
        assert await ben2.next("broadcast_cleared") == {"type": "broadcast_cleared", "broadcast_id": number}
        with redis_keys(site) as redis:
            await eventually(lambda: in_redis(redis.get, "current_broadcast"), lambda seen: seen is None)
        assert (await ben.get("/api/creator/broadcast/active"))["broadcast"] is None


@pytest.mark.parametrize("broker", ["none", "killed"])
async def test_the_database_is_the_record_when_there_is_no_broker(make_site: MakeSite, broker: str) -> None:
    site = await make_site(broker=broker == "killed")
    cleo, ann = await site.person("cleo", roles={"creator"}), await site.person("ann", replica=0)
    async with AsyncExitStack() as stack:
        here, there = await sockets_of(stack, [ann, ann.at(1)])
        server = site.broker
        if server is not None:
            await cleo.post("/api/creator/broadcast", {"message": "before"})
            for socket in (here, there):
                assert (await socket.next("new_broadcast"))["broadcast"]["message"] == "before"
            server.kill()
        sent = await cleo.post("/api/creator/broadcast", {"message": "meanwhile"})
        assert sent["scope"] == "local"
        number = sent["broadcast"]["id"]
        assert (await here.next("new_broadcast"))["broadcast"]["id"] == number
        # On the other replica it is found by asking, and acknowledged there it is acknowledged here.
        await there.send({"type": "get_active_broadcast"})
        assert (await there.next("active_broadcast"))["broadcast"]["id"] == number
        await ann.at(1).post("/api/creator/broadcast/acknowledge", {"broadcast_id": number})
        assert await there.next("broadcast_cleared") == {"type": "broadcast_cleared", "broadcast_id": number}
        assert (await ann.get("/api/creator/broadcast/active"))["broadcast"] is None
        if server is not None:
            server.restart()
            # What was published meanwhile arrives, once; then all is as before.
            late = await there.next("new_broadcast")
            assert late["broadcast"]["id"] == number
            cleared = await here.next("broadcast_cleared")
            assert cleared["broadcast_id"] == number
            with redis_keys(site) as redis:
                await eventually(
                    lambda: in_redis(redis.get, "current_broadcast"), lambda seen: b"meanwhile" in (seen or b"")
                )
            await cleo.at(1).post("/api/creator/broadcast/clear", {"broadcast_id": number})
            assert (await here.next("broadcast_cleared"))["broadcast_id"] == number
            assert [row["type"] for row in await there.heard()].count("new_broadcast") == 0


async def pass_an_hour(site: Site) -> None:
    """Whatever is scheduled for the next hour becomes due."""
    async with site.database.writing() as session:
        await session.execute(update(Broadcast).where(Broadcast.status == Status.SCHEDULED).values(send_at=now()))


async def test_scheduled_ones_are_sent_once_when_replicas_are_killed_and_started(make_site: MakeSite) -> None:
    site = await make_site(replicas=3)
    cleo, ann = await site.person("cleo", roles={"creator"}), await site.person("ann", replica=0)
    at = now() + datetime.timedelta(hours=1)
    async with AsyncExitStack() as stack:
        (socket,) = await sockets_of(stack, [ann])
        wanted = []
        for number in range(3):
            body = {"message": f"at its time {number}", "send_at": at.isoformat(), "target_user_ids": [ann.id]}
            sent = await cleo.post("/api/creator/broadcast", body)
            assert (sent["scope"], sent["broadcast"]["status"]) == ("scheduled", "scheduled")
            wanted.append(sent["broadcast"]["id"])
        body = {"message": "taken back", "send_at": at.isoformat()}
        taken_back = (await cleo.post("/api/creator/broadcast", body))["broadcast"]["id"]
        waiting = await cleo.get("/api/creator/broadcasts?scheduled=true&limit=2")
        assert [row["id"] for row in waiting["items"]] == wanted[:2]
        rest = await cleo.get(f"/api/creator/broadcasts?scheduled=true&cursor={waiting['next_cursor']}")
        assert [row["id"] for row in rest["items"]] == [wanted[2], taken_back]
        await cleo.delete(f"/api/creator/broadcasts/{taken_back}")
        site.kill(1)
        await pass_an_hour(site)
        site.start(1)
        heard = [(await socket.next("new_broadcast"))["broadcast"]["id"] for _ in wanted]
        assert sorted(heard) == wanted
        await cleo.delete(f"/api/creator/broadcasts/{wanted[0]}", status=409)
        assert await socket.heard() == []
        history = await cleo.get("/api/creator/broadcasts")
        assert sorted(row["id"] for row in history["items"]) == wanted

"""Book requests as people on two replicas see them: with a broker, with one that dies half-way, and without."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from conftest import MakeSite

from harness.site import Json, Person, Site, Socket

ASK = "/api/book-requests"


async def open_sockets(stack: AsyncExitStack, listener: Person, admin: Person) -> tuple[Socket, Socket]:
    of_listener = await stack.enter_async_context(listener.socket("/ws/book-requests"))
    of_admin = await stack.enter_async_context(admin.socket("/api/ws/book-requests/admin"))
    for socket in (of_listener, of_admin):
        assert await socket.heard() == []  # which also says that it is connected
    return of_listener, of_admin


async def people(site: Site) -> tuple[Person, Person, Person]:
    ann, ben = await site.person("ann", replica=0), await site.person("ben", replica=1)
    return ann, ben, await site.person("cleo", roles={"creator"}, replica=1)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_a_request_goes_its_way_when_people_are_on_different_replicas(make_site: MakeSite, kind: str) -> None:
    site = await make_site(kind)
    ann, ben, cleo = await people(site)
    async with AsyncExitStack() as stack:
        of_ann, of_cleo = await open_sockets(stack, ann.at(1), cleo.at(0))
        of_ben = await stack.enter_async_context(ben.socket("/api/ws/book-requests"))
        assert await of_ben.heard() == []
        new = {"title": "The Hobbit", "author": "Tolkien", "note": "for my son", "link": "https://example.org/hobbit"}
        asked = await ann.post(ASK, new, status=201)
        number = asked["id"]
        created = {"type": "request_created", "data": {"id": number, "title": "The Hobbit", "status": "pending"}}
        assert await of_ann.next() == created
        told = await of_cleo.next()
        assert (told["type"], told["data"]["id"], told["data"]["user"]) == ("new_request", number, "ann")
        assert told["data"]["created_at"] == asked["created_at"]
        # Others find it before they ask, without learning who asked, and vote.
        (found,) = (await ben.get(f"{ASK}/similar?q=hobbit"))["requests"]
        assert (found["id"], found["votes"], found["have_voted"], found["is_mine"]) == (number, 0, False, False)
        assert "note" not in found
        assert "user" not in found
        for _ in range(2):
            assert (await ben.post(f"{ASK}/{number}/vote"))["votes"] == 1
        state = "pending"
        for status in ("approved", "in_progress", "fulfilled"):
            decided = await cleo.put(f"{ASK}/{number}/status", {"status": status, "reason": "good"})
            assert (decided["status"], decided["votes"]) == (status, 1)
            message = await of_ann.next()
            assert message["type"] == "status_updated"
            assert message["data"]["message"] == f"Your request 'The Hobbit' is now {status}"
            assert (await of_cleo.next())["data"] == {"id": number, "status": status}
            voted = await of_ben.next()
            assert (voted["data"]["id"], voted["data"]["status"], voted["data"]["reason"]) == (number, status, "")
            state = message["data"]["status"]
        mine = await ann.at(1).get(f"{ASK}/{number}")
        assert mine["status"] == state
        assert [(row["kind"], row["to_status"], row["user"]) for row in mine["history"]] == [
            ("created", "pending", "ann"),
            ("status", "approved", "cleo"),
            ("status", "in_progress", "cleo"),
            ("status", "fulfilled", "cleo"),
        ]
        assert [row for socket in (of_ann, of_ben, of_cleo) for row in await socket.heard()] == []


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_one_wins_when_two_decide_at_once(make_site: MakeSite, kind: str) -> None:
    site = await make_site(kind, broker=False)
    ann, _, cleo = await people(site)
    ada = await site.person("ada", roles={"admin"})
    for number in range(5):
        request = (await ann.post(ASK, {"title": f"Book {number}"}, status=201))["id"]

        async def decide(person: Person, status: str, request: int = request) -> int:
            answer = await person.http.put(f"{ASK}/{request}/status", json={"status": status})
            return answer.status_code

        answers = await asyncio.gather(
            decide(cleo, "approved"), decide(ada, "rejected"), decide(cleo.at(0), "approved"), decide(ada, "rejected")
        )
        assert sorted(answers) == [200, 409, 409, 409]
        assert (await ann.get(f"{ASK}/{request}"))["status"] in ("approved", "rejected")


@pytest.mark.parametrize("broker", ["none", "killed"])
async def test_this_replica_goes_on_when_there_is_no_broker(make_site: MakeSite, broker: str) -> None:
    site = await make_site(broker=broker == "killed")
    ann, _, cleo = await people(site)
    async with AsyncExitStack() as stack:
        here, admin_here = await open_sockets(stack, ann, cleo.at(0))
        there, admin_there = await open_sockets(stack, ann.at(1), cleo)
        if site.broker is not None:
            await ann.post(ASK, {"title": "before"}, status=201)
            for socket in (here, there, admin_here, admin_there):
                assert (await socket.next("request_created", "new_request"))["data"]["title"] == "before"
            site.broker.kill()
        number = (await ann.post(ASK, {"title": "meanwhile"}, status=201))["id"]
        await cleo.at(0).put(f"{ASK}/{number}/status", {"status": "approved"})
        expected = ["request_created", "status_updated"]
        assert [(await here.next())["type"] for _ in expected] == expected
        assert [(await admin_here.next())["type"] for _ in expected] == ["new_request", "request_updated"]
        assert (await ann.at(1).get(f"{ASK}/{number}"))["status"] == "approved"
        taken_back = (await ann.post(ASK, {"title": "no, not this"}, status=201))["id"]
        await ann.delete(f"{ASK}/{taken_back}")
        assert (await admin_here.next("request_updated"))["data"] == {"id": taken_back, "status": "withdrawn"}
        assert (await here.next("status_updated"))["data"]["status"] == "withdrawn"
        if site.broker is not None:
            site.broker.restart()
            late: list[Json] = [await there.next() for _ in range(4)]
            assert [(row["type"], row["data"]["id"]) for row in late] == [
                ("request_created", number),
                ("status_updated", number),
                ("request_created", taken_back),
                ("status_updated", taken_back),
            ]
            await admin_there.next("new_request")
            await cleo.put(f"{ASK}/{number}/status", {"status": "in_progress"})
            assert (await here.next("status_updated"))["data"]["status"] == "in_progress"
            assert (await there.next())["data"]["status"] == "in_progress"
        else:
            assert await there.heard() == []

"""Who may do what with broadcasts, and what is refused."""

from __future__ import annotations

import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed, InvalidStatus

from harness.site import Json, Person, Site

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEND = "/api/creator/broadcast"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cleo(shared_site: Site) -> Person:
    return await shared_site.person(roles={"creator"})


@pytest.mark.parametrize("role", ["team", "creator", "admin"])
async def test_staff_may_send_when_asked_for(shared_site: Site, role: str) -> None:
    person = await shared_site.person(roles={role})
    assert (await person.get(f"{SEND}/limits"))["may_send"] is True
    sent = await person.post(SEND, {"message": "hello", "type": "info", "roles": ["team"]})
    assert sent["broadcast"]["roles"] == ["team"]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", SEND, {"message": "hello"}),
        ("POST", f"{SEND}/clear", {}),
        ("GET", f"{SEND}/stats", None),
        ("GET", "/api/creator/broadcasts", None),
        ("GET", "/api/creator/broadcasts/1/receipts", None),
        ("DELETE", "/api/creator/broadcasts/1", None),
    ],
)
async def test_others_may_not_when_it_is_for_staff(shared_site: Site, method: str, path: str, body: object) -> None:
    listener = await shared_site.person()
    answer = await listener.ask(method, path, status=403, json=body)
    assert answer["code"] == "forbidden"
    assert (await shared_site.guest().ask(method, path, status=401, json=body))["code"] == "not_signed_in"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"message": "x" * 281}, 422),
        ({"message": "  "}, 422),
        ({"message": "nul \x00"}, 422),
        ({"message": "x", "type": "loud"}, 422),
        ({"message": "x", "roles": ["listener"]}, 422),
        ({"message": "x", "send_at": "2026-01-01T00:00:00"}, 422),
        ({"message": "x", "send_at": "2126-01-01T00:00:00Z"}, 400),
        ({"message": "x", "send_at": "0001-01-01T00:00:00+23:59"}, 422),
        ({"message": "x", "send_at": "9999-12-31T23:59:59-23:59"}, 422),
        ({"message": "x", "target_user_ids": [999_999]}, 400),
    ],
)
async def test_a_bad_broadcast_is_refused_and_told_to_nobody_when_it_is_sent(
    shared_site: Site, cleo: Person, body: object, status: int
) -> None:
    listener = await shared_site.person(replica=1)
    async with listener.socket("/ws/broadcasts") as socket:
        await socket.next("connected")
        await cleo.post(SEND, body, status=status)
        assert [message["type"] for message in await socket.heard() if message["type"] != "active_broadcast"] == []


async def test_280_code_points_fit_when_they_are_many_more_bytes(cleo: Person) -> None:
    sent = await cleo.post(SEND, {"message": "🎧" * 280, "roles": ["admin"]})
    assert len(sent["broadcast"]["message"]) == 280


async def test_only_its_audience_hears_it_when_it_is_for_some(shared_site: Site, cleo: Person) -> None:
    tom, ann, ben = [await shared_site.person(roles=roles, replica=1) for roles in ({"team"}, set(), set())]
    async with tom.socket("/ws/broadcasts") as of_tom, ann.socket("/ws/broadcasts") as of_ann:
        async with ben.socket("/ws/broadcasts") as of_ben:
            for socket in (of_tom, of_ann, of_ben):
                await socket.next("connected")
            sent = await cleo.post(SEND, {"message": "inside", "roles": ["team"], "target_user_ids": [ann.id]})
            number = sent["broadcast"]["id"]
            for socket in (of_tom, of_ann):
                assert (await socket.next("new_broadcast"))["broadcast"]["id"] == number
            assert [row for row in await of_ben.heard() if row["type"] == "new_broadcast"] == []
            alone = await cleo.post(SEND, {"message": "to one", "target_user_ids": [ann.id]})
            assert (alone["sent_to_users"], alone["reached"]) == (0, 1)
            latest = (await cleo.get("/api/creator/broadcasts?limit=1"))["items"][0]
            assert (latest["id"], latest["reached"]) == (alone["broadcast"]["id"], 1)
    shown = [row["id"] for row in _active(await tom.get(f"{SEND}/active"))]
    assert number in shown
    assert number not in [row["id"] for row in _active(await ben.get(f"{SEND}/active"))]
    answer = await ben.post(f"{SEND}/acknowledge", {"broadcast_id": number}, status=404)
    assert answer["code"] == "not_found"


async def test_the_newest_takes_the_place_when_the_audience_is_the_same(shared_site: Site, cleo: Person) -> None:
    admin = await shared_site.person(roles={"admin"})
    first = await cleo.post(SEND, {"message": "one", "roles": ["admin", "creator"]})
    second = await cleo.post(SEND, {"message": "two", "roles": ["creator", "admin"]})
    shown = [row["id"] for row in _active(await admin.get(f"{SEND}/active"))]
    assert second["broadcast"]["id"] in shown
    assert first["broadcast"]["id"] not in shown


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ({"type": "acknowledge_broadcast", "broadcast_id": 999_999}, "not_found"),
        ({"type": "acknowledge_broadcast", "broadcast_id": "no"}, "bad_message"),
        ({"type": "acknowledge_broadcast"}, "bad_message"),
        ({"type": "new_broadcast", "broadcast": {}}, "unknown_type"),
        ({"kind": "x"}, "unknown_type"),
    ],
)
async def test_the_client_is_told_when_its_message_makes_no_sense(
    shared_site: Site, message: dict[str, object], code: str
) -> None:
    person = await shared_site.person()
    async with person.socket("/ws/broadcasts") as socket:
        await socket.send(message)
        assert (await socket.next("error"))["code"] == code


async def test_a_socket_is_refused_when_nobody_or_somebody_else_asks(shared_site: Site) -> None:
    ann, ben = await shared_site.person(), await shared_site.person()
    async with shared_site.guest().socket("/ws/broadcasts") as socket:
        assert await socket.closed() == 4501
    async with ann.socket(f"/ws/broadcasts?user_id={ben.id}") as socket:
        assert await socket.closed() == 4503
    async with ann.socket(f"/ws/broadcasts?user_id={ann.id}") as socket:
        await socket.next("connected")
    with pytest.raises((InvalidStatus, ConnectionClosed)):
        async with ann.socket("/ws/broadcasts", origin="https://evil.example") as socket:
            await socket.next()


async def test_old_state_and_messages_make_the_fresh_state_when_staff_sends(shared_site: Site, cleo: Person) -> None:
    admin = await shared_site.person(roles={"admin"}, replica=1)
    await cleo.post(SEND, {"message": "there before", "roles": ["admin"]})
    async with admin.socket("/ws/broadcasts") as socket:
        await socket.next("connected")
        before = await admin.get(f"{SEND}/active")
        await cleo.post(SEND, {"message": "for all"})
        one = await cleo.post(SEND, {"message": "for one", "target_user_ids": [admin.id]})
        await cleo.post(SEND, {"message": "instead", "target_user_ids": [admin.id], "type": "urgent"})
        two = await cleo.post(SEND, {"message": "for admins", "roles": ["admin"]})
        three = await cleo.post(SEND, {"message": "for staff", "roles": ["admin", "team"]})
        await cleo.post(SEND, {"message": "not for admins", "roles": ["team"]})
        await admin.at(0).post(f"{SEND}/acknowledge", {"broadcast_id": two["broadcast"]["id"]})
        await cleo.post(f"{SEND}/clear", {"broadcast_id": three["broadcast"]["id"]})
        last = await cleo.post(SEND, {"message": "the last"})
        while (await socket.next("new_broadcast"))["broadcast"]["id"] != last["broadcast"]["id"]:
            pass
        state = {row["id"]: row for row in _active(before)}
        for message in socket.received:
            if message["type"] == "new_broadcast":
                state[message["broadcast"]["id"]] = message["broadcast"]
            elif message["type"] == "broadcast_cleared":
                state.pop(message["broadcast_id"], None)
        assert one["broadcast"]["id"] not in state
        assert list(state.values())[::-1] == _active(await admin.get(f"{SEND}/active"))


def _active(answer: Json) -> list[Json]:
    return [*([answer["broadcast"]] if answer["broadcast"] else []), *answer["others"]]

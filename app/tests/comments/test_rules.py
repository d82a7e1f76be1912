"""Who may do what with comments, and what is refused."""

from __future__ import annotations

import pytest
import pytest_asyncio
from sqlalchemy import insert, update

from encore.catalogue.models import Track
from encore.comments.models import Comment
from encore.db import now
from harness.site import Json, Person, Site
from harness.tracks import add_track

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ann(shared_site: Site) -> Person:
    return await shared_site.person()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def track(shared_site: Site, ann: Person) -> int:
    return await add_track(shared_site.database, ann.id)


async def write(person: Person, track: int) -> Json:
    comment: Json = await person.post(
        f"/api/tracks/{track}/comments", data={"content": "hello", "timestamp": 1}, status=201
    )
    return comment


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"content": "x"}, 422),
        ({"content": " ", "timestamp": 1}, 422),
        ({"content": "a\x00b", "timestamp": 1}, 422),
        ({"content": "x" * 2001, "timestamp": 1}, 422),
        ({"content": "x", "timestamp": -1}, 422),
        ({"content": "x", "timestamp": "nan"}, 422),
        ({"content": "x", "timestamp": 202}, 400),
        ({"content": "x", "timestamp": 1, "parent_id": 999_999}, 404),
    ],
)
async def test_a_bad_comment_is_refused_and_told_to_nobody_when_it_is_sent(
    shared_site: Site, ann: Person, track: int, form: dict[str, object], status: int
) -> None:
    async with ann.at(1).socket(f"/ws/comments/{track}") as socket:
        await socket.next("connected")
        await ann.post(f"/api/tracks/{track}/comments", data=form, status=status)
        assert await socket.heard() == []


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[" * 30_000, b'{"content": ' * 5_000, b'{"content": NaN}', b'{"content": "\\ud800"}']
)
async def test_an_edit_is_refused_when_its_body_makes_no_sense(ann: Person, track: int, body: bytes) -> None:
    comment = await write(ann, track)
    headers = {"Content-Type": "application/json"}
    answer = await ann.put(f"/api/comments/{comment['id']}", content=body, headers=headers, status=422)
    assert set(answer) == {"code", "detail"}


async def test_a_reply_stays_on_its_track_when_the_parent_is_on_another(
    shared_site: Site, ann: Person, track: int
) -> None:
    other = await add_track(shared_site.database, ann.id)
    comment = await write(ann, other)
    form = {"content": "x", "timestamp": 1, "parent_id": comment["id"]}
    await ann.post(f"/api/tracks/{track}/comments", data=form, status=404)


async def test_only_the_author_edits_when_others_try(shared_site: Site, ann: Person, track: int) -> None:
    comment = await write(ann, track)
    for roles in ((), ("team",), ("creator",), ("admin",)):
        person = await shared_site.person(roles=roles)
        await person.put(f"/api/comments/{comment['id']}", {"content": "mine"}, status=403)
    await shared_site.guest().put(f"/api/comments/{comment['id']}", {"content": "mine"}, status=401)
    assert (await ann.put(f"/api/comments/{comment['id']}", {"content": "mine"}))["content"] == "mine"
    await ann.put(f"/api/comments/{comment['id']}", {"content": ""}, status=422)
    await ann.put(f"/api/comments/{comment['id']}", {}, status=422)
    await ann.put("/api/comments/999999", {"content": "x"}, status=404)


@pytest.mark.parametrize(("role", "status"), [("", 403), ("team", 200), ("creator", 200), ("admin", 200)])
async def test_staff_and_the_author_delete_when_others_may_not(
    shared_site: Site, ann: Person, track: int, role: str, status: int
) -> None:
    comment = await write(ann, track)
    person = await shared_site.person(roles=[role] if role else [])
    await person.delete(f"/api/comments/{comment['id']}", status=status)
    await ann.delete(f"/api/comments/{comment['id']}", status=404 if status == 200 else 200)


async def test_unknown_tracks_are_refused_with_a_reason_when_asked_for(shared_site: Site, ann: Person) -> None:
    assert (await ann.get("/api/tracks/999999/comments", status=404))["code"] == "not_found"
    await ann.post("/api/tracks/999999/comments", data={"content": "x", "timestamp": 1}, status=404)
    for name in ("999999", "0", "abc", "1;drop", "９"):
        async with ann.socket(f"/api/ws/track/{name}") as socket:
            assert await socket.closed() == 4506
            assert socket.close_reason == "there is no such track"


async def test_guests_read_and_do_not_listen_when_they_come(shared_site: Site, track: int) -> None:
    guest = shared_site.guest()
    await guest.get(f"/api/tracks/{track}/comments")
    await guest.post(f"/api/tracks/{track}/comments", data={"content": "x", "timestamp": 1}, status=401)
    async with guest.socket(f"/ws/comments/{track}") as socket:
        assert await socket.closed() == 4501


async def test_it_is_refused_when_somebody_writes_too_much(shared_site: Site, track: int) -> None:
    person = await shared_site.person()
    comment = {"track_id": track, "user_id": person.id, "content": "x", "at_s": 1.0, "created_at": now()}
    async with shared_site.database.writing() as session:
        await session.execute(insert(Comment), [comment] * 59)
    await write(person, track)
    answer = await person.http.post(f"/api/tracks/{track}/comments", data={"content": "x", "timestamp": 1})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "10")


async def test_everybody_sees_it_when_comments_are_closed(shared_site: Site) -> None:
    cleo, other = await shared_site.person(roles={"creator"}), await shared_site.person(roles={"creator"})
    listener = await shared_site.person(replica=1)
    track = await add_track(shared_site.database, cleo.id)
    path = f"/api/tracks/{track}/comments-closed"
    async with listener.socket(f"/ws/comments/{track}") as socket:
        await socket.next("connected")
        await listener.put(path, {"closed": True}, status=403)
        await other.put(path, {"closed": True}, status=403)
        for closed in (True, True, False, True):
            assert await cleo.put(path, {"closed": closed}) == {"closed": closed}
        for closed in (True, False, True):
            assert await socket.next() == {"type": "comments_closed", "track_id": track, "closed": closed}
        form = {"content": "x", "timestamp": 1}
        answer = await listener.post(f"/api/tracks/{track}/comments", data=form, status=409)
        assert answer["code"] == "comments_closed"
        await cleo.post(f"/api/tracks/{track}/comments", data=form, status=201)


async def test_the_albums_creator_hears_of_a_comment_when_somebody_else_uploaded_the_track(shared_site: Site) -> None:
    cleo = await shared_site.person(roles={"creator"})
    admin, listener = await shared_site.person(roles={"admin"}), await shared_site.person(replica=1)
    album = await cleo.post("/api/albums", {"title": "Together", "kind": "music"}, status=201)
    track = await add_track(shared_site.database, admin.id)
    async with shared_site.database.writing() as session:
        await session.execute(update(Track).where(Track.id == track).values(album_id=album["id"]))
    elsewhere = await add_track(shared_site.database, cleo.id)
    async with (
        cleo.socket(f"/ws/comments/{elsewhere}") as of_cleo,
        admin.socket(f"/ws/comments/{elsewhere}") as of_admin,
    ):
        for socket in (of_cleo, of_admin):
            await socket.next("connected")
        comment = await write(listener, track)
        for socket in (of_cleo, of_admin):
            assert (await socket.next("mention"))["comment"] == comment

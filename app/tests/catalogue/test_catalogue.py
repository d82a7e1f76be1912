"""Albums, tracks and positions: who may do what, and what it costs. On both databases."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from catalogue.conftest import Visit
from sqlalchemy import event, insert, select, text, update

from encore.accounts.models import User
from encore.catalogue import service
from encore.catalogue.models import Album, Listening, Track, search_text, sort_key
from encore.catalogue.schemas import TrackChange
from encore.db import Database, now

Json = dict[str, Any]


def track_row(creator_id: int, title: str, **values: Any) -> Json:
    known = {"sample_rate": 8000, "audio_file": "0" * 32 + ".wav", "audio_type": "audio/wav", "audio_bytes": 1}
    sound = {"duration_s": 100.0, "audio_sha256": "", "peaks": b"\x80\x7f", "frames_per_peak": 256}
    found = {"sort_key": sort_key(title), "search_text": search_text(title)}
    return known | sound | found | {"creator_id": creator_id, "title": title} | values


async def add_tracks(database: Database, *titles: str, **values: Any) -> list[int]:
    """Tracks of the user who was there first."""
    async with database.writing() as session:
        creator_id = (await session.scalars(select(User.id).order_by(User.id))).first()
        assert creator_id is not None
        rows = [track_row(creator_id, title, **values) for title in titles]
        ids = await session.scalars(insert(Track).returning(Track.id, sort_by_parameter_order=True), rows)
        return list(ids)


async def read_all(client: httpx2.AsyncClient, path: str) -> list[Json]:
    """All pages of a listing, one after the other."""
    items: list[Json] = []
    cursor = ""
    while True:
        answer = await client.get(path + cursor)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items += page["items"]
        if page["next_cursor"] is None:
            return items
        cursor = f"&cursor={page['next_cursor']}"


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """What is asked of the database meanwhile."""
    seen: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        seen.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def test_pages_hold_every_track_once_when_they_are_read_in_any_order(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    titles = ["b", "A", "a", "Zz", "é", "ß" * 30, "c", "x" * 200, "x" * 199 + "y", "日本"]
    ids = await add_tracks(database, *titles)
    async with database.writing() as session:
        await session.execute(update(Track).where(Track.id.in_(ids[::3])).values(play_count=5))
    expected = {
        "newest": ids[::-1],
        "oldest": ids,
        "title": sorted(ids, key=lambda id: (sort_key(titles[ids.index(id)]), id)),
        "plays": [*ids[::3][::-1], *[id for id in ids[::-1] if id not in ids[::3]]],
    }
    for sort, order in expected.items():
        for limit in (1, 3, 100):
            found = await read_all(cleo, f"/api/tracks?sort={sort}&limit={limit}")
            assert [track["id"] for track in found] == order, (sort, limit)


async def test_albums_are_listed_and_filtered_when_guests_ask(visit: Visit) -> None:
    cleo, carl, guest = await visit("cleo", is_creator=True), await visit("Carl.x", is_team=True), await visit()
    made = []
    for client, title, kind in ((cleo, "Sea", "music"), (carl, "Seven tales", "audiobook"), (cleo, "night", "music")):
        answer = await client.post("/api/albums", json={"title": title, "kind": kind, "description": "d"})
        assert answer.status_code == 201, answer.text
        made.append(answer.json())
    assert made[1]["creator"]["username"] == "Carl.x"
    for query, titles in {
        "limit=2": ["night", "Seven tales", "Sea"],
        "sort=title": ["night", "Sea", "Seven tales"],
        "sort=oldest&limit=1": ["Sea", "Seven tales", "night"],
        "q=SE": ["Seven tales", "Sea"],
        "kind=audiobook": ["Seven tales"],
        "creator=CARL.X": ["Seven tales"],
        "creator=nobody": [],
    }.items():
        assert [album["title"] for album in await read_all(guest, f"/api/albums?{query}")] == titles, query
    assert (await guest.get(f"/api/albums/{made[0]['id']}")).json() == made[0] | {"tracks": []}


async def test_a_search_finds_just_what_was_written_when_it_holds_wildcards(visit: Visit, database: Database) -> None:
    guest = await visit()
    await visit("cleo", is_creator=True)
    titles = ["100% rain", "100 x rain", "a_b", "axb", "it's", 'say "x"', "back\\slash", "ÜBER", "a/b"]
    await add_tracks(database, *titles)
    for words, found in {
        "100% R": ["100% rain"],
        "%": ["100% rain"],
        "_": ["a_b"],
        "'": ["it's"],
        "' OR 1=1 --": [],
        '"x"': ['say "x"'],
        "\\": ["back\\slash"],
        "über": ["ÜBER"],
        "/": ["a/b"],
        "": titles[::-1],
    }.items():
        answer = await guest.get("/api/tracks", params={"q": words, "limit": 100})
        assert [track["title"] for track in answer.json()["items"]] == found, words


async def test_a_listing_refuses_with_a_reason_when_the_question_is_nonsense(visit: Visit) -> None:
    guest = await visit()

    def cursor(key: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(key).encode()).decode().rstrip("=")

    wrong: dict[str, Any] = {
        "sort": "id; DROP TABLE tracks",
        "limit": 101,
        "q": "a\0b",
        "creator": "\0",
        "album_id": 2**63,
    }
    for name, value in (wrong | {"q": "x" * 101, "limit": 0, "cursor": "x" * 501}).items():
        for asked in (value, wrong.get(name, value)):
            answer = await guest.get("/api/tracks", params={name: asked})
            assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), (name, asked)
    for sort, key in (
        ("newest", ["x"]), ("newest", [1, 2]), ("newest", 5), ("title", ["\0", 1]), ("title", ["\ud800", 1]),
        ("title", [1, 1]), ("newest", [2**63]), ("newest", [True]), ("plays", [1.5, 1]), ("newest", None),
    ):  # fmt: skip
        answer = await guest.get("/api/tracks", params={"sort": sort, "cursor": cursor(key)})
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_cursor"), (sort, key)
    far = await guest.get("/api/tracks", params={"sort": "plays", "cursor": cursor([-(2**62), 2**62])})
    assert far.json()["items"] == []
    for path in ("albums", "tracks"):
        assert (await guest.get(f"/api/{path}/7")).status_code == 404
        assert (await guest.get(f"/api/{path}/{2**63}")).status_code == 422


@pytest.mark.parametrize(
    "path", ["/api/tracks?limit=100", "/api/albums?limit=100", "/api/me/positions?limit=100", "album"]
)
async def test_a_listing_asks_the_database_as_often_when_it_is_long(
    visit: Visit, database: Database, path: str
) -> None:
    cleo = await visit("cleo", is_creator=True)
    album = (await cleo.post("/api/albums", json={"title": "one"})).json()["id"]
    path = f"/api/albums/{album}" if path == "album" else path
    counts: list[int] = []
    answer: Json = {}
    for count in (1, 29):
        ids = await add_tracks(database, *["x"] * count, album_id=album)
        async with database.writing() as session:
            rows = [{"user_id": 1, "track_id": id, "position_s": 1.0, "position_at": now()} for id in ids]
            await session.execute(insert(Listening), rows)
        if count > 1:
            for _ in range(29):
                await cleo.post("/api/albums", json={"title": "more"})
        with statements(database) as seen:
            answer = (await cleo.get(path)).json()
        counts.append(len(seen))
    assert len(answer["items" if "items" in answer else "tracks"]) == 30
    assert counts[0] == counts[1]


async def test_a_page_costs_the_same_when_there_are_20_000_tracks(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    async with database.writing() as session:
        album = Album(creator_id=1, title="x", sort_key="x", search_text="x")
        session.add(album)
        await session.flush()
        rows = [
            track_row(
                1, f"{number * 7919 % 20_000:05d}", play_count=number % 100, album_id=album.id if number < 9 else None
            )
            for number in range(20_000)
        ]
        await session.execute(insert(Track), rows)
        at = now()
        heard = [
            {"user_id": 1, "track_id": row + 1, "position_s": 1.0, "position_at": at + timedelta(seconds=row % 999)}
            for row in range(20_000)
        ]
        await session.execute(insert(Listening), heard)
        await session.execute(text("ANALYZE"))
    sorts = [f"/api/tracks?sort={sort}" for sort in ("newest", "oldest", "title", "plays")]
    for path in (*sorts, f"/api/tracks?album_id={album.id}", "/api/tracks?creator=cleo", "/api/me/positions?"):
        cursor = (await cleo.get(f"{path}&limit=5")).json()["next_cursor"]
        with statements(database) as seen:
            assert len((await cleo.get(f"{path}&limit=3&cursor={cursor}")).json()["items"]) == 3
        statement, parameters = next(one for one in seen if "JOIN" in one[0] and "tracks" in one[0])
        plan = await explain(database, statement, parameters)
        assert not WHOLE_TABLE.search(plan), (path, plan)


WHOLE_TABLE = re.compile(
    r"SCAN (tracks|listenings)(?! USING INDEX)|Seq Scan on (tracks|listenings)|"  # all rows read
    r"TEMP B-TREE|Sort Key: (tracks|listenings)"  # all rows sorted
)


async def explain(database: Database, statement: str, parameters: Any) -> str:
    how = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    async with database.reading() as session:
        connection = await session.connection()
        rows = (await connection.exec_driver_sql(how + statement, parameters)).all()
    return "\n".join(str(row[-1]) for row in rows)


async def test_only_the_creator_and_admins_change_things_when_others_try(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    album = (await cleo.post("/api/albums", json={"title": "mine"})).json()["id"]
    [track] = await add_tracks(database, "mine")
    everybody = [
        (await visit(), 401, 401),
        (await visit("ann"), 403, 403),
        (await visit("carl", is_creator=True), 201, 403),
        (await visit("tom", is_team=True), 201, 403),
        (await visit("ada", is_admin=True), 201, 200),
    ]
    for client, making, changing in everybody:
        assert (await client.post("/api/albums", json={"title": "x"})).status_code == making
        for path in (f"/api/albums/{album}", f"/api/tracks/{track}"):
            change = {"title": f"by {changing}", "creator_id": 3, "play_count": 10**6, "id": 99}
            assert (await client.patch(path, json=change)).status_code == changing
            assert (await client.delete(path + "7")).status_code == {200: 404}.get(
                changing, min(making, 404) if making != 201 else 404
            )
            if changing != 200:
                assert (await client.delete(path)).status_code == changing
    seen = (await cleo.get(f"/api/tracks/{track}")).json()
    assert (seen["title"], seen["creator"]["username"], seen["play_count"]) == ("by 200", "cleo", 0)
    assert (await cleo.delete(f"/api/tracks/{track}")).status_code == 200
    assert (await everybody[-1][0].delete(f"/api/albums/{album}")).status_code == 200
    assert (await cleo.get(f"/api/tracks/{track}")).status_code == 404


async def test_a_change_leaves_the_rest_when_it_names_one_thing(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    [track] = await add_tracks(database, "Tide", artist="a", description="d")
    before = (await cleo.get(f"/api/tracks/{track}")).json()
    after = (await cleo.patch(f"/api/tracks/{track}", json={"title": "Ebb"})).json()
    assert after == before | {"title": "Ebb", "updated_at": after["updated_at"]}
    assert (await cleo.get("/api/tracks?q=ebb")).json()["items"] == [after]
    emptied = (await cleo.patch(f"/api/tracks/{track}", json={"artist": "", "title": None})).json()
    assert (emptied["artist"], emptied["title"]) == ("", "Ebb")
    for wrong in ({"title": " "}, {"title": "a\nb"}, {"number": -1}, {"description": "x" * 5001}, {"artist": "\0"}):
        assert (await cleo.patch(f"/api/tracks/{track}", json=wrong)).status_code == 422, wrong


async def test_albums_count_their_tracks_when_these_move(visit: Visit, database: Database) -> None:
    cleo, carl = await visit("cleo", is_creator=True), await visit("carl", is_creator=True)
    one, two = [(await cleo.post("/api/albums", json={"title": title})).json()["id"] for title in ("one", "two")]
    theirs = (await carl.post("/api/albums", json={"title": "three"})).json()["id"]
    tracks = await add_tracks(database, "a", "b", "c")

    async def state() -> list[list[str]]:
        albums = [(await cleo.get(f"/api/albums/{album}")).json() for album in (one, two)]
        assert [album["track_count"] for album in albums] == [len(album["tracks"]) for album in albums]
        return [[track["title"] for track in album["tracks"]] for album in albums]

    for track in tracks:
        moved = await cleo.patch(f"/api/tracks/{track}", json={"album_id": one})
        assert (moved.json()["album_id"], moved.json()["album_title"]) == (one, "one")
    assert await state() == [["a", "b", "c"], []]
    await cleo.patch(f"/api/tracks/{tracks[0]}", json={"album_id": two})
    await cleo.patch(f"/api/tracks/{tracks[2]}", json={"album_id": two, "number": 0})
    assert await state() == [["b"], ["c", "a"]]
    await cleo.patch(f"/api/tracks/{tracks[2]}", json={"album_id": None})
    assert await state() == [["b"], ["a"]]
    assert (await cleo.patch(f"/api/tracks/{tracks[1]}", json={"album_id": theirs})).status_code == 403
    assert (await cleo.patch(f"/api/tracks/{tracks[1]}", json={"album_id": 99})).status_code == 404
    assert (await cleo.delete(f"/api/albums/{one}")).status_code == 409
    assert await state() == [["b"], ["a"]]
    assert (await cleo.delete(f"/api/tracks/{tracks[1]}")).status_code == 200
    assert (await cleo.delete(f"/api/albums/{one}")).status_code == 200
    assert (await cleo.get(f"/api/albums/{one}")).status_code == 404


async def test_tracks_keep_their_places_when_two_are_moved_across_at_once(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    one, two = [(await cleo.post("/api/albums", json={"title": title})).json()["id"] for title in ("one", "two")]
    [a], [b] = await add_tracks(database, "a", album_id=one), await add_tracks(database, "b", album_id=two)
    async with database.writing() as session:
        await session.execute(update(Album).values(track_count=1))
        user = (await session.scalars(select(User))).one()

    async def move(track: int, album: int) -> None:
        async with database.writing() as session:
            await service.change_track(session, user, track, TrackChange(album_id=album))

    for _ in range(5):
        await asyncio.gather(move(a, two), move(b, one))
        await asyncio.gather(move(a, one), move(b, two))
    for album in (one, two):
        assert (await cleo.get(f"/api/albums/{album}")).json()["track_count"] == 1


async def test_a_play_counts_once_when_somebody_tells_it_often(visit: Visit, database: Database) -> None:
    ann, ben, guest = await visit("ann"), await visit("ben"), await visit()
    [track] = await add_tracks(database, "x")
    told = await asyncio.gather(*(ann.post(f"/api/tracks/{track}/play") for _ in range(5)))
    assert sorted(answer.json()["counted"] for answer in told) == [False] * 4 + [True]
    assert (await ben.post(f"/api/tracks/{track}/play")).json() == {"counted": True, "play_count": 2}
    async with database.writing() as session:
        await session.execute(update(Listening).values(counted_at=now() - service.PLAY_EVERY))
    assert (await ann.post(f"/api/tracks/{track}/play")).json() == {"counted": True, "play_count": 3}
    assert (await guest.post(f"/api/tracks/{track}/play")).status_code == 401
    assert (await ann.post("/api/tracks/99/play")).status_code == 404
    assert (await guest.get(f"/api/tracks/{track}")).json()["play_count"] == 3


async def test_a_position_is_ones_own_when_it_is_kept(visit: Visit, database: Database) -> None:
    ann, ben, guest = await visit("ann"), await visit("ben"), await visit()
    first, second, third = await add_tracks(database, "one", "two", "three")
    path = f"/api/tracks/{first}/position"
    begun = {"track_id": first, "position_s": 0.0, "updated_at": None}
    assert (await ann.get(path)).json() == begun
    await ann.post(f"/api/tracks/{first}/play")
    assert (await ann.get(path)).json() == begun
    kept = (await ann.put(path, json={"position_s": 12.5})).json()
    assert (kept["position_s"], (await ann.get(path)).json()) == (12.5, kept)
    assert (await ben.get(path)).json() == begun
    for track, position_s in ((second, 1e6), (third, 3), (first, 20)):
        assert (await ann.put(f"/api/tracks/{track}/position", json={"position_s": position_s})).status_code == 200
    await ann.put(f"/api/tracks/{third}/position", json={"position_s": 0})
    listed = await read_all(ann, "/api/me/positions?limit=1")
    assert [(item["track"]["title"], item["position_s"]) for item in listed] == [("one", 20), ("two", 100.0)]
    assert await read_all(ben, "/api/me/positions?limit=1") == []
    for wrong in (-1, 1e7, "x", None):
        assert (await ann.put(path, json={"position_s": wrong})).status_code == 422
    body = '{"position_s": NaN}'
    assert (await ann.put(path, content=body, headers={"Content-Type": "application/json"})).status_code == 422
    for client, address, status in ((guest, path, 401), (ann, "/api/tracks/99/position", 404)):
        assert (await client.get(address)).status_code == status
        assert (await client.put(address, json={"position_s": 1})).status_code == status
    assert (await guest.get("/api/me/positions")).status_code == 401


async def test_positions_go_with_their_track_when_it_is_deleted(visit: Visit, database: Database) -> None:
    cleo = await visit("cleo", is_creator=True)
    [track] = await add_tracks(database, "x")
    await cleo.put(f"/api/tracks/{track}/position", json={"position_s": 3})
    assert (await cleo.delete(f"/api/tracks/{track}")).status_code == 200
    async with database.reading() as session:
        assert (await session.scalars(select(Listening))).all() == []
    [next_one] = await add_tracks(database, "y")
    assert next_one > track


async def test_comments_are_closed_once_when_two_close_them(visit: Visit, database: Database) -> None:
    await visit("cleo", is_creator=True)
    [track] = await add_tracks(database, "x")
    for closed, changed in ((True, True), (True, False), (False, True)):
        async with database.writing() as session:
            assert await service.set_comments_closed(session, track, closed=closed) is changed
    async with database.reading() as session:
        found = await service.track_for_comments(session, track)
        assert found is not None
        assert (found.creator.username, found.album, found.comments_closed) == ("cleo", None, False)
        assert await service.track_for_comments(session, 99) is None

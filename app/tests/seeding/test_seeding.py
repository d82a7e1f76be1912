"""The demonstration: all of it or nothing, once however often it is asked for, and playable."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio
import soundfile
from sqlalchemy import func, select

import encore.seeding.demo
from encore.accounts.models import User
from encore.accounts.passwords import close_passwords, passwords
from encore.catalogue.images import read_picture
from encore.catalogue.models import Album, Listening, Track
from encore.catalogue.storage import storage
from encore.db import Database, Model
from encore.live import channels
from encore.seeding import DEMO_PASSWORD, CannotSeed, DemoPeople, refuse_demo_people, seed_demo
from encore.seeding.albums import ALBUMS
from encore.seeding.covers import paint_cover
from encore.settings import read_settings
from encore.tables import catalogue as _tables  # noqa: F401 - makes the metadata complete

SHORT_S = 2.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("ENCORE_STORAGE", str(tmp_path / "files"))
    read_settings.cache_clear()
    yield tmp_path / "files"
    read_settings.cache_clear()


@pytest_asyncio.fixture(autouse=True)
async def _passwords() -> AsyncIterator[None]:
    yield
    close_passwords()


async def counts(database: Database) -> dict[str, int]:
    """How many rows each table has."""
    async with database.reading() as session:
        tables = Model.metadata.sorted_tables
        return {
            table.name: (await session.execute(select(func.count()).select_from(table))).scalar_one()
            for table in tables
        }


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


async def test_everything_is_there_once_when_three_replicas_seed_at_once(database: Database, folder: Path) -> None:
    published = [manager.stats().published for manager in channels().values()]
    others = [Database(database.engine.url.render_as_string(hide_password=False)) for _ in range(2)]
    try:
        done = await asyncio.gather(*(seed_demo(each, longest_s=SHORT_S) for each in (database, *others)))
    finally:
        for other in others:
            await other.close()
    assert sorted(done) == [False, False, True]
    first, kept = await counts(database), files(folder)
    assert len(kept) == sum(1 + len(album.tracks) for album in ALBUMS)
    assert (first["albums"], first["tracks"], first["users"]) == (3, 9, 5)
    talk = {"comments", "forum_threads", "forum_messages", "forum_likes", "book_requests", "broadcasts"}
    assert {table for table in talk if first[table] < 3} == set()
    assert [manager.stats().published for manager in channels().values()] == published
    assert not await seed_demo(database)
    assert (await counts(database), files(folder)) == (first, kept)


async def test_the_people_have_their_roles_and_the_password_when_they_are_seeded(database: Database) -> None:
    await seed_demo(database, longest_s=SHORT_S)
    async with database.reading() as session:
        people = {user.username: user for user in await session.scalars(select(User))}
    roles = {name: sorted(user.roles) for name, user in people.items()}
    assert roles == {"ann": [], "ben": [], "tom": ["team"], "cleo": ["creator"], "ada": ["admin"]}
    assert all(user.is_demo and user.display_name for user in people.values())
    assert (await passwords().check(DEMO_PASSWORD, people["ann"].password_hash)).matches
    assert len({user.password_hash for user in people.values()}) == 5


async def test_the_tracks_can_be_played_and_seen_when_they_are_seeded(database: Database) -> None:
    await seed_demo(database, longest_s=SHORT_S)
    async with database.reading() as session:
        tracks = (await session.scalars(select(Track))).all()
        albums = (await session.scalars(select(Album))).all()
        positions = (await session.scalars(select(Listening).where(Listening.position_s > 0))).all()
    for track in tracks:
        audio, rate = soundfile.read(storage().path(track.audio_file))
        assert len(audio) / rate == pytest.approx(track.duration_s) == pytest.approx(SHORT_S, abs=0.1)
        assert 0.3 < np.abs(audio).max() <= 1
    assert [album.track_count for album in albums] == [3, 3, 3]
    for album in albums:
        assert album.cover_file is not None
        assert read_picture(storage().path(album.cover_file).read_bytes()).width_px == 480
    assert positions


async def test_nothing_is_left_when_seeding_fails(
    database: Database, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    before = await counts(database)
    monkeypatch.setattr(encore.seeding.demo, "seed_conversation", fail)
    with pytest.raises(ZeroDivisionError):
        await seed_demo(database, longest_s=SHORT_S)
    assert (await counts(database), files(folder)) == (before, [])


async def test_seeding_is_refused_when_somebody_has_one_of_the_names(database: Database, folder: Path) -> None:
    async with database.writing() as session:
        session.add(User(username="Ann", username_key="ann", email="a@x", email_key="a@x", password_hash="!"))
    with pytest.raises(CannotSeed, match="called ann already"):
        await seed_demo(database, longest_s=SHORT_S)
    assert files(folder) == []
    await refuse_demo_people(database)


async def test_a_start_is_refused_when_demo_people_are_there(database: Database) -> None:
    await refuse_demo_people(database)
    await seed_demo(database, longest_s=SHORT_S)
    with pytest.raises(DemoPeople, match="ada, ann, ben, cleo, tom"):
        await refuse_demo_people(database)


def test_no_two_pieces_are_alike_when_they_are_made() -> None:
    plans = [track.shortened(3.0) for album in ALBUMS for track in album.tracks]
    assert all(30 <= track.sound.seconds <= 120 for album in ALBUMS for track in album.tracks)
    waves = [plan.sound.sound() for plan in plans]
    for number, wave in enumerate(waves):
        assert np.array_equal(wave, plans[number].sound.sound())
        assert all(not np.array_equal(wave, other) for other in waves[:number])


def test_a_cover_is_a_png_that_decoders_take_when_it_is_painted() -> None:
    cover = paint_cover(seed=1, sky=(0, 0, 80), ground=(0, 40, 0), light=(250, 220, 180))
    assert cover == paint_cover(seed=1, sky=(0, 0, 80), ground=(0, 40, 0), light=(250, 220, 180))
    picture = read_picture(cover)
    assert (picture.suffix, picture.width_px, picture.height_px) == ("png", 480, 480)
    assert io.BytesIO(cover).read()[-8:] == b"IEND\xaeB`\x82"

"""Puts the demonstration together: files first, then everything else in one unit of work."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.catalogue import service
from encore.catalogue.decoder import measure
from encore.catalogue.inspection import CONTAINERS, Inspection
from encore.catalogue.models import Track
from encore.catalogue.schemas import NewAlbum, TrackForm
from encore.catalogue.storage import storage
from encore.db import Database, now
from encore.seeding.albums import ALBUMS, PlannedAlbum, PlannedTrack
from encore.seeding.conversation import seed_conversation
from encore.seeding.covers import paint_cover
from encore.seeding.people import demo_people, hash_passwords, seed_people
from encore.seeding.synthesis import write_sound

__all__ = ["seed"]

TURN = 4118
"""The number of the lock by which replicas take turns on PostgreSQL."""


@dataclass(frozen=True, slots=True)
class _Recording:
    """A track whose audio is in the storage."""

    plan: PlannedTrack
    inspection: Inspection
    audio_file: str
    audio_bytes: int
    audio_sha256: str


@dataclass(frozen=True, slots=True)
class _Files:
    """An album whose files are in the storage."""

    plan: PlannedAlbum
    cover_file: str
    recordings: list[_Recording]

    def names(self) -> list[str]:
        return [self.cover_file, *(recording.audio_file for recording in self.recordings)]


async def seed(database: Database, *, longest_s: float | None = None) -> bool:
    """See `encore.seeding.seed_demo`."""
    async with database.reading() as session:
        if await demo_people(session):
            return False
    hashes = await hash_passwords()
    made: list[_Files] = []
    is_done = False
    try:
        await asyncio.to_thread(_make_files, made, longest_s)
        async with database.writing() as session:
            if not database.is_sqlite:
                await session.execute(text(f"SELECT pg_advisory_xact_lock({TURN})"))
            if await demo_people(session):
                return False
            people = await seed_people(session, hashes)
            tracks = await _seed_albums(session, people["cleo"], made)
            await seed_conversation(session, people, tracks)
            session.info.pop("after_commit", None)  # nobody is there to be told
            is_done = True
        return True
    finally:
        if not is_done:
            names = [name for files in made for name in files.names()]
            await asyncio.to_thread(storage().remove, names)


def _make_files(made: list[_Files], longest_s: float | None) -> None:
    """Make all sound and covers. What is made is in the list at once, so that it can be removed again."""
    for number, plan in enumerate(ALBUMS):
        cover = paint_cover(seed=number, sky=plan.sky, ground=plan.ground, light=plan.light)
        files = _Files(plan, storage().keep_bytes(cover, suffix="png"), [])
        made.append(files)
        for track in plan.tracks:
            files.recordings.append(_record(track if longest_s is None else track.shortened(longest_s)))


def _record(plan: PlannedTrack) -> _Recording:
    path = storage().incoming()
    try:
        write_sound(path, plan.sound.sound(), container=plan.container)
        content = path.read_bytes()
        with path.open("rb") as file:
            sound = measure(file)
        suffix = CONTAINERS[sound.container]
        inspection = Inspection(suffix, sound.duration_s, sound.sample_rate, sound.peaks, sound.frames_per_peak)
        digest = hashlib.sha256(content).hexdigest()
        return _Recording(plan, inspection, storage().keep(path, suffix=suffix), len(content), digest)
    finally:
        path.unlink(missing_ok=True)


async def _seed_albums(session: AsyncSession, creator: User, made: Sequence[_Files]) -> dict[str, Track]:
    """The albums and tracks of some weeks, the last album two days old. The tracks by title."""
    tracks: dict[str, Track] = {}
    for number, files in enumerate(made):
        plan, at = files.plan, now() - timedelta(days=2 + 9 * (len(made) - 1 - number))
        new = NewAlbum(title=plan.title, description=plan.description, kind=plan.kind)
        album = await service.add_album(session, creator, new)
        album.cover_file = files.cover_file
        for recording in files.recordings:
            track = await service.add_track(
                session,
                creator,
                TrackForm(
                    title=recording.plan.title,
                    artist=plan.artist,
                    description=recording.plan.description,
                    album_id=album.id,
                ),
                recording.inspection,
                audio_file=recording.audio_file,
                audio_bytes=recording.audio_bytes,
                audio_sha256=recording.audio_sha256,
            )
            track.created_at = track.updated_at = at
            tracks[track.title] = track
        album.created_at = album.updated_at = at
    await session.flush()
    return tracks

"""Tracks for tests that need one to speak about, and not to listen to."""

from __future__ import annotations

from encore.catalogue.models import Track, search_text, sort_key
from encore.db import Database

__all__ = ["add_track"]


async def add_track(database: Database, creator_id: int, *, title: str = "Nocturne", duration_s: float = 200.0) -> int:
    """A track without audio; its id."""
    async with database.writing() as session:
        track = Track(
            creator_id=creator_id,
            title=title,
            duration_s=duration_s,
            sample_rate=22_050,
            audio_file=f"{0:032x}.flac",
            audio_type="audio/flac",
            audio_bytes=0,
            audio_sha256="",
            peaks=b"",
            frames_per_peak=1,
            sort_key=sort_key(title),
            search_text=search_text(title),
        )
        session.add(track)
    return track.id

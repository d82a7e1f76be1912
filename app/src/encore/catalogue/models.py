"""Tables of albums, tracks, and what each person heard of them."""

from __future__ import annotations

import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from encore.accounts.models import User
from encore.db import BigId, Model, UtcTime, now

__all__ = ["SORT_KEY_LENGTH", "Album", "Listening", "Track", "search_text", "sort_key"]

SORT_KEY_LENGTH = 24
"""Characters of a title that decide its place among others; the id decides the rest. Fits into a cursor."""

SortKey = String(SORT_KEY_LENGTH).with_variant(String(SORT_KEY_LENGTH, collation="C"), "postgresql")
"""Compared by code points, so that both databases have the same order."""

NEVER_AGAIN = {"sqlite_autoincrement": True}
"""Ids of deleted rows are not given out again, on SQLite either: a page that shows the old row must not see the new."""


class Album(Model):
    """Tracks that belong together, by one creator."""

    __tablename__ = "albums"
    __table_args__ = (Index(None, "creator_id", "id"), Index(None, "sort_key", "id"), NEVER_AGAIN)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    creator_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="")
    kind: Mapped[str] = mapped_column(String(16), default="music")
    """"music" or "audiobook"."""
    cover_file: Mapped[str | None] = mapped_column(String(80))
    """Its name in the storage."""
    track_count: Mapped[int] = mapped_column(default=0)
    """Kept by the service in the transaction that adds, moves or deletes a track."""
    sort_key: Mapped[str] = mapped_column(SortKey)
    search_text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    updated_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

    creator: Mapped[User] = relationship(lazy="raise")


class Track(Model):
    """A recording, and where its files are."""

    __tablename__ = "tracks"
    __table_args__ = (
        Index(None, "album_id", "number", "id"),
        Index(None, "creator_id", "id"),
        Index(None, "sort_key", "id"),
        Index(None, "play_count", "id"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    album_id: Mapped[int | None] = mapped_column(ForeignKey("albums.id", ondelete="SET NULL"))
    creator_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    artist: Mapped[str] = mapped_column(String(200), default="")
    """Who plays or reads, when that is not the creator."""
    description: Mapped[str] = mapped_column(Text, default="")
    number: Mapped[int] = mapped_column(default=0)
    """Its place on the album."""
    duration_s: Mapped[float]
    sample_rate: Mapped[int]
    audio_file: Mapped[str] = mapped_column(String(80))
    """Its name in the storage, made up there."""
    audio_type: Mapped[str] = mapped_column(String(40))
    """As in Content-Type: decided by what the file holds."""
    audio_bytes: Mapped[int] = mapped_column(BigInteger)
    audio_sha256: Mapped[str] = mapped_column(String(64))
    peaks: Mapped[bytes] = mapped_column(LargeBinary, deferred=True, deferred_raiseload=True)
    """Lowest and highest sample of each stretch of `frames_per_peak` frames, as pairs of signed bytes."""
    frames_per_peak: Mapped[int]
    cover_file: Mapped[str | None] = mapped_column(String(80))
    """Its own cover; without one the album's is shown."""
    comments_closed: Mapped[bool] = mapped_column(default=False)
    play_count: Mapped[int] = mapped_column(default=0)
    sort_key: Mapped[str] = mapped_column(SortKey)
    search_text: Mapped[str] = mapped_column(Text)
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    updated_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

    creator: Mapped[User] = relationship(lazy="raise")
    album: Mapped[Album | None] = relationship(lazy="raise")


class Listening(Model):
    """What one person heard of one track."""

    __tablename__ = "listenings"
    __table_args__ = (Index(None, "user_id", "position_at", "track_id"), Index(None, "track_id"))

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    track_id: Mapped[int] = mapped_column(ForeignKey("tracks.id", ondelete="CASCADE"), primary_key=True)
    position_s: Mapped[float] = mapped_column(default=0.0)
    position_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    """When the position was last kept; None if the track was only counted."""
    counted_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    """When this person's listening was last counted as a play."""


def sort_key(title: str) -> str:
    """What a title is sorted by: the first characters, without regard to case."""
    return title.casefold()[:SORT_KEY_LENGTH]


def search_text(*parts: str) -> str:
    """What a search looks in."""
    return "\n".join(part for part in parts if part).casefold()

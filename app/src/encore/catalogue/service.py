"""What happens to albums and tracks, and to what people hear of them."""

from __future__ import annotations

import asyncio
import datetime
import functools
from typing import Any, cast

from sqlalchemy import CursorResult, Executable, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import User
from encore.catalogue.faults import Unprocessable
from encore.catalogue.inspection import Inspection
from encore.catalogue.listing import ALBUM_TRACKS
from encore.catalogue.models import Album, Listening, Track, search_text, sort_key
from encore.catalogue.schemas import AlbumChange, NewAlbum, TrackChange, TrackForm
from encore.catalogue.storage import storage
from encore.db import after_commit, insert, now
from encore.errors import Conflict, Forbidden, NotFound

__all__ = [
    "add_album",
    "add_track",
    "change_album",
    "change_track",
    "count_play",
    "delete_album",
    "delete_track",
    "keep_position",
    "set_album_cover",
    "set_comments_closed",
    "set_track_cover",
    "track_for_comments",
]

PLAY_EVERY = datetime.timedelta(minutes=10)
"""A person's listening to a track counts once in this time."""


async def track_for_comments(session: AsyncSession, track_id: int, *, stays: bool = False) -> Track | None:
    """The track with its `creator` and `album` (which may be None) loaded; None when there is none.

    With `stays` nobody deletes it before this unit of work ends: for whoever writes a row that names it.
    """
    query = select(Track).where(Track.id == track_id).options(joinedload(Track.creator), joinedload(Track.album))
    if stays:
        query = query.with_for_update(read=True, key_share=True, of=Track)
    return (await session.execute(query)).scalar_one_or_none()


async def set_comments_closed(session: AsyncSession, track_id: int, *, closed: bool) -> bool:
    """Close or open a track for comments. False when it was so already, or is gone."""
    statement = update(Track).where(Track.id == track_id, Track.comments_closed != closed)
    return await _changes(session, statement.values(comments_closed=closed, updated_at=now()))


async def add_album(session: AsyncSession, user: User, new: NewAlbum) -> Album:
    """A new album of this person's."""
    album = Album(creator_id=user.id, title=new.title, description=new.description, kind=new.kind)
    _index(album)
    session.add(album)
    await session.flush()
    return album


async def change_album(session: AsyncSession, user: User, album_id: int, change: AlbumChange) -> None:
    """Apply what the change names. Raises NotFound, and Forbidden for others than the creator and admins."""
    album = await _own_album(session, user, album_id)
    for name, value in change.model_dump(exclude_none=True).items():
        setattr(album, name, value)
    _index(album)
    album.updated_at = now()


async def delete_album(session: AsyncSession, user: User, album_id: int) -> None:
    """Delete an album that has no tracks. Raises NotFound, Forbidden, and Conflict while there are tracks on it."""
    album = await _own_album(session, user, album_id)
    if album.track_count:
        raise Conflict("there are tracks on this album: delete or move them first", code="album_not_empty")
    await session.execute(delete(Album).where(Album.id == album_id))
    _remove_after_commit(session, album.cover_file)


async def set_album_cover(session: AsyncSession, user: User, album_id: int, cover_file: str) -> None:
    """Show this file of the storage. The one before is deleted after the commit. Raises NotFound, Forbidden."""
    album = await _own_album(session, user, album_id)
    _remove_after_commit(session, album.cover_file)
    album.cover_file = cover_file
    album.updated_at = now()


async def add_track(
    session: AsyncSession,
    user: User,
    form: TrackForm,
    inspection: Inspection,
    *,
    audio_file: str,
    audio_bytes: int,
    audio_sha256: str,
    cover_file: str | None = None,
) -> Track:
    """A new track, whose files are in the storage. Raises NotFound, Forbidden and Conflict because of its album."""
    title = form.title or inspection.title
    if not title:
        raise Unprocessable(
            "give the track a title: neither the form nor the file's tags have one", code="title_missing"
        )
    track = Track(
        creator_id=user.id,
        title=title,
        artist=inspection.artist if form.artist is None else form.artist,
        description=form.description,
        duration_s=inspection.duration_s,
        sample_rate=inspection.sample_rate,
        audio_file=audio_file,
        audio_type=inspection.media_type,
        audio_bytes=audio_bytes,
        audio_sha256=audio_sha256,
        peaks=inspection.peaks,
        frames_per_peak=inspection.frames_per_peak,
        cover_file=cover_file,
    )
    _index(track)
    await _put_on_album(session, user, track, form.album_id, number=form.number)
    session.add(track)
    await session.flush()
    return track


async def change_track(session: AsyncSession, user: User, track_id: int, change: TrackChange) -> None:
    """Apply what the change names. Raises NotFound, Forbidden, and Conflict when the other album is full."""
    track = await _own_track(session, user, track_id)
    named = change.model_dump(exclude_none=True, exclude={"album_id"})
    for name, value in named.items():
        setattr(track, name, value)
    if "album_id" in change.model_fields_set and change.album_id != track.album_id:
        await _lock_albums(session, track.album_id, change.album_id)
        await _take_off_album(session, track)
        await _put_on_album(session, user, track, change.album_id, number=change.number)
    _index(track)
    track.updated_at = now()


async def delete_track(session: AsyncSession, user: User, track_id: int) -> None:
    """Delete a track with all that hangs on it; its files after the commit. Raises NotFound, Forbidden."""
    track = await _own_track(session, user, track_id)
    await _lock_albums(session, track.album_id)
    await _take_off_album(session, track)
    await session.execute(delete(Track).where(Track.id == track_id))
    _remove_after_commit(session, track.audio_file, track.cover_file)


async def set_track_cover(session: AsyncSession, user: User, track_id: int, cover_file: str) -> None:
    """Show this file of the storage. The one before is deleted after the commit. Raises NotFound, Forbidden."""
    track = await _own_track(session, user, track_id)
    _remove_after_commit(session, track.cover_file)
    track.cover_file = cover_file
    track.updated_at = now()


async def count_play(session: AsyncSession, user: User, track_id: int) -> tuple[bool, int]:
    """Count that somebody plays a track: at most once in 10 minutes. Whether it counted, and the plays.

    Raises NotFound.
    """
    moment = now()
    await _begin_listening(session, user, track_id)
    is_due = or_(Listening.counted_at.is_(None), Listening.counted_at <= moment - PLAY_EVERY)
    mine = (Listening.user_id == user.id, Listening.track_id == track_id)
    counted = await _changes(session, update(Listening).where(*mine, is_due).values(counted_at=moment))
    if counted:
        await _changes(session, update(Track).where(Track.id == track_id).values(play_count=Track.play_count + 1))
    plays = await session.execute(select(Track.play_count).where(Track.id == track_id))
    return counted, plays.scalar_one()


async def keep_position(session: AsyncSession, user: User, track_id: int, position_s: float) -> Listening:
    """Remember where somebody is in a track; the latest call holds. Raises NotFound."""
    duration_s = await _begin_listening(session, user, track_id)
    position = {"position_s": min(position_s, duration_s), "position_at": now()}
    mine = (Listening.user_id == user.id, Listening.track_id == track_id)
    await _changes(session, update(Listening).where(*mine).values(**position))
    return Listening(user_id=user.id, track_id=track_id, **position)


async def _begin_listening(session: AsyncSession, user: User, track_id: int) -> float:
    """Have a row for this person and track; whoever is second finds it there. How long the track is."""
    # The track's row comes first, as when a track is deleted: in another order the two could block one another.
    query = select(Track.duration_s).where(Track.id == track_id).with_for_update(read=True, key_share=True)
    duration_s = (await session.execute(query)).scalar_one_or_none()
    if duration_s is None:
        raise NotFound(f"there is no track {track_id}")
    row = {"user_id": user.id, "track_id": track_id, "position_s": 0.0}
    await session.execute(insert(session, Listening).values(row).on_conflict_do_nothing())
    return duration_s


async def _own_album(session: AsyncSession, user: User, album_id: int) -> Album:
    query = select(Album).where(Album.id == album_id).with_for_update()
    album = (await session.execute(query)).scalar_one_or_none()
    if album is None:
        raise NotFound(f"there is no album {album_id}")
    if album.creator_id != user.id and not user.is_admin:
        raise Forbidden("this album is somebody else's")
    return album


async def _own_track(session: AsyncSession, user: User, track_id: int) -> Track:
    query = select(Track).where(Track.id == track_id).with_for_update()
    track = (await session.execute(query)).scalar_one_or_none()
    if track is None:
        raise NotFound(f"there is no track {track_id}")
    if track.creator_id != user.id and not user.is_admin:
        raise Forbidden("this track is somebody else's")
    return track


async def _put_on_album(
    session: AsyncSession, user: User, track: Track, album_id: int | None, *, number: int | None
) -> None:
    """Give the track its place, behind the others unless a number is given."""
    if album_id is None:
        track.album_id, track.number = None, number or 0
        return
    album = await _own_album(session, user, album_id)
    if album.track_count >= ALBUM_TRACKS:
        raise Conflict(f"an album holds at most {ALBUM_TRACKS} tracks", code="album_full")
    if number is None:
        last = await session.execute(select(func.max(Track.number)).where(Track.album_id == album_id))
        number = min((last.scalar_one() or 0) + 1, 9999)
    track.album_id, track.number = album_id, number
    album.track_count += 1
    album.updated_at = now()


async def _lock_albums(session: AsyncSession, *album_ids: int | None) -> None:
    """Keep others from changing these; always in one order, so that two who move tracks never block one another."""
    wanted = [album_id for album_id in album_ids if album_id is not None]
    await session.execute(select(Album).where(Album.id.in_(wanted)).order_by(Album.id).with_for_update())


async def _take_off_album(session: AsyncSession, track: Track) -> None:
    if track.album_id is not None:
        statement = update(Album).where(Album.id == track.album_id).values(track_count=Album.track_count - 1)
        await session.execute(statement, execution_options={"synchronize_session": "fetch"})


def _index(row: Album | Track) -> None:
    """What the row is found and sorted by."""
    row.sort_key = sort_key(row.title)
    row.search_text = search_text(row.title, row.artist) if isinstance(row, Track) else search_text(row.title)


def _remove_after_commit(session: AsyncSession, *names: str | None) -> None:
    act = functools.partial(storage().remove, names)
    after_commit(session, functools.partial(asyncio.to_thread, act))


async def _changes(session: AsyncSession, statement: Executable) -> bool:
    """Run an UPDATE or DELETE: whether there was anything to it."""
    result = await session.execute(statement, execution_options={"synchronize_session": False})
    return cast("CursorResult[Any]", result).rowcount > 0

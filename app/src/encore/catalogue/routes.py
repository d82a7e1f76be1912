"""The routes of the catalogue: albums, tracks, and what people hear. Their files are in `media_routes`."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, status

from encore.accounts.access import CurrentUser, Staff
from encore.answers import Gone
from encore.catalogue import listing, media_routes, service
from encore.catalogue.schemas import (
    AlbumAnswer,
    AlbumChange,
    AlbumSort,
    AlbumWithTracks,
    Kind,
    NewAlbum,
    NewPosition,
    PlayAnswer,
    PositionAnswer,
    PositionOfTrack,
    TrackAnswer,
    TrackChange,
    TrackSort,
)
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer
from encore.pagination import Cursor, Limit, Page
from encore.text.fields import line

__all__ = ["router"]

router = APIRouter(prefix="/api", tags=["catalogue"])

Id = Annotated[int, Path(ge=1, le=2**63 - 1)]
Words = Annotated[str, line(max_length=100, may_be_empty=True)]
Username = Annotated[str, line(max_length=32)]
Search = Annotated[Words | None, Query(description="Part of the title, or of a track's artist")]
By = Annotated[Username | None, Query(description="The creator's user name")]
AlbumOnly = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Only those of this album")]
Answers = dict[int | str, dict[str, Any]]
BAD_CURSOR: Answers = {400: {"model": ErrorAnswer}}
UNKNOWN: Answers = {404: {"model": ErrorAnswer}}
UNKNOWN_OR_CONFLICT = UNKNOWN | {409: {"model": ErrorAnswer}}


@router.get("/albums", responses=BAD_CURSOR)
async def albums(
    session: ReadSession,
    limit: Limit = 24,
    cursor: Cursor = None,
    sort: AlbumSort = "newest",
    q: Search = None,
    creator: By = None,
    kind: Kind | None = None,
) -> Page[AlbumAnswer]:
    """Albums, a page at a time."""
    rows, next_cursor = await listing.list_albums(
        session, limit=limit, cursor=cursor, sort=sort, search=q, creator=creator, kind=kind
    )
    return Page(items=[AlbumAnswer.of(album) for album in rows], next_cursor=next_cursor)


@router.post("/albums", status_code=status.HTTP_201_CREATED)
async def add_album(new: NewAlbum, user: Staff, session: WriteSession) -> AlbumAnswer:
    """Make an album, for tracks to be uploaded to."""
    album = await service.add_album(session, user, new)
    found = await listing.find_album(session, album.id)
    return AlbumAnswer.of(found)


@router.get("/albums/{album_id}", responses=UNKNOWN)
async def album(album_id: Id, session: ReadSession) -> AlbumWithTracks:
    """An album, and all of its tracks in their order."""
    found = await listing.find_album(session, album_id)
    return AlbumWithTracks.of_both(found, await listing.album_tracks(session, album_id))


@router.patch("/albums/{album_id}", responses=UNKNOWN)
async def change_album(album_id: Id, change: AlbumChange, user: Staff, session: WriteSession) -> AlbumAnswer:
    """Change what is named. For the album's creator and admins."""
    await service.change_album(session, user, album_id, change)
    found = await listing.find_album(session, album_id)
    return AlbumAnswer.of(found)


@router.delete("/albums/{album_id}", responses=UNKNOWN_OR_CONFLICT)
async def delete_album(album_id: Id, user: Staff, session: WriteSession) -> Gone:
    """Delete an album that has no tracks any more. For its creator and admins."""
    await service.delete_album(session, user, album_id)
    return Gone()


@router.get("/tracks", responses=BAD_CURSOR)
async def tracks(
    session: ReadSession,
    limit: Limit = 24,
    cursor: Cursor = None,
    sort: TrackSort = "newest",
    q: Search = None,
    creator: By = None,
    album_id: AlbumOnly = None,
) -> Page[TrackAnswer]:
    """Tracks, a page at a time."""
    rows, next_cursor = await listing.list_tracks(
        session, limit=limit, cursor=cursor, sort=sort, search=q, creator=creator, album_id=album_id
    )
    return Page(items=[TrackAnswer.of(track) for track in rows], next_cursor=next_cursor)


@router.get("/tracks/{track_id}", responses=UNKNOWN)
async def track(track_id: Id, session: ReadSession) -> TrackAnswer:
    """A track."""
    return TrackAnswer.of(await listing.find_track(session, track_id))


@router.patch("/tracks/{track_id}", responses=UNKNOWN_OR_CONFLICT)
async def change_track(track_id: Id, change: TrackChange, user: Staff, session: WriteSession) -> TrackAnswer:
    """Change what is named. For the track's creator and admins."""
    await service.change_track(session, user, track_id, change)
    await session.flush()
    return TrackAnswer.of(await listing.find_track(session, track_id, refresh=True))


@router.delete("/tracks/{track_id}", responses=UNKNOWN)
async def delete_track(track_id: Id, user: Staff, session: WriteSession) -> Gone:
    """Delete a track, its files, and what was said about it. For its creator and admins."""
    await service.delete_track(session, user, track_id)
    return Gone()


@router.post("/tracks/{track_id}/play", responses=UNKNOWN)
async def play(track_id: Id, user: CurrentUser, session: WriteSession) -> PlayAnswer:
    """Tell that one listens to a track: counted once in ten minutes, however often it is told."""
    counted, plays = await service.count_play(session, user, track_id)
    return PlayAnswer(counted=counted, play_count=plays)


@router.get("/tracks/{track_id}/position", responses=UNKNOWN)
async def position(track_id: Id, user: CurrentUser, session: ReadSession) -> PositionAnswer:
    """Where one stopped listening, on whatever device."""
    return PositionAnswer.of(await listing.find_position(session, user_id=user.id, track_id=track_id))


@router.put("/tracks/{track_id}/position", responses=UNKNOWN)
async def keep_position(track_id: Id, new: NewPosition, user: CurrentUser, session: WriteSession) -> PositionAnswer:
    """Remember where one is, for the next device."""
    return PositionAnswer.of(await service.keep_position(session, user, track_id, new.position_s))


@router.get("/me/positions", responses=BAD_CURSOR)
async def positions(
    user: CurrentUser, session: ReadSession, limit: Limit = 24, cursor: Cursor = None
) -> Page[PositionOfTrack]:
    """The tracks that one stopped in the midst of, the latest first."""
    rows, next_cursor = await listing.list_positions(session, user_id=user.id, limit=limit, cursor=cursor)
    items = [
        PositionOfTrack(**PositionAnswer.of(listening).model_dump(), track=TrackAnswer.of(track))
        for listening, track in rows
    ]
    return Page(items=items, next_cursor=next_cursor)


router.include_router(media_routes.router)

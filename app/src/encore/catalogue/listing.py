"""Reading the catalogue: pages of albums and tracks, and one of each. Every page is one query, and uses an index."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import BigInteger, ColumnElement, Select, String, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute, joinedload, undefer

from encore.accounts.models import User
from encore.catalogue.models import Album, Listening, Track
from encore.catalogue.schemas import AlbumSort, Kind, TrackSort
from encore.errors import BadRequest, NotFound
from encore.pagination import cut, read_cursor

__all__ = [
    "ALBUM_TRACKS",
    "album_tracks",
    "find_album",
    "find_position",
    "find_track",
    "list_albums",
    "list_positions",
    "list_tracks",
]

ALBUM_TRACKS = 500
"""Tracks that an album can have."""

Row = TypeVar("Row", Album, Track)
Query = TypeVar("Query", bound="Select[*tuple[Any, ...]]")


@dataclass(frozen=True, slots=True)
class _Order:
    """By what a page is sorted. The last column is unique, so that every row has one place."""

    columns: tuple[InstrumentedAttribute[Any], ...]
    types: tuple[type, ...]
    descending: bool = False

    def of(self, row: object) -> list[int | str]:
        return [getattr(row, column.key) for column in self.columns]

    def behind(self, cursor: str | None) -> ColumnElement[bool] | None:
        key = read_cursor(cursor, *self.types)
        if key is None:
            return None
        if any(isinstance(part, str) and not _is_storable(part) for part in key):
            raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor")
        here = tuple_(*self.columns)
        # Typed by hand: a cursor may hold larger numbers than the column, and the answer is then an empty page.
        there = tuple_(*(literal(part, String() if isinstance(part, str) else BigInteger()) for part in key))
        return here < there if self.descending else here > there

    def sorted(self) -> list[ColumnElement[Any]]:
        return [column.desc() if self.descending else column.asc() for column in self.columns]


ALBUM_ORDERS: dict[AlbumSort, _Order] = {
    "newest": _Order((Album.id,), (int,), descending=True),
    "oldest": _Order((Album.id,), (int,)),
    "title": _Order((Album.sort_key, Album.id), (str, int)),
}
TRACK_ORDERS: dict[TrackSort, _Order] = {
    "newest": _Order((Track.id,), (int,), descending=True),
    "oldest": _Order((Track.id,), (int,)),
    "title": _Order((Track.sort_key, Track.id), (str, int)),
    "plays": _Order((Track.play_count, Track.id), (int, int), descending=True),
}

Listed = tuple[Sequence[Row], str | None]


async def list_albums(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None = None,
    sort: AlbumSort = "newest",
    search: str | None = None,
    creator: str | None = None,
    kind: Kind | None = None,
) -> Listed[Album]:
    """A page of albums, with their creators, and the cursor behind it. Raises BadRequest for one of another sort."""
    query = select(Album).options(joinedload(Album.creator))
    if search:
        query = query.where(Album.search_text.contains(search.casefold(), autoescape=True))
    if creator is not None:
        query = query.where(Album.creator_id == _user_id(creator))
    if kind is not None:
        query = query.where(Album.kind == kind)
    return await _page(session, query, ALBUM_ORDERS[sort], limit=limit, cursor=cursor)


async def list_tracks(
    session: AsyncSession,
    *,
    limit: int,
    cursor: str | None = None,
    sort: TrackSort = "newest",
    search: str | None = None,
    creator: str | None = None,
    album_id: int | None = None,
) -> Listed[Track]:
    """A page of tracks, with their creators and albums, and the cursor behind it."""
    query = _with_both(select(Track))
    if search:
        query = query.where(Track.search_text.contains(search.casefold(), autoescape=True))
    if creator is not None:
        query = query.where(Track.creator_id == _user_id(creator))
    if album_id is not None:
        query = query.where(Track.album_id == album_id)
    return await _page(session, query, TRACK_ORDERS[sort], limit=limit, cursor=cursor)


async def find_album(session: AsyncSession, album_id: int) -> Album:
    """An album, with its creator. Raises NotFound."""
    query = select(Album).where(Album.id == album_id).options(joinedload(Album.creator))
    album = (await session.execute(query)).scalar_one_or_none()
    if album is None:
        raise NotFound(f"there is no album {album_id}")
    return album


async def album_tracks(session: AsyncSession, album_id: int) -> list[Track]:
    """The tracks of an album in their order, each with its creator and album."""
    query = _with_both(select(Track)).where(Track.album_id == album_id).order_by(Track.number, Track.id)
    return list((await session.execute(query.limit(ALBUM_TRACKS))).scalars())


async def find_track(session: AsyncSession, track_id: int, *, with_peaks: bool = False, refresh: bool = False) -> Track:
    """A track, with its creator and album; anew if this session has it already and `refresh`. Raises NotFound."""
    query = _with_both(select(Track)).where(Track.id == track_id).execution_options(populate_existing=refresh)
    if with_peaks:
        query = query.options(undefer(Track.peaks))
    track = (await session.execute(query)).scalar_one_or_none()
    if track is None:
        raise NotFound(f"there is no track {track_id}")
    return track


async def find_position(session: AsyncSession, *, user_id: int, track_id: int) -> Listening:
    """Where this person stopped in the track: 0 if it was never begun. Raises NotFound without the track."""
    query = (
        select(Track.id, Listening)
        .outerjoin(Listening, (Listening.track_id == Track.id) & (Listening.user_id == user_id))
        .where(Track.id == track_id)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no track {track_id}")
    listening: Listening | None = found[1]
    if listening is None:
        listening = Listening(user_id=user_id, track_id=track_id, position_s=0.0, position_at=None)
    return listening


async def list_positions(
    session: AsyncSession, *, user_id: int, limit: int, cursor: str | None = None
) -> tuple[Sequence[tuple[Listening, Track]], str | None]:
    """The tracks that this person stopped in the midst of, the latest first, and the cursor behind the page."""
    query = _with_both(select(Listening, Track).join(Track, Track.id == Listening.track_id)).where(
        Listening.user_id == user_id, Listening.position_at.is_not(None), Listening.position_s > 0
    )
    key = read_cursor(cursor, int, int)
    if key is not None:
        moment, track_id = key
        query = query.where(
            tuple_(Listening.position_at, Listening.track_id)
            < tuple_(literal(_moment(moment), Listening.position_at.type), literal(track_id, BigInteger()))
        )
    query = query.order_by(Listening.position_at.desc(), Listening.track_id.desc()).limit(limit + 1)
    rows = [(listening, track) for listening, track in await session.execute(query)]
    return cut(rows, limit=limit, key=lambda row: [_microseconds(row[0].position_at), row[0].track_id])


async def _page(
    session: AsyncSession, query: Select[Row], order: _Order, *, limit: int, cursor: str | None
) -> Listed[Row]:
    behind = order.behind(cursor)
    if behind is not None:
        query = query.where(behind)
    rows = (await session.execute(query.order_by(*order.sorted()).limit(limit + 1))).scalars().all()
    return cut(rows, limit=limit, key=order.of)


def _with_both(query: Query) -> Query:
    return query.options(joinedload(Track.creator), joinedload(Track.album))


def _user_id(username: str) -> ColumnElement[int]:
    return select(User.id).where(User.username_key == username.casefold()).scalar_subquery()


def _is_storable(text: str) -> bool:
    """Whether PostgreSQL takes this as text."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def _microseconds(moment: datetime.datetime | None) -> int:
    assert moment is not None
    return (moment - EPOCH) // datetime.timedelta(microseconds=1)


def _moment(microseconds: float | str) -> datetime.datetime:
    try:
        return EPOCH + datetime.timedelta(microseconds=int(microseconds))
    except OverflowError:
        raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor") from None

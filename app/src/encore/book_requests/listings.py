"""Requests in lists: one's own, those that are open, and the queue of those who decide."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import BigInteger, and_, func, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.book_requests.models import OPEN, BookRequest, RequestEvent, RequestVote, Status
from encore.book_requests.schemas import Counts, EventData, OpenRequest
from encore.book_requests.service import title_key
from encore.catalogue.models import Album
from encore.pagination import read_cursor

__all__ = ["Listed", "Sort", "albums_like", "counts", "history", "open_like", "own_page", "queue_page"]

Listed = tuple[BookRequest, str]
"""A request and its owner's username."""
Sort = Literal["newest", "oldest", "votes"]
HISTORY_LIMIT = 500
FOUND_LIMIT = 10


async def own_page(
    session: AsyncSession, user: User, *, status: Status | None, limit: int, cursor: str | None
) -> Sequence[Listed]:
    """One more than a page of somebody's own requests, newest first."""
    query = select(BookRequest).where(BookRequest.user_id == user.id)
    if status is not None:
        query = query.where(BookRequest.status == status)
    key = read_cursor(cursor, int)
    if key is not None:
        query = query.where(BookRequest.id < key[0])
    rows = await session.scalars(query.order_by(BookRequest.id.desc()).limit(limit + 1))
    return [(row, user.username) for row in rows]


async def queue_page(
    session: AsyncSession,
    *,
    statuses: Sequence[Status],
    search: str,
    sort: Sort,
    limit: int,
    cursor: str | None,
) -> Sequence[Listed]:
    """One more than a page of everybody's requests. `search` finds words in title, author and the owner's name."""
    query = select(BookRequest, User.username).join(User, User.id == BookRequest.user_id)
    if statuses:
        query = query.where(BookRequest.status.in_(statuses))
    if search:
        query = query.where(
            or_(
                BookRequest.title.icontains(search, autoescape=True),
                BookRequest.author.icontains(search, autoescape=True),
                User.username.icontains(search, autoescape=True),
            )
        )
    if sort == "votes":
        key = read_cursor(cursor, int, int)
        if key is not None:
            place = tuple_(literal(key[0], BigInteger()), literal(key[1], BigInteger()))
            query = query.where(tuple_(BookRequest.votes, BookRequest.id) < place)
        query = query.order_by(BookRequest.votes.desc(), BookRequest.id.desc())
    else:
        key = read_cursor(cursor, int)
        oldest = sort == "oldest"
        if key is not None:
            query = query.where(BookRequest.id > key[0] if oldest else BookRequest.id < key[0])
        query = query.order_by(BookRequest.id if oldest else BookRequest.id.desc())
    return [(row[0], row[1]) for row in await session.execute(query.limit(limit + 1))]


async def counts(session: AsyncSession) -> Counts:
    """How many requests have each status."""
    rows = await session.execute(select(BookRequest.status, func.count()).group_by(BookRequest.status))
    return Counts(**{row[0]: row[1] for row in rows})


async def history(session: AsyncSession, request_id: int) -> list[EventData]:
    """What happened to a request, the latest 500 events, oldest first."""
    query = select(RequestEvent, User.username).outerjoin(User, User.id == RequestEvent.user_id)
    query = query.where(RequestEvent.request_id == request_id).order_by(RequestEvent.id.desc()).limit(HISTORY_LIMIT)
    return [EventData.of(row[0], row[1]) for row in reversed((await session.execute(query)).all())]


async def open_like(session: AsyncSession, user: User, search: str) -> list[OpenRequest]:
    """Open requests whose title is like this, the most wanted first: asked for already, so vote."""
    mine = RequestVote.user_id == user.id
    query = select(BookRequest, RequestVote.user_id).outerjoin(
        RequestVote, and_(RequestVote.request_id == BookRequest.id, mine)
    )
    may_see = or_(BookRequest.is_private.is_(False), BookRequest.user_id == user.id)
    query = query.where(BookRequest.status.in_(OPEN), may_see)
    key = title_key(search)
    if search:
        query = query.where(BookRequest.title_key.contains(key, autoescape=True))
    rows = await session.execute(query.order_by(BookRequest.votes.desc(), BookRequest.id.desc()).limit(FOUND_LIMIT))
    return [
        OpenRequest(
            id=row.id,
            title=row.title,
            author=row.author,
            kind=row.kind,
            status=Status(row.status),
            votes=row.votes,
            is_mine=row.user_id == user.id,
            have_voted=voter is not None,
        )
        for row, voter in rows
    ]


async def albums_like(session: AsyncSession, search: str) -> list[tuple[int, str]]:
    """Albums of the library whose title or description has this text."""
    if not search:
        return []
    query = select(Album.id, Album.title).where(Album.search_text.contains(search.casefold(), autoescape=True))
    return [(row[0], row[1]) for row in await session.execute(query.order_by(Album.id.desc()).limit(FOUND_LIMIT))]

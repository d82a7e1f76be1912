"""What listeners do with requests: ask, vote, reply, withdraw."""

from __future__ import annotations

import datetime
import re
import unicodedata
from typing import Final

from sqlalchemy import delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.book_requests.channel import DECIDERS, admins, requesters
from encore.book_requests.messages import (
    CreatedData,
    NewData,
    NewRequestMessage,
    RequestCreated,
    RequestUpdated,
    StatusData,
    StatusUpdated,
    UpdatedData,
)
from encore.book_requests.models import OPEN, BookRequest, RequestEvent, RequestVote, Status
from encore.book_requests.schemas import NewRequest
from encore.db import insert, now
from encore.errors import Conflict, NotFound, TooManyRequests
from encore.live import announce

__all__ = ["add_event", "ask", "decides", "quota_used", "reply", "title_key", "unvote", "visible", "vote", "withdraw"]

WITHDRAWN: Final = "withdrawn"
"""What messages say of a request that its owner took back: it is gone, and has no status any more."""
PER_WEEK: Final = 20
"""Requests of one listener within seven days; creators and admins have no limit."""
WEEK: Final = datetime.timedelta(days=7)

_ARTICLE = re.compile(r"^(the|a|an|der|die|das|le|la|les|el|los|las) (?=.)")


def decides(user: User) -> bool:
    """Whether somebody decides on requests."""
    return bool(user.roles & DECIDERS)


def title_key(title: str) -> str:
    """What two spellings of one title have in common: letters and digits, without case, accents and the article."""
    plain = unicodedata.normalize("NFKD", title.casefold())
    words = "".join(c if c.isalnum() else " " for c in plain if not unicodedata.combining(c)).split()
    return _ARTICLE.sub("", " ".join(words))[:200]


async def ask(session: AsyncSession, user: User, new: NewRequest) -> BookRequest:
    """Ask for a book. Raises Conflict when one has asked for it and it is open; TooManyRequests above the quota."""
    key = title_key(new.title)
    # One's own row is locked, so that two tabs at once neither ask twice nor pass the quota together.
    await session.execute(select(User.id).where(User.id == user.id).with_for_update())
    own = select(BookRequest.id).where(BookRequest.user_id == user.id, BookRequest.title_key == key)
    existing = (await session.scalars(own.where(BookRequest.status.in_(OPEN)).limit(1))).first() if key else None
    if existing is not None:
        raise Conflict(f"you have asked for this already: request {existing}", code="duplicate")
    if not decides(user) and await quota_used(session, user.id) >= PER_WEEK:
        raise TooManyRequests(
            f"{PER_WEEK} requests within a week are enough for one person", code="quota", retry_after_s=3600
        )
    request = BookRequest(
        user_id=user.id,
        title=new.title,
        title_key=key,
        author=new.author,
        kind=new.kind,
        note=new.note,
        link=str(new.link) if new.link is not None else "",
        is_private=new.is_private,
        reason="",
    )
    session.add(request)
    await session.flush()
    add_event(session, request.id, user, kind="created", to_status=Status.PENDING)
    created = RequestCreated(data=CreatedData(id=request.id, title=request.title))
    announce(session, requesters, created, target_user_ids=[str(user.id)])
    data = NewData(id=request.id, title=request.title, user=user.username, created_at=request.created_at)
    announce(session, admins, NewRequestMessage(data=data))
    return request


async def quota_used(session: AsyncSession, user_id: int) -> int:
    """How many requests somebody has made within seven days."""
    lately = select(func.count()).where(BookRequest.user_id == user_id, BookRequest.created_at > now() - WEEK)
    return (await session.scalars(lately)).one()


async def visible(session: AsyncSession, user: User, request_id: int) -> tuple[BookRequest, str]:
    """A request with its owner's name, for the owner and those who decide. Raises NotFound for everybody else."""
    query = select(BookRequest, User.username).join(User, User.id == BookRequest.user_id)
    row = (await session.execute(query.where(BookRequest.id == request_id))).one_or_none()
    if row is None or (row[0].user_id != user.id and not decides(user)):
        raise NotFound(f"there is no request {request_id}")
    return row[0], row[1]


async def withdraw(session: AsyncSession, user: User, request_id: int) -> None:
    """Take one's own request back. Raises NotFound for others', Conflict once it is decided on."""
    mine = delete(BookRequest).where(BookRequest.id == request_id, BookRequest.user_id == user.id)
    gone = await session.execute(mine.where(BookRequest.status == Status.PENDING).returning(BookRequest.title))
    title = gone.scalar_one_or_none()
    if title is None:
        request = await session.get(BookRequest, request_id)
        if request is None or request.user_id != user.id:
            raise NotFound(f"there is no request {request_id} of yours")
        raise Conflict(f"it is {request.status} already, and cannot be withdrawn any more")
    data = StatusData(id=request_id, status=WITHDRAWN, message=f"Your request '{title}' is now {WITHDRAWN}")
    announce(session, requesters, StatusUpdated(data=data), target_user_ids=[str(user.id)])
    announce(session, admins, RequestUpdated(data=UpdatedData(id=request_id, status=WITHDRAWN)))


async def vote(session: AsyncSession, user: User, request_id: int) -> int:
    """Say that one would like to have it too; the number of votes. Idempotent. Raises NotFound and Conflict."""
    request = await _open(session, user, request_id)
    new = insert(session, RequestVote).values(request_id=request_id, user_id=user.id, created_at=now())
    done = await session.execute(new.on_conflict_do_nothing().returning(RequestVote.user_id))
    return await _count(session, request, +1 if done.scalar_one_or_none() is not None else 0)


async def unvote(session: AsyncSession, user: User, request_id: int) -> int:
    """Take the vote back; the number of votes. Idempotent. Raises NotFound."""
    request = await _open(session, user, request_id)
    old = delete(RequestVote).where(RequestVote.request_id == request_id, RequestVote.user_id == user.id)
    done = await session.execute(old.returning(RequestVote.user_id))
    return await _count(session, request, -1 if done.scalar_one_or_none() is not None else 0)


async def reply(session: AsyncSession, user: User, request_id: int, text: str) -> RequestEvent:
    """Say something about a request: its owner, or those who decide. Raises NotFound."""
    # Locked: it is not withdrawn before the reply, which names it, is there.
    await session.get(BookRequest, request_id, with_for_update={"read": True, "key_share": True})
    await visible(session, user, request_id)
    event = add_event(session, request_id, user, kind="reply", text=text)
    await session.flush()
    return event


def add_event(
    session: AsyncSession,
    request_id: int,
    user: User,
    *,
    kind: str,
    from_status: str = "",
    to_status: str = "",
    text: str = "",
) -> RequestEvent:
    """Write something down in a request's history."""
    event = RequestEvent(
        request_id=request_id, user_id=user.id, kind=kind, from_status=from_status, to_status=to_status, text=text
    )
    session.add(event)
    return event


async def _open(session: AsyncSession, user: User, request_id: int) -> BookRequest:
    """A request that somebody may vote for; locked, so that it is neither withdrawn nor decided meanwhile."""
    request = await session.get(BookRequest, request_id, with_for_update={"key_share": True})
    if request is None or (request.is_private and request.user_id != user.id and not decides(user)):
        raise NotFound(f"there is no request {request_id}")
    if request.user_id == user.id:
        raise Conflict("it is your own request", code="own_request")
    if request.status not in OPEN:
        raise Conflict(f"it is {request.status} already", code="decided")
    return request


async def _count(session: AsyncSession, request: BookRequest, change: int) -> int:
    if change:
        statement = update(BookRequest).where(BookRequest.id == request.id)
        changed = await session.execute(statement.values(votes=BookRequest.votes + change).returning(BookRequest.votes))
        return changed.scalar_one()
    return request.votes

"""What those who decide do with requests: the next status, and merging what was asked for twice."""

from __future__ import annotations

from sqlalchemy import delete, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.book_requests.channel import admins, requesters
from encore.book_requests.messages import RequestUpdated, StatusData, StatusUpdated, UpdatedData
from encore.book_requests.models import OPEN, TRANSITIONS, BookRequest, RequestVote, Status
from encore.book_requests.schemas import Decision
from encore.book_requests.service import add_event
from encore.catalogue.models import Album
from encore.db import insert, now
from encore.errors import BadRequest, Conflict, NotFound
from encore.live import announce

__all__ = ["decide", "merge"]


async def decide(session: AsyncSession, user: User, request_id: int, decision: Decision) -> None:
    """Give a request its next status, and tell who asked and who voted.

    Of several who decide at once one wins; the others get Conflict, which says what it is by now. Raises NotFound,
    and BadRequest for an album that is not there.
    """
    request = await _existing(session, request_id)
    before, after = Status(request.status), decision.status
    if decision.expected_status is not None and decision.expected_status is not before:
        raise Conflict(f"somebody was quicker: it is {before} by now", code="decided_meanwhile")
    if after not in TRANSITIONS[before]:
        allowed = " or ".join(sorted(TRANSITIONS[before]))
        possible = f"only {allowed} can follow" if allowed else "nothing can follow"
        raise Conflict(f"it is {before}, and cannot become {after}: {possible}", code="bad_transition")
    values: dict[str, object] = {"status": after, "reason": decision.reason, "updated_at": now()}
    if decision.album_id is not None:
        if after is not Status.FULFILLED:
            raise BadRequest("album_id= goes with the status fulfilled")
        album = await session.get(Album, decision.album_id, with_for_update={"read": True, "key_share": True})
        if album is None:
            raise BadRequest(f"there is no album {decision.album_id}", code="unknown_album")
        values["album_id"] = decision.album_id
    await _change(session, request, before, values)
    add_event(session, request_id, user, kind="status", from_status=before, to_status=after, text=decision.reason)
    await _tell(session, request, after, f"is now {after}", reason=decision.reason)


async def merge(session: AsyncSession, user: User, request_id: int, into_id: int) -> None:
    """Close a request as a duplicate: who asked and who voted count for the other.

    Raises NotFound, and Conflict unless both are open. A private request is not made known by it: nothing of somebody
    else's is merged into one (Conflict), and the history of the other does not name it.
    """
    if request_id == into_id:
        raise BadRequest("a request cannot be merged into itself")
    request, target = await _both(session, request_id, into_id)
    before = Status(request.status)
    if before not in OPEN or Status(target.status) not in OPEN:
        raise Conflict("both requests must be open", code="bad_transition")
    is_same_owner = request.user_id == target.user_id
    if target.is_private and not is_same_owner:
        raise Conflict("others would learn of a private request: merge that one into this", code="private_request")
    reason = f"Merged into '{target.title}'"
    values = {"status": Status.REJECTED, "reason": reason, "merged_into_id": into_id, "updated_at": now()}
    await _change(session, request, before, values)
    await _tell(session, request, Status.REJECTED, f"was merged into '{target.title}'", reason=reason)
    at = now()
    voters = select(literal(into_id), RequestVote.user_id, literal(at, RequestVote.created_at.type))
    voters = voters.where(RequestVote.request_id == request_id, RequestVote.user_id != target.user_id)
    columns = ["request_id", "user_id", "created_at"]
    await session.execute(insert(session, RequestVote).from_select(columns, voters).on_conflict_do_nothing())
    if not is_same_owner:
        own = {"request_id": into_id, "user_id": request.user_id, "created_at": at}
        await session.execute(insert(session, RequestVote).values(**own).on_conflict_do_nothing())
    await session.execute(delete(RequestVote).where(RequestVote.request_id == request_id))
    votes = select(func.count()).where(RequestVote.request_id == into_id).scalar_subquery()
    await session.execute(update(BookRequest).where(BookRequest.id == into_id).values(votes=votes))
    await session.execute(update(BookRequest).where(BookRequest.id == request_id).values(votes=0))
    add_event(session, request_id, user, kind="merged", from_status=before, to_status=Status.REJECTED, text=reason)
    merged = "a private request" if request.is_private and not is_same_owner else f"'{request.title}'"
    add_event(session, into_id, user, kind="merged", text=f"{merged} was merged into this one")


async def _existing(session: AsyncSession, request_id: int) -> BookRequest:
    request = await session.get(BookRequest, request_id)
    if request is None:
        raise NotFound(f"there is no request {request_id}")
    return request


async def _both(session: AsyncSession, first_id: int, second_id: int) -> tuple[BookRequest, BookRequest]:
    """Two requests, locked: nobody votes for one, or takes it back, before their votes are counted together."""
    query = select(BookRequest).where(BookRequest.id.in_((first_id, second_id))).order_by(BookRequest.id)
    found = {row.id: row for row in await session.scalars(query.with_for_update())}
    for request_id in (first_id, second_id):
        if request_id not in found:
            raise NotFound(f"there is no request {request_id}")
    return found[first_id], found[second_id]


async def _change(session: AsyncSession, request: BookRequest, before: Status, values: dict[str, object]) -> None:
    """Write it only if it still stands where it stood: the database decides who was first."""
    change = update(BookRequest).where(BookRequest.id == request.id, BookRequest.status == before)
    changed = await session.execute(change.values(**values).returning(BookRequest.id))
    if changed.scalar_one_or_none() is None:
        raise Conflict("somebody was quicker: look at it again", code="decided_meanwhile")


async def _tell(session: AsyncSession, request: BookRequest, status: Status, what: str, *, reason: str) -> None:
    message = f"Your request '{request.title}' is now {status}"
    data = StatusData(id=request.id, status=status, message=message, reason=reason)
    announce(session, requesters, StatusUpdated(data=data), target_user_ids=[str(request.user_id)])
    voters = await session.scalars(select(RequestVote.user_id).where(RequestVote.request_id == request.id))
    others = [str(user_id) for user_id in voters if user_id != request.user_id]
    if others:
        shared = data.model_copy(update={"message": f"'{request.title}', which you voted for, {what}", "reason": ""})
        announce(session, requesters, StatusUpdated(data=shared), target_user_ids=others)
    announce(session, admins, RequestUpdated(data=UpdatedData(id=request.id, status=status)))

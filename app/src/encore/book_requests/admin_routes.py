"""The routes of book requests for those who decide: creators and admins."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query

from encore.accounts.access import CurrentUser
from encore.accounts.models import User
from encore.book_requests import decisions, listings, service
from encore.book_requests.models import Status
from encore.book_requests.schemas import Counts, Decision, Merge, OwnRequest, RequestDetail
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer, Forbidden
from encore.pagination import Cursor, Limit, Page, cut

__all__ = ["router"]

router = APIRouter()

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Answers = dict[int | str, dict[str, Any]]
REFUSED: Answers = {
    400: {"model": ErrorAnswer, "description": "It makes no sense"},
    404: {"model": ErrorAnswer, "description": "There is no such request"},
    409: {"model": ErrorAnswer, "description": "It makes no sense as the request stands, or somebody was quicker"},
}


async def _decider(user: CurrentUser) -> User:
    if not service.decides(user):
        raise Forbidden("this is for creators and admins")
    return user


Decider = Annotated[User, Depends(_decider)]


@router.get("/api/book-requests/admin")
async def list_all_requests(
    session: ReadSession,
    user: Decider,
    status: Annotated[list[Status] | None, Query(description="Only these; several may be given")] = None,
    q: Annotated[str, Query(max_length=200, description="Words in title, author or name")] = "",
    sort: listings.Sort = "newest",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[OwnRequest]:
    """Everybody's requests."""
    rows = await listings.queue_page(
        session, statuses=status or (), search=q.replace("\0", " ").strip(), sort=sort, limit=limit, cursor=cursor
    )
    by_votes = sort == "votes"
    page, behind = cut(rows, limit=limit, key=lambda row: (row[0].votes, row[0].id) if by_votes else (row[0].id,))
    return Page(items=[OwnRequest.of(*row) for row in page], next_cursor=behind)


@router.get("/api/book-requests/admin/counts")
async def count_requests(session: ReadSession, user: Decider) -> Counts:
    """How many requests have each status."""
    return await listings.counts(session)


@router.put("/api/book-requests/{request_id}/status", responses=REFUSED)
async def decide_on_request(
    session: WriteSession, user: Decider, request_id: Number, decision: Decision
) -> RequestDetail:
    """Give a request its next status. Of two who decide at once, one gets a 409."""
    await decisions.decide(session, user, request_id, decision)
    return await _detail(session, user, request_id)


@router.post("/api/book-requests/{request_id}/merge", responses=REFUSED)
async def merge_request(session: WriteSession, user: Decider, request_id: Number, merge: Merge) -> RequestDetail:
    """Close a request as a duplicate of another one, which gets its votes. Everybody whom it concerns is told."""
    await decisions.merge(session, user, request_id, merge.into_id)
    return await _detail(session, user, request_id)


async def _detail(session: WriteSession, user: User, request_id: int) -> RequestDetail:
    await session.flush()
    session.expire_all()
    request, username = await service.visible(session, user, request_id)
    history = await listings.history(session, request_id)
    return RequestDetail(**OwnRequest.of(request, username).model_dump(), history=history)

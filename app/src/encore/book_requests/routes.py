"""The routes of book requests, for those who ask: REST, and both sockets."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, WebSocket

from encore.accounts.access import CurrentUser
from encore.answers import Gone
from encore.book_requests import listings, service
from encore.book_requests.admin_routes import router as admin_router
from encore.book_requests.channel import Decider, SignedIn, admins, requesters
from encore.book_requests.models import Status
from encore.book_requests.schemas import (
    EventData,
    Found,
    FoundAlbum,
    NewRequest,
    OwnRequest,
    Quota,
    Reply,
    RequestDetail,
    Voted,
)
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer
from encore.live import read_message, telling_problems
from encore.pagination import Cursor, Limit, Page, cut

__all__ = ["router"]

router = APIRouter(tags=["book requests"])
router.include_router(admin_router)

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Answers = dict[int | str, dict[str, Any]]
NOT_FOUND: Answers = {404: {"model": ErrorAnswer, "description": "There is no such request, or none of yours"}}
CONFLICT: Answers = {409: {"model": ErrorAnswer, "description": "It makes no sense as the request stands"}}
ASKED: Answers = {409: {"model": ErrorAnswer, "description": "One has asked for it already"}}


@router.get("/api/book-requests")
async def list_own_requests(
    session: ReadSession, user: CurrentUser, status: Status | None = None, limit: Limit = 20, cursor: Cursor = None
) -> Page[OwnRequest]:
    """One's own requests, newest first."""
    rows = await listings.own_page(session, user, status=status, limit=limit, cursor=cursor)
    page, behind = cut(rows, limit=limit, key=lambda row: (row[0].id,))
    return Page(items=[OwnRequest.of(*row) for row in page], next_cursor=behind)


@router.post("/api/book-requests", status_code=201, responses=ASKED)
async def ask_for_book(session: WriteSession, user: CurrentUser, new: NewRequest) -> OwnRequest:
    """Ask for a book. Look first whether it is there already: `GET /api/book-requests/similar`."""
    return OwnRequest.of(await service.ask(session, user, new), user.username)


@router.get("/api/book-requests/similar")
async def find_similar(
    session: ReadSession,
    user: CurrentUser,
    q: Annotated[str, Query(max_length=200, description="A title, or a part")] = "",
) -> Found:
    """What the library has, and what others have asked for: play it, or vote for it, instead of asking again."""
    q = " ".join(q.replace("\0", " ").split())
    albums = [FoundAlbum(id=id, title=title) for id, title in await listings.albums_like(session, q)]
    return Found(albums=albums, requests=await listings.open_like(session, user, q))


@router.get("/api/book-requests/quota")
async def get_quota(session: ReadSession, user: CurrentUser) -> Quota:
    """How many requests one has made within seven days, and how many one may make."""
    used = await service.quota_used(session, user.id)
    return Quota(used=used, limit=None if service.decides(user) else service.PER_WEEK)


@router.get("/api/book-requests/{request_id}", responses=NOT_FOUND)
async def get_request(session: ReadSession, user: CurrentUser, request_id: Number) -> RequestDetail:
    """A request with its history: one's own, or anybody's for those who decide."""
    request, username = await service.visible(session, user, request_id)
    history = await listings.history(session, request_id)
    return RequestDetail(**OwnRequest.of(request, username).model_dump(), history=history)


@router.delete("/api/book-requests/{request_id}", responses={**NOT_FOUND, **CONFLICT})
async def withdraw_request(session: WriteSession, user: CurrentUser, request_id: Number) -> Gone:
    """Take one's own request back while it is pending."""
    await service.withdraw(session, user, request_id)
    return Gone()


@router.post("/api/book-requests/{request_id}/vote", responses={**NOT_FOUND, **CONFLICT})
async def vote_for_request(session: WriteSession, user: CurrentUser, request_id: Number) -> Voted:
    """Say that one would like to have it too."""
    return Voted(id=request_id, votes=await service.vote(session, user, request_id), have_voted=True)


@router.delete("/api/book-requests/{request_id}/vote", responses={**NOT_FOUND, **CONFLICT})
async def take_vote_back(session: WriteSession, user: CurrentUser, request_id: Number) -> Voted:
    """Take one's vote back."""
    return Voted(id=request_id, votes=await service.unvote(session, user, request_id), have_voted=False)


@router.post("/api/book-requests/{request_id}/replies", status_code=201, responses=NOT_FOUND)
async def reply_to_request(session: WriteSession, user: CurrentUser, request_id: Number, reply: Reply) -> EventData:
    """Say something about a request: its owner, or those who decide."""
    return EventData.of(await service.reply(session, user, request_id, reply.text), user.username)


@router.websocket("/ws/book-requests")
@router.websocket("/api/ws/book-requests")
async def request_socket(websocket: WebSocket, identity: SignedIn) -> None:
    """What becomes of one's own requests, and of those one voted for."""

    async def answer(connection: Any, message: object) -> None:
        async with telling_problems(requesters, connection):
            read_message(message)

    await requesters.serve(websocket, identity=identity, on_message=answer, heartbeat="earlier")


@router.websocket("/ws/book-requests/admin")
@router.websocket("/api/ws/book-requests/admin")
async def request_admin_socket(websocket: WebSocket, identity: Decider) -> None:
    """Everybody's requests as they are made and decided."""

    async def answer(connection: Any, message: object) -> None:
        async with telling_problems(admins, connection):
            read_message(message)

    await admins.serve(websocket, identity=identity, on_message=answer, heartbeat="earlier")

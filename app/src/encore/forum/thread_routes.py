"""The routes of threads, sub-threads and members."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from encore.accounts.access import CurrentUser, MaybeUser
from encore.answers import Gone
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer
from encore.forum import listings, member_service, thread_service
from encore.forum.bodies import NewSubThreadBody, NewThreadBody, ReadBody, ThreadBody
from encore.forum.schemas import MemberItem, ReadState, SearchHit, StartedThread, ThreadItem
from encore.forum.search import QUERY_CHARACTERS, What
from encore.forum.search import search as find
from encore.pagination import Cursor, Limit, Page

__all__ = ["router"]

router = APIRouter()
PathId = Annotated[int, Path(ge=1, le=2**63 - 1)]
Answers = dict[int | str, dict[str, Any]]

BAD: Answers = {400: {"model": ErrorAnswer, "description": "It makes no sense as it is"}}
GONE: Answers = {404: {"model": ErrorAnswer, "description": "Not there, or not for the one who asks"}}
CONFLICT: Answers = {409: {"model": ErrorAnswer, "description": "It makes no sense in the present state"}}


@router.get("/threads", responses=BAD)
async def list_threads(
    session: ReadSession, reader: MaybeUser, limit: Limit = 30, cursor: Cursor = None
) -> Page[ThreadItem]:
    """The threads that one may read: pinned ones first, then by their last message. With unread counts."""
    return await listings.list_threads(session, reader=reader, limit=limit, cursor=cursor)


@router.post("/threads", status_code=201, responses=BAD)
async def create_thread(session: WriteSession, author: CurrentUser, body: NewThreadBody) -> StartedThread:
    """Begin a thread with its first message."""
    return await thread_service.create_thread(
        session,
        author=author,
        title=body.title,
        content=body.content,
        is_private=body.is_private,
        member_ids=body.member_ids,
    )


@router.get("/threads/{thread_id}", responses=GONE)
async def get_thread(session: ReadSession, reader: MaybeUser, thread_id: PathId) -> ThreadItem:
    """One thread."""
    return await listings.get_thread(session, reader=reader, thread_id=thread_id)


@router.patch("/threads/{thread_id}", responses=GONE | CONFLICT)
async def rename_thread(session: WriteSession, actor: CurrentUser, thread_id: PathId, body: ThreadBody) -> ThreadItem:
    """Give a thread another title. The one who began it, and moderators."""
    return await thread_service.rename_thread(session, actor=actor, thread_id=thread_id, title=body.title)


@router.delete("/threads/{thread_id}", responses=GONE | CONFLICT)
async def delete_thread(session: WriteSession, actor: CurrentUser, thread_id: PathId) -> Gone:
    """Delete a thread with its messages and sub-threads, for good. The one who began it, and moderators."""
    await thread_service.delete_thread(session, actor=actor, thread_id=thread_id)
    return Gone()


@router.get("/threads/{thread_id}/sub-threads", responses=BAD | GONE)
async def list_sub_threads_of_thread(
    session: ReadSession, reader: MaybeUser, thread_id: PathId, limit: Limit = 30, cursor: Cursor = None
) -> Page[ThreadItem]:
    """All sub-threads of a thread, also those of its messages, oldest first."""
    return await listings.list_sub_threads(session, reader=reader, thread_id=thread_id, limit=limit, cursor=cursor)


@router.post("/threads/{thread_id}/sub-threads", status_code=201, responses=BAD | GONE | CONFLICT)
async def create_sub_thread_of_thread(
    session: WriteSession, author: CurrentUser, thread_id: PathId, body: NewSubThreadBody
) -> StartedThread:
    """Begin a sub-thread of a thread. Sub-threads have none."""
    return await thread_service.create_sub_thread(
        session, author=author, title=body.title, content=body.content, parent_thread_id=thread_id
    )


@router.put("/threads/{thread_id}/read", responses=GONE | CONFLICT)
async def mark_thread_read(session: WriteSession, reader: CurrentUser, thread_id: PathId, body: ReadBody) -> ReadState:
    """Say how far one has read a thread. It never goes back."""
    return await thread_service.mark_read(session, reader=reader, thread_id=thread_id, number=body.number)


# -- members of private threads ----------------------------------------------------------------------------------------


@router.get("/threads/{thread_id}/members", responses=BAD | GONE | CONFLICT)
async def list_thread_members(
    session: ReadSession, reader: CurrentUser, thread_id: PathId, limit: Limit = 50, cursor: Cursor = None
) -> Page[MemberItem]:
    """Who may read a private thread. For its members."""
    return await member_service.list_members(session, reader=reader, thread_id=thread_id, limit=limit, cursor=cursor)


@router.get("/threads/{thread_id}/members/{user_id}", responses=BAD | GONE | CONFLICT)
async def get_thread_member(
    session: ReadSession, reader: CurrentUser, thread_id: PathId, user_id: PathId
) -> MemberItem:
    """Whether somebody may read a private thread: 404 when not. For its members."""
    return await member_service.get_member(session, reader=reader, thread_id=thread_id, user_id=user_id)


@router.put("/threads/{thread_id}/members/{user_id}", responses=BAD | GONE | CONFLICT)
async def add_thread_member(
    session: WriteSession, actor: CurrentUser, thread_id: PathId, user_id: PathId
) -> MemberItem:
    """Let somebody read a private thread. The one who began it, and moderators who are members."""
    return await member_service.add_member(session, actor=actor, thread_id=thread_id, user_id=user_id)


@router.delete("/threads/{thread_id}/members/{user_id}", responses=BAD | GONE | CONFLICT)
async def remove_thread_member(session: WriteSession, actor: CurrentUser, thread_id: PathId, user_id: PathId) -> Gone:
    """Take a private thread away from somebody, at once on all their sockets; or leave it."""
    await member_service.remove_member(session, actor=actor, thread_id=thread_id, user_id=user_id)
    return Gone()


# -- search ------------------------------------------------------------------------------------------------------------


@router.get("/search", responses=BAD)
async def search(
    session: ReadSession,
    reader: MaybeUser,
    q: Annotated[str, Query(min_length=1, max_length=QUERY_CHARACTERS, description="Words, or beginnings of words")],
    what: Annotated[What, Query(description="Where to look for them")] = "messages",
    limit: Limit = 20,
    cursor: Cursor = None,
) -> Page[SearchHit]:
    """Messages, or threads by their titles, that have all of the words, the newest first. Only what one may read."""
    return await find(session, reader=reader, query=q, what=what, limit=limit, cursor=cursor)

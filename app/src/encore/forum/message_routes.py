"""The routes of messages: written, changed, linked to, liked, reported."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from encore.accounts.access import CurrentUser, MaybeUser
from encore.answers import Gone
from encore.db import ReadSession, WriteSession
from encore.forum import like_service, listings, message_service, report_service, thread_service
from encore.forum.bodies import MessageBody, NewMessageBody, NewSubThreadBody, PreviewBody, ReportBody
from encore.forum.posting import rendered
from encore.forum.schemas import (
    EditItem,
    Liked,
    MessageItem,
    MessagePlace,
    PersonItem,
    Preview,
    ReportItem,
    StartedThread,
    ThreadItem,
)
from encore.forum.thread_routes import BAD, CONFLICT, GONE, PathId
from encore.pagination import Cursor, Limit, Page

__all__ = ["router"]

router = APIRouter()
FromNumber = Annotated[
    int | None, Query(ge=0, le=2**31 - 1, description="Begin at this message; of no effect beside `cursor`")
]
OrderBy = Annotated[listings.Order, Query(description="`asc`: upwards from the first; `desc`: downwards from the last")]


@router.get("/threads/{thread_id}/messages", responses=BAD | GONE)
async def list_messages(
    session: ReadSession,
    reader: MaybeUser,
    thread_id: PathId,
    from_number: FromNumber = None,
    order: OrderBy = "asc",
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[MessageItem]:
    """The messages of a thread by their numbers. Removed ones are there without their text."""
    return await listings.list_messages(
        session,
        reader=reader,
        thread_id=thread_id,
        from_number=from_number,
        order=order,
        limit=limit,
        cursor=cursor,
    )


@router.post("/threads/{thread_id}/messages", status_code=201, responses=BAD | GONE | CONFLICT)
async def post_message(
    session: WriteSession, author: CurrentUser, thread_id: PathId, body: NewMessageBody
) -> MessageItem:
    """Write in a thread, perhaps in reply to a message of it. 403 where it is locked."""
    return await message_service.post_message(
        session, author=author, thread_id=thread_id, content=body.content, reply_to_id=body.reply_to_id
    )


@router.post("/preview", responses=BAD)
async def preview(author: CurrentUser, body: PreviewBody) -> Preview:
    """What a message would look like. Nothing is stored."""
    return Preview(content_html=rendered(body.content, author=author))


@router.get("/messages/{message_id}", responses=GONE)
async def get_message(session: ReadSession, reader: MaybeUser, message_id: PathId) -> MessagePlace:
    """One message, with its thread and its place there: where a link to it leads."""
    return await listings.place_of_message(session, reader=reader, message_id=message_id)


@router.patch("/messages/{message_id}", responses=BAD | GONE | CONFLICT)
async def edit_message(
    session: WriteSession, editor: CurrentUser, message_id: PathId, body: MessageBody
) -> MessageItem:
    """Let one's message say something else. What it said stays in its history."""
    return await message_service.edit_message(session, editor=editor, message_id=message_id, content=body.content)


@router.delete("/messages/{message_id}", responses=GONE | CONFLICT)
async def delete_message(session: WriteSession, actor: CurrentUser, message_id: PathId) -> Gone:
    """Remove a message: its author, and moderators. Its place in the listing stays; its text and history go."""
    await message_service.delete_message(session, actor=actor, message_id=message_id)
    return Gone()


@router.get("/messages/{message_id}/edits", responses=BAD | GONE)
async def list_edits(
    session: ReadSession, reader: MaybeUser, message_id: PathId, limit: Limit = 20, cursor: Cursor = None
) -> Page[EditItem]:
    """What a message said before, the latest first."""
    return await listings.list_edits(session, reader=reader, message_id=message_id, limit=limit, cursor=cursor)


@router.get("/messages/{message_id}/sub-threads", responses=BAD | GONE)
async def list_sub_threads_of_message(
    session: ReadSession, reader: MaybeUser, message_id: PathId, limit: Limit = 30, cursor: Cursor = None
) -> Page[ThreadItem]:
    """The sub-threads of a message, oldest first."""
    return await listings.list_sub_threads(session, reader=reader, message_id=message_id, limit=limit, cursor=cursor)


@router.post("/messages/{message_id}/sub-threads", status_code=201, responses=BAD | GONE | CONFLICT)
async def create_sub_thread_of_message(
    session: WriteSession, author: CurrentUser, message_id: PathId, body: NewSubThreadBody
) -> StartedThread:
    """Begin a sub-thread of a message."""
    return await thread_service.create_sub_thread(
        session, author=author, title=body.title, content=body.content, parent_message_id=message_id
    )


@router.post("/messages/{message_id}/like", responses=GONE | CONFLICT)
async def like_message(session: WriteSession, liker: CurrentUser, message_id: PathId) -> Liked:
    """Like a message. A second time changes nothing."""
    return await like_service.like_message(session, liker=liker, message_id=message_id)


@router.delete("/messages/{message_id}/like", responses=GONE | CONFLICT)
async def unlike_message(session: WriteSession, liker: CurrentUser, message_id: PathId) -> Liked:
    """Take one's like back. A second time changes nothing."""
    return await like_service.unlike_message(session, liker=liker, message_id=message_id)


@router.get("/messages/{message_id}/likes", responses=BAD | GONE)
async def list_likers(
    session: ReadSession, reader: MaybeUser, message_id: PathId, limit: Limit = 50, cursor: Cursor = None
) -> Page[PersonItem]:
    """Who likes a message, the latest first."""
    return await listings.list_likers(session, reader=reader, message_id=message_id, limit=limit, cursor=cursor)


@router.post("/messages/{message_id}/report", status_code=201, responses=BAD | GONE | CONFLICT)
async def report_message(
    session: WriteSession, reporter: CurrentUser, message_id: PathId, body: ReportBody
) -> ReportItem:
    """Tell the moderators about a message. They see its text even if the thread is private."""
    return await report_service.report_message(session, reporter=reporter, message_id=message_id, reason=body.reason)

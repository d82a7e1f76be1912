"""The routes for moderators: creators, the team and admins. Private threads are theirs only as members."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query

from encore.accounts.access import Staff
from encore.db import ReadSession, WriteSession
from encore.forum import message_service, moderation_service, report_service
from encore.forum.bodies import LockBody, MoveMessageBody, MoveThreadBody, ResolveBody
from encore.forum.schemas import MessageItem, ReportItem, ThreadItem
from encore.forum.thread_routes import BAD, CONFLICT, GONE, PathId
from encore.pagination import Cursor, Limit, Page

__all__ = ["router"]

router = APIRouter()


@router.post("/threads/{thread_id}/pin", responses=GONE | CONFLICT)
async def pin_thread(session: WriteSession, moderator: Staff, thread_id: PathId) -> ThreadItem:
    """Let a thread stand above the others."""
    return await moderation_service.set_pinned(session, moderator=moderator, thread_id=thread_id, is_pinned=True)


@router.delete("/threads/{thread_id}/pin", responses=GONE | CONFLICT)
async def unpin_thread(session: WriteSession, moderator: Staff, thread_id: PathId) -> ThreadItem:
    """Let a thread stand among the others again."""
    return await moderation_service.set_pinned(session, moderator=moderator, thread_id=thread_id, is_pinned=False)


@router.post("/threads/{thread_id}/lock", responses=GONE | CONFLICT)
async def lock_thread(
    session: WriteSession, moderator: Staff, thread_id: PathId, body: LockBody | None = None
) -> ThreadItem:
    """Let only moderators write in a thread, and say why."""
    reason = "" if body is None else body.reason
    return await moderation_service.set_locked(
        session, moderator=moderator, thread_id=thread_id, is_locked=True, reason=reason
    )


@router.delete("/threads/{thread_id}/lock", responses=GONE | CONFLICT)
async def unlock_thread(session: WriteSession, moderator: Staff, thread_id: PathId) -> ThreadItem:
    """Let everybody write in a thread again."""
    return await moderation_service.set_locked(session, moderator=moderator, thread_id=thread_id, is_locked=False)


@router.post("/threads/{thread_id}/move", responses=BAD | GONE | CONFLICT)
async def move_thread(session: WriteSession, moderator: Staff, thread_id: PathId, body: MoveThreadBody) -> ThreadItem:
    """Let a thread belong to another or to a message, or stand in the index. Only where the same people may read it."""
    return await moderation_service.move_thread(
        session,
        moderator=moderator,
        thread_id=thread_id,
        parent_thread_id=body.parent_thread_id,
        parent_message_id=body.parent_message_id,
    )


@router.post("/messages/{message_id}/move", responses=BAD | GONE | CONFLICT)
async def move_message(
    session: WriteSession, moderator: Staff, message_id: PathId, body: MoveMessageBody
) -> MessageItem:
    """Put a message at the end of another thread. Only where the same people may read it."""
    return await message_service.move_message(session, actor=moderator, message_id=message_id, thread_id=body.thread_id)


@router.get("/reports", responses=BAD)
async def list_reports(
    session: ReadSession,
    moderator: Staff,
    status: Annotated[Literal["open", "dismissed", "removed"], Query(description="Which reports")] = "open",
    limit: Limit = 30,
    cursor: Cursor = None,
) -> Page[ReportItem]:
    """What people reported, the latest first."""
    return await report_service.list_reports(session, status=status, limit=limit, cursor=cursor)


@router.post("/reports/{report_id}/resolve", responses=GONE | CONFLICT)
async def resolve_report(session: WriteSession, moderator: Staff, report_id: PathId, body: ResolveBody) -> ReportItem:
    """Decide a report; `removed` removes the message. 409 when somebody else was quicker."""
    return await report_service.resolve_report(
        session, moderator=moderator, report_id=report_id, outcome=body.outcome, note=body.note
    )

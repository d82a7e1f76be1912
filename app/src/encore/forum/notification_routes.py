"""The routes of notifications, follows, @everyone and member completion."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from encore.accounts.access import Admin, CurrentUser
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer
from encore.forum import everyone_service, follow_service, notification_expiry, notification_inbox
from encore.forum.everyone_service import EveryoneState
from encore.forum.notification_messages import Kind
from encore.forum.notification_people import completions
from encore.forum.notification_schemas import FollowItem, FollowState, NotificationItem, Person, Preferences, Unread
from encore.pagination import Cursor, Limit, Page
from encore.text.fields import line

__all__ = ["notification_expiry", "router"]

router = APIRouter(prefix="/api/forum")

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
OnlyKind = Annotated[Kind | None, Query(alias="type", description="Only of this kind")]
OnlyThread = Annotated[int | None, Query(ge=1, le=2**63 - 1, description="Only of this thread")]
BAD_CURSOR: dict[int | str, dict[str, Any]] = {400: {"model": ErrorAnswer, "description": "The cursor is none of ours"}}
NO_NOTIFICATION: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "One has no such notification"}
}
NO_THREAD: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "There is no such thread, or one may not read it"}
}


@router.get("/notifications", responses=BAD_CURSOR)
async def list_notifications(
    session: ReadSession,
    user: CurrentUser,
    limit: Limit = 20,
    cursor: Cursor = None,
    kind: OnlyKind = None,
    unread: Annotated[bool, Query(description="Only those that are not read yet")] = False,
) -> Page[NotificationItem]:
    """One's notifications, the newest first."""
    return await notification_inbox.page(session, user=user, limit=limit, cursor=cursor, kind=kind, unread_only=unread)


@router.get("/notifications/unread-count")
async def get_unread_count(session: ReadSession, user: CurrentUser) -> Unread:
    """How many notifications are unread."""
    return await notification_inbox.unread(session, user=user)


@router.post("/notifications/mark-all-read")
async def mark_all_notifications_read(
    session: WriteSession, user: CurrentUser, kind: OnlyKind = None, thread_id: OnlyThread = None
) -> Unread:
    """Mark all as read; one's other tabs learn of it."""
    return await notification_inbox.mark_all_read(session, user=user, kind=kind, thread_id=thread_id)


@router.get("/notifications/preferences")
async def get_preferences(session: ReadSession, user: CurrentUser) -> Preferences:
    """What one is told, kind by kind."""
    return await notification_inbox.preferences_of(session, user=user)


@router.put("/notifications/preferences")
async def set_preferences(session: WriteSession, user: CurrentUser, wanted: Preferences) -> Preferences:
    """Choose what one is told from now on."""
    return await notification_inbox.set_preferences(session, wanted, user=user)


@router.post("/notifications/{notification_id}/read", responses=NO_NOTIFICATION)
async def mark_notification_read(session: WriteSession, user: CurrentUser, notification_id: Number) -> Unread:
    """Mark one as read; one's other tabs learn of it. More than once does no harm."""
    return await notification_inbox.mark_read(session, notification_id, user=user)


@router.delete("/notifications/{notification_id}", responses=NO_NOTIFICATION)
async def remove_notification(session: WriteSession, user: CurrentUser, notification_id: Number) -> Unread:
    """Take one off the list."""
    return await notification_inbox.remove(session, notification_id, user=user)


@router.post("/threads/{thread_id}/follow", responses=NO_THREAD)
async def follow_thread(session: WriteSession, user: CurrentUser, thread_id: Number) -> FollowState:
    """Be notified of every new message in the thread. More than once does no harm."""
    await follow_service.follow(session, thread_id, user=user)
    return FollowState(thread_id=thread_id, is_following=True)


@router.delete("/threads/{thread_id}/follow")
async def unfollow_thread(session: WriteSession, user: CurrentUser, thread_id: Number) -> FollowState:
    """Follow it no more; also when one did not."""
    await follow_service.unfollow(session, thread_id, user=user)
    return FollowState(thread_id=thread_id, is_following=False)


@router.get("/follows", responses=BAD_CURSOR)
async def list_follows(
    session: ReadSession, user: CurrentUser, limit: Limit = 50, cursor: Cursor = None
) -> Page[FollowItem]:
    """The threads that one follows, the newest threads first."""
    return await follow_service.follows(session, user=user, limit=limit, cursor=cursor)


@router.get("/everyone-mention", responses=NO_THREAD)
async def get_everyone_mention(session: ReadSession, user: CurrentUser, thread_id: OnlyThread = None) -> EveryoneState:
    """Whether @everyone notifies anybody now, and how many, if the one who asks may use it."""
    return await everyone_service.state(session, reader=user, thread_id=thread_id)


@router.post("/everyone-mention")
async def enable_everyone_mention(session: WriteSession, admin: Admin) -> EveryoneState:
    """Let @everyone work again; everyone is told."""
    return await everyone_service.switch(session, admin=admin, on=True)


@router.delete("/everyone-mention")
async def disable_everyone_mention(
    session: WriteSession,
    admin: Admin,
    reason: Annotated[str, line(may_be_empty=True), Query(description="Shown to everyone")] = "",
) -> EveryoneState:
    """Stop @everyone: it notifies nobody any more, and everyone is told so."""
    return await everyone_service.switch(session, admin=admin, on=False, reason=reason)


@router.get("/members", responses=NO_THREAD)
async def complete_member(
    session: ReadSession,
    user: CurrentUser,
    q: Annotated[str, Query(max_length=32, pattern="^[A-Za-z0-9_.-]*$", description="How the username begins")] = "",
    thread_id: OnlyThread = None,
) -> list[Person]:
    """At most ten people to mention, by name; with a thread only those who may read it."""
    return await completions(session, q, asker=user, thread_id=thread_id)

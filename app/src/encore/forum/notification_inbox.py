"""Somebody's notifications: listed, counted, marked read, removed; and what they want to be told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import now
from encore.errors import NotFound
from encore.forum.access import readable
from encore.forum.models import ForumMessage, Thread
from encore.forum.notification_counts import hold_one, tell_counts, unread_of
from encore.forum.notification_delivery import title_of
from encore.forum.notification_messages import Kind
from encore.forum.notification_models import Notification, NotificationPreferences, Recipient
from encore.forum.notification_schemas import NotificationItem, Preferences, Unread
from encore.forum.notification_upsert import inserting
from encore.forum.schemas import excerpt
from encore.pagination import Page, cut, read_cursor

__all__ = ["mark_all_read", "mark_read", "page", "preferences_of", "remove", "set_preferences", "unread"]


async def page(
    session: AsyncSession, *, user: User, limit: int, cursor: str | None, kind: Kind | None, unread_only: bool
) -> Page[NotificationItem]:
    """One's notifications, the newest first. Raises BadRequest for a cursor that is none."""
    query = (
        select(
            Notification.id,
            Notification.kind,
            Notification.message_id,
            Notification.from_user_id,
            Notification.created_at,
            Recipient.read_at,
            ForumMessage.thread_id,
            ForumMessage.content,
            Thread.title,
            User.username,
        )
        .join(Recipient, Recipient.notification_id == Notification.id)
        .join(ForumMessage, ForumMessage.id == Notification.message_id)
        .join(Thread, Thread.id == ForumMessage.thread_id)
        .outerjoin(User, User.id == Notification.from_user_id)
        # Whoever lost a private thread lost its notifications too; this looks again.
        .where(Recipient.user_id == user.id, readable(user.id))
        .order_by(Recipient.notification_id.desc())
        .limit(limit + 1)
    )
    if kind is not None:
        query = query.where(Recipient.kind == kind)
    if unread_only:
        query = query.where(Recipient.read_at.is_(None))
    key = read_cursor(cursor, int)
    if key is not None:
        query = query.where(Recipient.notification_id < key[0])
    rows, next_cursor = cut((await session.execute(query)).all(), limit=limit, key=lambda row: [row.id])
    return Page(items=[_item(row) for row in rows], next_cursor=next_cursor)


async def unread(session: AsyncSession, *, user: User) -> Unread:
    """How many of one's notifications are unread."""
    count, version = await unread_of(session, user.id)
    return Unread(count=count, version=version)


async def mark_read(session: AsyncSession, notification_id: int, *, user: User) -> Unread:
    """Mark one as read, and tell all of one's tabs. Raises NotFound unless it is one's own."""
    await _own(session, notification_id, user=user)
    return await _mark(session, user, Recipient.notification_id == notification_id)


async def mark_all_read(
    session: AsyncSession, *, user: User, kind: Kind | None = None, thread_id: int | None = None
) -> Unread:
    """Mark all as read that are there now (of one kind, of one thread), and tell all of one's tabs."""
    which: list[ColumnElement[bool]] = []
    if kind is not None:
        which.append(Recipient.kind == kind)
    if thread_id is not None:
        which.append(
            exists()
            .where(Notification.id == Recipient.notification_id)
            .where(ForumMessage.id == Notification.message_id, ForumMessage.thread_id == thread_id)
        )
    return await _mark(session, user, *which)


async def remove(session: AsyncSession, notification_id: int, *, user: User) -> Unread:
    """Take one off one's list. Raises NotFound unless it is one's own."""
    await _own(session, notification_id, user=user)
    held = await hold_one(session, user.id)
    await session.execute(
        delete(Recipient)
        .where(Recipient.user_id == user.id, Recipient.notification_id == notification_id)
        .execution_options(synchronize_session=False)
    )
    await tell_counts(session, held, removed_ids=[notification_id])
    return await unread(session, user=user)


async def preferences_of(session: AsyncSession, *, user: User) -> Preferences:
    """What somebody wants to be told."""
    return Preferences.of(await session.get(NotificationPreferences, user.id))


async def set_preferences(session: AsyncSession, wanted: Preferences, *, user: User) -> Preferences:
    """Change it. It holds for what happens from now on; what is stored stays."""
    values = wanted.model_dump()
    statement = inserting(session, NotificationPreferences).values(user_id=user.id, **values)
    await session.execute(statement.on_conflict_do_update(index_elements=["user_id"], set_=_columns(values)))
    return wanted


def _columns(values: dict[str, bool]) -> dict[str, bool]:
    """By the names of the columns, one of which may not be a keyword of SQL."""
    return {getattr(NotificationPreferences, name).expression.name: value for name, value in values.items()}


async def _own(session: AsyncSession, notification_id: int, *, user: User) -> None:
    if await session.get(Recipient, (user.id, notification_id)) is None:
        raise NotFound(f"there is no notification {notification_id}")


async def _mark(session: AsyncSession, user: User, *which: ColumnElement[bool]) -> Unread:
    held = await hold_one(session, user.id)
    marked = await session.execute(
        update(Recipient)
        .where(Recipient.user_id == user.id, Recipient.read_at.is_(None), *which)
        .values(read_at=now())
        .returning(Recipient.notification_id)
        .execution_options(synchronize_session=False)
    )
    ids: Sequence[int] = marked.scalars().all()
    if ids:
        await tell_counts(session, held, read_ids=ids)
    return await unread(session, user=user)


def _item(row: Row[*tuple[Any, ...]]) -> NotificationItem:
    kind, name = Kind(row.kind), row.username or "somebody"
    return NotificationItem(
        id=row.id,
        type=kind,
        title=title_of(kind, name=name, thread=row.title),
        content=excerpt(row.content),
        thread_id=row.thread_id,
        message_id=row.message_id,
        thread_title=row.title,
        from_user_id=row.from_user_id,
        from_username=name,
        created_at=row.created_at,
        is_read=row.read_at is not None,
        read_at=row.read_at,
    )

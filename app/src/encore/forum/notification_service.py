"""What the forum's other services say has happened, and who is notified of it.

All of these belong to the unit of work of the caller: they are stored, and announced, when that is committed. Call them
with the thread locked. `visible_to` are the only users who may learn of it; None means that the thread is public.
"""

from __future__ import annotations

import datetime
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, and_, delete, exists, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.forum.everyone_service import may_tell_everyone
from encore.forum.models import ForumMessage, Thread
from encore.forum.notification_counts import NEWEST_IDS, hold, tell_counts
from encore.forum.notification_delivery import Happening, deliver, reasons_for, wants
from encore.forum.notification_messages import Kind
from encore.forum.notification_models import Follow, Notification, NotificationPreferences, Recipient
from encore.forum.notification_upsert import inserting
from encore.text.markdown import find_mentions

__all__ = [
    "forget",
    "old_ids",
    "on_access_lost",
    "on_edit",
    "on_like",
    "on_new_message",
    "on_new_thread",
    "on_removed",
    "on_thread_removed",
]


async def on_new_thread(
    session: AsyncSession,
    *,
    author: User,
    thread_id: int,
    title: str,
    message_id: int,
    text: str,
    visible_to: Collection[int] | None,
) -> None:
    """A thread was begun: its author follows it, and those whom the first message mentions are notified."""
    follow = inserting(session, Follow).values(user_id=author.id, thread_id=thread_id)
    await session.execute(follow.on_conflict_do_nothing())
    happening = Happening(author, thread_id, title, message_id, text, visible_to)
    await _notify(session, happening, reply_to_user_id=None, follows=False)


async def on_new_message(
    session: AsyncSession,
    *,
    author: User,
    thread_id: int,
    title: str,
    message_id: int,
    text: str,
    reply_to_user_id: int | None,
    visible_to: Collection[int] | None,
) -> None:
    """A message was written: whom it mentions, whom it answers, and who follows the thread are notified, each once."""
    happening = Happening(author, thread_id, title, message_id, text, visible_to)
    await _notify(session, happening, reply_to_user_id=reply_to_user_id, follows=True)


async def on_edit(
    session: AsyncSession,
    *,
    author: User,
    thread_id: int,
    title: str,
    message_id: int,
    old_text: str,
    new_text: str,
    visible_to: Collection[int] | None,
) -> None:
    """A message was changed: whom it mentions now, and did not before, is notified, unless it was told already."""
    before, after = find_mentions(old_text), find_mentions(new_text)
    happening = Happening(author, thread_id, title, message_id, new_text, visible_to)
    added = set(after.usernames) - set(before.usernames)
    reasons = await reasons_for(session, happening, usernames=added) if added else {}
    everyone = after.everyone and not before.everyone and await may_tell_everyone(session, author)
    await deliver(session, happening, reasons, everyone=everyone)


async def on_like(
    session: AsyncSession,
    *,
    liker: User,
    message_id: int,
    author_id: int,
    thread_id: int,
    title: str,
    visible_to: Collection[int] | None,
) -> None:
    """A message was liked: its author is notified; once for each liker, however often that one changes their mind."""
    if author_id == liker.id or (visible_to is not None and author_id not in visible_to):
        return
    again = exists().where(
        Notification.message_id == message_id, Notification.kind == Kind.LIKE, Notification.from_user_id == liker.id
    )
    query = (
        select(ForumMessage.content, NotificationPreferences)
        .join(User, User.id == ForumMessage.author_id)
        .outerjoin(NotificationPreferences, NotificationPreferences.user_id == User.id)
        .where(ForumMessage.id == message_id, User.id == author_id, User.is_banned.is_(False), ~again)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None or not wants(found[1], Kind.LIKE):
        return
    happening = Happening(liker, thread_id, title, message_id, found[0], visible_to)
    await deliver(session, happening, {author_id: Kind.LIKE})


async def on_removed(session: AsyncSession, *, message_ids: Sequence[int]) -> None:
    """Messages were removed: so are the notifications of them, read or not."""
    await _take_back(session, Notification.message_id.in_(message_ids))


async def on_thread_removed(session: AsyncSession, *, thread_ids: Sequence[int]) -> None:
    """Threads are about to be deleted, before their rows are: nobody keeps a count of what is gone."""
    await _take_back(session, _is_in(thread_ids))


async def on_access_lost(session: AsyncSession, *, user_id: int, thread_id: int) -> None:
    """Somebody may not read a private thread and its sub-threads any more: they keep no notification, and no follow."""
    family = select(Thread.id).where(or_(Thread.id == thread_id, Thread.parent_thread_id == thread_id))
    follows = delete(Follow).where(Follow.user_id == user_id, Follow.thread_id.in_(family))
    await session.execute(follows.execution_options(synchronize_session=False))
    await _take_back(session, _is_in(family), Recipient.user_id == user_id)


async def old_ids(session: AsyncSession, *, before: datetime.datetime, limit: int) -> list[int]:
    """Notifications from before this moment, the oldest ones; it looks at no more than `limit`."""
    query = select(Notification.id, Notification.created_at).order_by(Notification.id).limit(limit)
    return [row.id for row in await session.execute(query) if row.created_at < before]


async def forget(session: AsyncSession, notification_ids: Sequence[int]) -> None:
    """Take these notifications from all who have them."""
    await _take_back(session, Notification.id.in_(notification_ids))


async def _notify(session: AsyncSession, happening: Happening, *, reply_to_user_id: int | None, follows: bool) -> None:
    mentions = find_mentions(happening.text)
    reasons = await reasons_for(
        session, happening, usernames=mentions.usernames, reply_to_user_id=reply_to_user_id, follows=follows
    )
    everyone = mentions.everyone and await may_tell_everyone(session, happening.author)
    await deliver(session, happening, reasons, everyone=everyone)


def _is_in(thread_ids: Sequence[int] | Select[int]) -> ColumnElement[bool]:
    """The notifications of messages that are in these threads now."""
    return Notification.message_id.in_(select(ForumMessage.id).where(ForumMessage.thread_id.in_(thread_ids)))


async def _take_back(
    session: AsyncSession, which: ColumnElement[bool], whose: ColumnElement[bool] | None = None
) -> None:
    """Take notifications from these recipients (from all, without a condition), and tell them their counts."""
    told = Recipient.notification_id.in_(select(Notification.id).where(which))
    chosen = told if whose is None else and_(told, whose)
    held = await hold(session, select(Recipient.user_id).where(chosen))
    number = Recipient.notification_id
    newest = select(number).where(chosen).distinct().order_by(number.desc()).limit(NEWEST_IDS)
    ids = (await session.execute(newest)).scalars().all()
    statement = delete(Notification).where(which) if whose is None else delete(Recipient).where(chosen)
    await session.execute(statement.execution_options(synchronize_session=False))
    await tell_counts(session, held, removed_ids=ids)

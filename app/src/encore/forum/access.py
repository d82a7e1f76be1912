"""Who may read a thread: everybody, or the members of a private one."""

from __future__ import annotations

from sqlalchemy import ColumnElement, and_, exists, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import User
from encore.errors import Forbidden, NotFound
from encore.forum.models import ForumMessage, Thread, ThreadMember

__all__ = [
    "audience",
    "check_writable",
    "family",
    "is_public",
    "may_read",
    "readable",
    "readable_message",
    "readable_thread",
    "topic_of",
]


def topic_of(thread_id: int) -> str:
    """The topic of the channel on which a thread's messages go."""
    return f"thread:{thread_id}"


def readable(user_id: int | None) -> ColumnElement[bool]:
    """The condition for threads that somebody may read; None is a guest."""
    if user_id is None:
        return Thread.is_private == False  # noqa: E712 - SQL
    root_id = func.coalesce(Thread.parent_thread_id, Thread.id)
    is_member = exists().where(and_(ThreadMember.thread_id == root_id, ThreadMember.user_id == user_id))
    return or_(Thread.is_private == False, is_member)  # noqa: E712 - SQL


async def is_public(session: AsyncSession, thread_id: int) -> bool:
    """Whether the thread is there, and everybody may read it. That never changes as long as it is there."""
    query = select(Thread.id).where(Thread.id == thread_id, readable(None))
    return (await session.execute(query)).scalar_one_or_none() is not None


async def may_read(session: AsyncSession, *, user_id: int, thread_id: int) -> bool:
    """Whether the thread is there, and this user may read it."""
    query = select(Thread.id).where(Thread.id == thread_id, readable(user_id))
    return (await session.execute(query)).scalar_one_or_none() is not None


async def readable_thread(
    session: AsyncSession, thread_id: int, *, reader: User | None, is_fresh: bool = False
) -> Thread:
    """The thread with its people. Raises NotFound also for one that is not this reader's business.

    With `is_fresh` it is read again, also where the session knows it already.
    """
    query = (
        select(Thread)
        .where(Thread.id == thread_id, readable(None if reader is None else reader.id))
        .options(joinedload(Thread.author), joinedload(Thread.last_message_user))
        .execution_options(populate_existing=is_fresh)
    )
    thread = (await session.execute(query)).scalar_one_or_none()
    if thread is None:
        raise NotFound(f"there is no thread {thread_id}")
    return thread


async def readable_message(
    session: AsyncSession, message_id: int, *, reader: User | None, is_fresh: bool = False
) -> ForumMessage:
    """The message with its people and what it quotes. As `readable_thread` in everything else."""
    query = (
        select(ForumMessage)
        .join(Thread, Thread.id == ForumMessage.thread_id)
        .where(ForumMessage.id == message_id, readable(None if reader is None else reader.id))
        .options(joinedload(ForumMessage.author), joinedload(ForumMessage.reply_to).joinedload(ForumMessage.author))
        .execution_options(populate_existing=is_fresh)
    )
    message = (await session.execute(query)).scalar_one_or_none()
    if message is None:
        raise NotFound(f"there is no message {message_id}")
    return message


async def audience(session: AsyncSession, thread: Thread) -> set[int] | None:
    """The ids of those who may hear of a private thread; None: everybody. Ask it under the thread's lock (locks.py)."""
    if not thread.is_private:
        return None
    query = select(ThreadMember.user_id).where(ThreadMember.thread_id == thread.root_id)
    return set((await session.execute(query)).scalars())


async def family(session: AsyncSession, thread_id: int) -> list[int]:
    """The ids of a thread and of its sub-threads."""
    query = select(Thread.id).where(or_(Thread.id == thread_id, Thread.parent_thread_id == thread_id))
    return list((await session.execute(query)).scalars())


def check_writable(thread: Thread, *, writer: User) -> None:
    """Raises Forbidden where a moderator has closed the thread, and the writer is none."""
    if thread.is_locked and not writer.is_staff:
        because = f": {thread.lock_reason}" if thread.lock_reason else ""
        raise Forbidden(f"this thread is locked{because}", code="thread_locked")

"""Locks for writes: whoever changes a thread, its members, its numbers or a message holds them to the end.

Rows are always locked in the same order, a thread of the index before its sub-threads, and by id; messages are covered
by their thread. SQLite has one writer at a time anyway.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.errors import Conflict, NotFound
from encore.forum.access import readable_message, readable_thread
from encore.forum.models import ForumMessage, Thread

__all__ = ["Hold", "locked_message", "locked_thread", "locked_threads", "reported_message"]

Hold = Literal["change", "members", "existence"]
"""What of a thread nobody else may change meanwhile: anything; its members, and whether it is locked; that it is there.

Only "change" lets the holder change the thread's row. Holders of the others do not wait for one another.
"""


async def locked_thread(
    session: AsyncSession, thread_id: int, *, writer: User, hold: Hold = "change", with_parent: bool = False
) -> Thread:
    """The thread as it is until the end of this write; its parent's members stay as they are as well.

    `with_parent` is for writes that change the parent too. Raises NotFound also for what is not the writer's business,
    and Conflict when the thread was moved while we waited.
    """
    query = select(Thread.id, Thread.parent_thread_id).where(Thread.id == thread_id)
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound(f"there is no thread {thread_id}")
    if found.parent_thread_id is not None:
        above: Hold = "members" if hold == "change" else hold
        await _lock(session, found.parent_thread_id, "change" if with_parent else above)
    await _lock(session, thread_id, hold)
    # What was seen before may have changed while we waited.
    thread = await readable_thread(session, thread_id, reader=writer, is_fresh=True)
    if thread.parent_thread_id != found.parent_thread_id:
        raise Conflict("the thread was moved at this moment: try again")
    return thread


async def locked_threads(session: AsyncSession, thread_ids: set[int], *, writer: User) -> dict[int, Thread]:
    """Several threads, and those that they belong to, by id. Raises as `locked_thread` does."""
    query = select(Thread.id, Thread.parent_thread_id).where(Thread.id.in_(thread_ids))
    found = (await session.execute(query)).all()
    parents = {parent_id for _, parent_id in found if parent_id is not None}
    children = {id for id, parent_id in found if parent_id is not None}
    for id in [*sorted((thread_ids | parents) - children), *sorted(children)]:
        await _lock(session, id, "change")
    threads = {
        id: await readable_thread(session, id, reader=writer, is_fresh=True) for id in sorted(thread_ids | parents)
    }
    if any(threads[id].parent_thread_id != parent_id for id, parent_id in found):
        raise Conflict("a thread was moved at this moment: try again")
    return threads


async def locked_message(
    session: AsyncSession, message_id: int, *, writer: User, hold: Hold = "change"
) -> tuple[ForumMessage, Thread]:
    """A message and its thread, as they are until the end of this write. As `locked_thread` in everything else."""
    seen = await readable_message(session, message_id, reader=writer)
    thread = await locked_thread(session, seen.thread_id, writer=writer, hold=hold)
    message = await readable_message(session, message_id, reader=writer, is_fresh=True)
    if message.thread_id != thread.id:
        raise Conflict("the message was moved at this moment: try again")
    return message, thread


async def reported_message(session: AsyncSession, message_id: int) -> tuple[ForumMessage, Thread] | None:
    """The same whoever may read it: for a moderator to whom it was reported. None when it is gone."""
    query = (
        select(ForumMessage.thread_id, Thread.parent_thread_id)
        .join(Thread, Thread.id == ForumMessage.thread_id)
        .where(ForumMessage.id == message_id)
    )
    found = (await session.execute(query)).one_or_none()
    if found is None:
        return None
    if found.parent_thread_id is not None:
        await _lock(session, found.parent_thread_id, "members")
    await _lock(session, found.thread_id, "change")
    fresh = {"populate_existing": True}
    message = await session.get(ForumMessage, message_id, execution_options=fresh)
    thread = await session.get(Thread, found.thread_id, execution_options=fresh)
    if message is None or thread is None:
        return None
    if message.thread_id != thread.id or thread.parent_thread_id != found.parent_thread_id:
        raise Conflict("the message was moved at this moment: try again")
    return message, thread


async def _lock(session: AsyncSession, thread_id: int, hold: Hold) -> None:
    # FOR NO KEY UPDATE, FOR SHARE, FOR KEY SHARE: rows of other tables that refer to the thread may always be added.
    query = select(Thread.id).where(Thread.id == thread_id)
    await session.execute(query.with_for_update(read=hold != "change", key_share=hold != "members"))

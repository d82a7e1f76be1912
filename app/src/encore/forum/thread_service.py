"""Threads and sub-threads: begun, renamed, read, deleted."""

from __future__ import annotations

import datetime
from collections.abc import Collection

from sqlalchemy import delete, exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import now
from encore.errors import BadRequest, Conflict, Forbidden
from encore.forum import notification_service
from encore.forum.access import audience, check_writable, family, readable_message, readable_thread
from encore.forum.channel import tell_everybody, tell_thread
from encore.forum.listings import item_of
from encore.forum.locks import locked_message, locked_thread
from encore.forum.messages import NewSubThreadCreated, NewThreadCreated, SubThreadCount, ThreadDeleted, ThreadUpdated
from encore.forum.models import ForumMessage, Thread, ThreadMember
from encore.forum.posting import add_message, rendered, set_read
from encore.forum.schemas import MessageItem, ReadState, StartedThread, ThreadItem, ThreadView

__all__ = [
    "check_may_change",
    "count_sub_thread",
    "create_sub_thread",
    "create_thread",
    "delete_thread",
    "fresh_view",
    "mark_read",
    "rename_thread",
    "tell_updated",
]


async def create_thread(
    session: AsyncSession,
    *,
    author: User,
    title: str,
    content: str,
    is_private: bool = False,
    member_ids: Collection[int] = (),
    at: datetime.datetime | None = None,
) -> StartedThread:
    """Begin a thread with its first message; a private one with its author and `member_ids` as members.

    Raises BadRequest for members of a public thread, and for people who do not exist.
    """
    if member_ids and not is_private:
        raise BadRequest("everybody may read this thread: give member_ids only with is_private")
    at, html = at or now(), rendered(content, author=author)
    thread = Thread(title=title, author_id=author.id, is_private=is_private, created_at=at, last_message_at=at)
    _start_counting(thread)
    session.add(thread)
    await session.flush()
    if is_private:
        await _add_members(session, thread, {author.id, *member_ids})
    message = await add_message(session, thread, author=author, content=content, html=html, at=at)
    visible_to = await audience(session, thread)
    view = await fresh_view(session, thread.id, reader=author)
    tell_everybody(session, NewThreadCreated(thread_id=thread.id, thread=view), visible_to=visible_to)
    return await _started(session, thread, message, author=author, visible_to=visible_to)


async def create_sub_thread(
    session: AsyncSession,
    *,
    author: User,
    title: str,
    content: str,
    parent_thread_id: int | None = None,
    parent_message_id: int | None = None,
    at: datetime.datetime | None = None,
) -> StartedThread:
    """Begin a sub-thread of a thread, or of one of its messages. Raises NotFound, Forbidden, BadRequest, Conflict."""
    at, html = at or now(), rendered(content, author=author)
    message: ForumMessage | None = None
    if parent_message_id is not None:
        message, parent = await locked_message(session, parent_message_id, writer=author)
        if message.is_deleted:
            raise Conflict("this message was removed", code="message_removed")
    elif parent_thread_id is not None:
        parent = await locked_thread(session, parent_thread_id, writer=author)
    else:
        raise BadRequest("a sub-thread belongs to a thread or to a message")
    if parent.is_sub_thread:
        raise BadRequest("a sub-thread has no sub-threads: begin one of its parent", code="too_deep")
    check_writable(parent, writer=author)
    sub_thread = Thread(
        title=title,
        author_id=author.id,
        is_sub_thread=True,
        is_private=parent.is_private,
        parent_thread_id=parent.id,
        parent_message_id=parent_message_id,
        created_at=at,
        last_message_at=at,
    )
    _start_counting(sub_thread)
    session.add(sub_thread)
    await session.flush()
    count_sub_thread(parent, message, change=1)
    first = await add_message(session, sub_thread, author=author, content=content, html=html, at=at)
    visible_to = await audience(session, parent)
    view = await fresh_view(session, sub_thread.id, reader=author)
    created = NewSubThreadCreated(thread_id=parent.id, parent_message_id=parent_message_id, sub_thread=view)
    tell_thread(session, parent.id, created, visible_to=visible_to)
    await tell_updated(session, parent, reader=author, visible_to=visible_to, message=message)
    return await _started(session, sub_thread, first, author=author, visible_to=visible_to)


async def rename_thread(session: AsyncSession, *, actor: User, thread_id: int, title: str) -> ThreadItem:
    """Give a thread another title: its author, or a moderator. Raises NotFound and Forbidden."""
    thread = await locked_thread(session, thread_id, writer=actor)
    check_may_change(thread, actor=actor)
    check_writable(thread, writer=actor)
    if thread.title != title:
        thread.title = title
        thread.revision += 1
        await tell_updated(session, thread, reader=actor, visible_to=await audience(session, thread))
    return await item_of(session, thread, reader=actor)


async def delete_thread(session: AsyncSession, *, actor: User, thread_id: int) -> None:
    """Delete a thread with all that is in it, for good: its author, or a moderator. Raises NotFound and Forbidden."""
    thread = await locked_thread(session, thread_id, writer=actor, with_parent=True)
    check_may_change(thread, actor=actor)
    visible_to = await audience(session, thread)
    parent_id, message_id = thread.parent_thread_id, thread.parent_message_id
    await notification_service.on_thread_removed(session, thread_ids=await family(session, thread_id))
    await session.execute(delete(Thread).where(Thread.id == thread_id))
    session.expunge(thread)
    gone = ThreadDeleted(thread_id=thread_id, parent_thread_id=parent_id)
    tell_everybody(session, gone, visible_to=visible_to)
    if parent_id is None:
        return
    parent = await readable_thread(session, parent_id, reader=actor)
    message = None if message_id is None else await readable_message(session, message_id, reader=actor)
    count_sub_thread(parent, message, change=-1)
    await tell_updated(session, parent, reader=actor, visible_to=visible_to, message=message)


async def mark_read(session: AsyncSession, *, reader: User, thread_id: int, number: int | None) -> ReadState:
    """Somebody has read a thread up to a message, or all of it. Never goes back. Raises NotFound."""
    thread = await locked_thread(session, thread_id, writer=reader, hold="existence")
    if number is None or number >= thread.last_number:
        number = thread.last_number
    else:
        behind = exists().where(ForumMessage.thread_id == thread_id, ForumMessage.number > number)
        if not (await session.execute(select(behind))).scalar_one():
            number = thread.last_number  # those behind were moved away
    read = await set_read(session, user_id=reader.id, thread_id=thread_id, number=number)
    return ReadState(thread_id=thread_id, last_read_number=read, unread_count=max(0, thread.last_number - read))


# -- what the other services need too ----------------------------------------------------------------------------------


def check_may_change(thread: Thread, *, actor: User) -> None:
    """Raises Forbidden unless it is the actor's thread, or the actor is a moderator."""
    if thread.author_id != actor.id and not actor.is_staff:
        raise Forbidden("only the one who began a thread, and moderators, may change it")


async def fresh_view(session: AsyncSession, thread_id: int, *, reader: User) -> ThreadView:
    """The thread as it is now, with its people."""
    await session.flush()
    return ThreadView.of(await readable_thread(session, thread_id, reader=reader, is_fresh=True))


async def tell_updated(
    session: AsyncSession,
    thread: Thread,
    *,
    reader: User,
    visible_to: set[int] | None,
    message: ForumMessage | None = None,
    also_on: int | None = None,
) -> None:
    """Announce what a thread is like now; `message` is the one of it whose sub-threads are counted anew.

    `also_on` is another thread whose listeners shall know.
    """
    view = await fresh_view(session, thread.id, reader=reader)
    count = None
    if message is not None:
        count = SubThreadCount(
            message_id=message.id, sub_thread_count=message.sub_thread_count, revision=message.revision
        )
    updated = ThreadUpdated(thread_id=thread.id, thread=view, parent_message=count)
    for topic_id in dict.fromkeys(id for id in (thread.id, also_on) if id is not None):
        tell_thread(session, topic_id, updated, visible_to=visible_to)


def _start_counting(thread: Thread) -> None:
    """The column's defaults come only when it is written."""
    thread.message_count = thread.last_number = 0
    thread.revision = 0


def count_sub_thread(parent: Thread, message: ForumMessage | None, *, change: int) -> None:
    """A thread, which is locked, and perhaps one of its messages, has got or lost a sub-thread."""
    parent.sub_thread_count += change
    parent.revision += 1
    if message is not None:
        message.sub_thread_count += change
        message.revision += 1


async def _add_members(session: AsyncSession, thread: Thread, user_ids: set[int]) -> None:
    known = set((await session.execute(select(User.id).where(User.id.in_(user_ids)))).scalars())
    if known != user_ids:
        raise BadRequest(f"there are no people with these ids: {sorted(user_ids - known)}", code="unknown_member")
    session.add_all(ThreadMember(thread_id=thread.id, user_id=user_id) for user_id in sorted(user_ids))
    await session.flush()


async def _started(
    session: AsyncSession, thread: Thread, message: ForumMessage, *, author: User, visible_to: set[int] | None
) -> StartedThread:
    await notification_service.on_new_thread(
        session,
        author=author,
        thread_id=thread.id,
        title=thread.title,
        message_id=message.id,
        text=message.content,
        visible_to=visible_to,
    )
    thread = await readable_thread(session, thread.id, reader=author, is_fresh=True)
    first = await readable_message(session, message.id, reader=author, is_fresh=True)
    return StartedThread(
        thread=await item_of(session, thread, reader=author), message=MessageItem.for_reader(first, is_liked=False)
    )

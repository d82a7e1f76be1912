"""What moderators do with threads: pin, lock, move."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.errors import BadRequest, Conflict
from encore.forum.access import audience, readable_message, readable_thread
from encore.forum.channel import tell_everybody, tell_thread
from encore.forum.listings import item_of
from encore.forum.locks import locked_thread, locked_threads
from encore.forum.messages import NewSubThreadCreated, NewThreadCreated
from encore.forum.models import ForumMessage, Thread
from encore.forum.schemas import ThreadItem
from encore.forum.thread_service import count_sub_thread, fresh_view, tell_updated

__all__ = ["move_thread", "set_locked", "set_pinned"]


async def set_pinned(session: AsyncSession, *, moderator: User, thread_id: int, is_pinned: bool) -> ThreadItem:
    """Let a thread stand above the others, or no longer. Idempotent. Raises NotFound."""
    thread = await locked_thread(session, thread_id, writer=moderator)
    if thread.is_pinned != is_pinned:
        thread.is_pinned = is_pinned
        await _changed(session, thread, moderator=moderator)
    return await item_of(session, thread, reader=moderator)


async def set_locked(
    session: AsyncSession, *, moderator: User, thread_id: int, is_locked: bool, reason: str = ""
) -> ThreadItem:
    """Let only moderators write in a thread, and say why; or everybody again. Idempotent. Raises NotFound."""
    thread = await locked_thread(session, thread_id, writer=moderator)
    if (thread.is_locked, thread.lock_reason) != (is_locked, reason):
        thread.is_locked, thread.lock_reason = is_locked, reason
        await _changed(session, thread, moderator=moderator)
    return await item_of(session, thread, reader=moderator)


async def _changed(session: AsyncSession, thread: Thread, *, moderator: User) -> None:
    thread.revision += 1
    await tell_updated(session, thread, reader=moderator, visible_to=await audience(session, thread))


async def move_thread(
    session: AsyncSession,
    *,
    moderator: User,
    thread_id: int,
    parent_thread_id: int | None,
    parent_message_id: int | None,
) -> ThreadItem:
    """Let a thread belong to another, or to one of its messages, or to none: then it stands in the index.

    Raises NotFound, BadRequest for what would be a sub-thread of a sub-thread, and Conflict where others could read it.
    """
    thread = await readable_thread(session, thread_id, reader=moderator)
    if parent_message_id is not None:
        place = await readable_message(session, parent_message_id, reader=moderator)
        if parent_thread_id not in (None, place.thread_id):
            raise BadRequest("the message is in another thread")
        parent_thread_id = place.thread_id
    if parent_thread_id == thread_id:
        raise BadRequest("a thread cannot belong to itself")
    old_ids = thread.parent_thread_id, thread.parent_message_id
    wanted = {id for id in (thread_id, parent_thread_id) if id is not None}
    threads = await locked_threads(session, wanted, writer=moderator)
    thread = threads[thread_id]
    parent = None if parent_thread_id is None else threads[parent_thread_id]
    message = await _fresh_message(session, parent_message_id, parent, moderator=moderator)
    if (thread.parent_thread_id, thread.parent_message_id) != old_ids:
        raise Conflict("the thread was moved at this moment: try again")
    _check_move(thread, parent)
    if old_ids != (parent_thread_id, parent_message_id):
        old = None if thread.parent_thread_id is None else threads[thread.parent_thread_id]
        old_message = await _fresh_message(session, thread.parent_message_id, old, moderator=moderator)
        thread.parent_thread_id, thread.parent_message_id = parent_thread_id, parent_message_id
        thread.is_sub_thread = parent is not None
        thread.revision += 1
        for above, at, change in ((old, old_message, -1), (parent, message, 1)):
            if above is not None:
                count_sub_thread(above, at, change=change)
        await _tell_moved(session, thread, (old, old_message), (parent, message), moderator=moderator)
    return await item_of(session, thread, reader=moderator)


def _check_move(thread: Thread, parent: Thread | None) -> None:
    if parent is not None and (parent.is_sub_thread or thread.sub_thread_count):
        raise BadRequest("a sub-thread has no sub-threads", code="too_deep")
    is_private = thread.is_private or (parent is not None and parent.is_private)
    if is_private and (parent is None or parent.id != thread.root_id):
        raise Conflict("a private thread stays where its members are", code="other_readers")


async def _fresh_message(
    session: AsyncSession, message_id: int | None, thread: Thread | None, *, moderator: User
) -> ForumMessage | None:
    if message_id is None or thread is None:
        return None
    message = await readable_message(session, message_id, reader=moderator, is_fresh=True)
    if message.thread_id != thread.id:
        raise Conflict("the message was moved at this moment: try again")
    return message


Place = tuple[Thread | None, ForumMessage | None]


async def _tell_moved(session: AsyncSession, thread: Thread, old: Place, new: Place, *, moderator: User) -> None:
    """To those who read it; to those who read what it belonged to; and to those who see it come."""
    visible_to = await audience(session, thread)
    (left, left_message), (parent, message) = old, new
    await tell_updated(
        session,
        thread,
        reader=moderator,
        visible_to=visible_to,
        also_on=None if left is None else left.id,
    )
    view = await fresh_view(session, thread.id, reader=moderator)
    if parent is None:
        tell_everybody(session, NewThreadCreated(thread_id=thread.id, thread=view), visible_to=visible_to)
    else:
        created = NewSubThreadCreated(thread_id=parent.id, parent_message_id=thread.parent_message_id, sub_thread=view)
        tell_thread(session, parent.id, created, visible_to=visible_to)
    for above, at in ((left, left_message), (parent, message)):
        if above is not None:
            await tell_updated(session, above, reader=moderator, visible_to=visible_to, message=at)

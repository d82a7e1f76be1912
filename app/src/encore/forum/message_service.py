"""Messages: written, changed, removed, moved."""

from __future__ import annotations

import datetime

from sqlalchemy import delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import now
from encore.errors import BadRequest, Conflict, Forbidden
from encore.forum import notification_service
from encore.forum.access import audience, check_writable, readable_message
from encore.forum.channel import tell_thread
from encore.forum.listings import message_item
from encore.forum.locks import locked_message, locked_thread, locked_threads
from encore.forum.messages import MessageDeleted, MessageEdited, NewMessage
from encore.forum.models import ForumMessage, Like, MessageEdit, Thread
from encore.forum.posting import add_message, rendered
from encore.forum.schemas import MessageItem, MessageView
from encore.forum.thread_service import tell_updated

__all__ = ["delete_message", "edit_message", "move_message", "post_message", "remove"]


async def post_message(
    session: AsyncSession,
    *,
    author: User,
    thread_id: int,
    content: str,
    reply_to_id: int | None = None,
    at: datetime.datetime | None = None,
) -> MessageItem:
    """Write in a thread. Raises NotFound, Forbidden where it is locked, BadRequest for a reply to what is not there."""
    html = rendered(content, author=author)
    thread = await locked_thread(session, thread_id, writer=author)
    check_writable(thread, writer=author)
    quoted = await _quoted(session, thread, reply_to_id)
    new = await add_message(session, thread, author=author, content=content, html=html, reply_to_id=reply_to_id, at=at)
    visible_to = await audience(session, thread)
    message = await readable_message(session, new.id, reader=author, is_fresh=True)
    await _tell_new(session, thread, message, visible_to=visible_to)
    await notification_service.on_new_message(
        session,
        author=author,
        thread_id=thread.id,
        title=thread.title,
        message_id=message.id,
        text=content,
        reply_to_user_id=None if quoted is None else quoted.author_id,
        visible_to=visible_to,
    )
    return MessageItem.for_reader(message, is_liked=False)


async def edit_message(session: AsyncSession, *, editor: User, message_id: int, content: str) -> MessageItem:
    """Let a message say something else; what it said goes into its history. Its author only.

    Raises NotFound, Forbidden, Conflict when it was removed, and BadRequest.
    """
    html = rendered(content, author=editor)
    message, thread = await locked_message(session, message_id, writer=editor)
    if message.author_id != editor.id:
        raise Forbidden("only its author may edit a message")
    if message.is_deleted:
        raise Conflict("this message was removed", code="message_removed")
    check_writable(thread, writer=editor)
    if message.content != content:
        await _change(session, message, thread, editor=editor, content=content, html=html)
    return await message_item(session, message, reader=editor)


async def _change(
    session: AsyncSession, message: ForumMessage, thread: Thread, *, editor: User, content: str, html: str
) -> None:
    old, at = message.content, now()
    kept = MessageEdit(message_id=message.id, content=old, content_html=message.content_html, replaced_at=at)
    session.add(kept)
    message.content, message.content_html, message.edited_at = content, html, at
    message.revision += 1
    await session.flush()
    visible_to = await audience(session, thread)
    edited = MessageEdited(
        thread_id=thread.id,
        message_id=message.id,
        content=content,
        content_html=html,
        edited_at=at,
        revision=message.revision,
    )
    tell_thread(session, thread.id, edited, visible_to=visible_to)
    await notification_service.on_edit(
        session,
        author=editor,
        thread_id=thread.id,
        title=thread.title,
        message_id=message.id,
        old_text=old,
        new_text=content,
        visible_to=visible_to,
    )


async def delete_message(session: AsyncSession, *, actor: User, message_id: int) -> None:
    """Remove a message: its text, history and likes go, its place stays. Its author, and moderators.

    Does nothing when that has happened. Raises NotFound and Forbidden.
    """
    message, thread = await locked_message(session, message_id, writer=actor)
    if message.author_id != actor.id and not actor.is_staff:
        raise Forbidden("only its author, and moderators, may remove a message")
    await remove(session, message, thread, remover=actor)


async def remove(session: AsyncSession, message: ForumMessage, thread: Thread, *, remover: User) -> None:
    """Remove a message whose thread is locked by this write. Idempotent."""
    if message.is_deleted:
        return
    message.content = message.content_html = ""
    message.edited_at, message.like_count = None, 0
    message.deleted_at, message.deleted_by_id = now(), remover.id
    message.revision += 1
    await session.execute(delete(MessageEdit).where(MessageEdit.message_id == message.id))
    await session.execute(delete(Like).where(Like.message_id == message.id))
    await notification_service.on_removed(session, message_ids=[message.id])
    gone = MessageDeleted(thread_id=thread.id, message_id=message.id, revision=message.revision)
    tell_thread(session, thread.id, gone, visible_to=await audience(session, thread))


async def move_message(session: AsyncSession, *, actor: User, message_id: int, thread_id: int) -> MessageItem:
    """Move a message to the end of another thread with the same readers. For moderators.

    Raises NotFound, BadRequest for the thread where it is, and Conflict where others could read it there, when it was
    removed, or has sub-threads.
    """
    seen = await readable_message(session, message_id, reader=actor)
    if seen.thread_id == thread_id:
        raise BadRequest("the message is in this thread already")
    source_id = seen.thread_id
    threads = await locked_threads(session, {source_id, thread_id}, writer=actor)
    message = await readable_message(session, message_id, reader=actor, is_fresh=True)
    if message.thread_id != source_id:
        raise Conflict("the message was moved at this moment: try again")
    source, target = threads[source_id], threads[thread_id]
    if (source.is_private or target.is_private) and source.root_id != target.root_id:
        raise Conflict("a private thread's messages stay within it", code="other_readers")
    if message.is_deleted:
        raise Conflict("this message was removed", code="message_removed")
    if (await session.execute(select(exists().where(Thread.parent_message_id == message.id)))).scalar_one():
        raise Conflict("the message has sub-threads: move those first", code="has_sub_threads")
    await _put(session, message, source=source, target=target)
    visible_to = await audience(session, target)
    message = await readable_message(session, message.id, reader=actor, is_fresh=True)
    moved = MessageDeleted(thread_id=source.id, message_id=message.id, is_moved=True, revision=message.revision)
    tell_thread(session, source.id, moved, visible_to=visible_to)
    await tell_updated(session, source, reader=actor, visible_to=visible_to)
    await _tell_new(session, target, message, visible_to=visible_to)
    await tell_updated(session, target, reader=actor, visible_to=visible_to)
    return await message_item(session, message, reader=actor)


async def _put(session: AsyncSession, message: ForumMessage, *, source: Thread, target: Thread) -> None:
    """Take a message from the thread where it is to the end of another."""
    target.last_number += 1
    message.thread_id, message.number = target.id, target.last_number
    message.revision += 1
    for thread, change in ((source, -1), (target, 1)):
        thread.message_count += change
        thread.revision += 1
    if message.created_at > target.last_message_at:
        target.last_message_at, target.last_message_user_id = message.created_at, message.author_id
    await session.flush()
    # Quotations end where the messages part: neither shows anything of the other any more.
    parted = update(ForumMessage).where((ForumMessage.reply_to_id == message.id) | (ForumMessage.id == message.id))
    await session.execute(parted.values(reply_to_id=None).execution_options(synchronize_session=False))
    query = select(ForumMessage.created_at, ForumMessage.author_id).where(ForumMessage.thread_id == source.id)
    last = (await session.execute(query.order_by(ForumMessage.number.desc()).limit(1))).one_or_none()
    source.last_message_at, source.last_message_user_id = (source.created_at, None) if last is None else last
    await session.flush()


async def _quoted(session: AsyncSession, thread: Thread, reply_to_id: int | None) -> ForumMessage | None:
    if reply_to_id is None:
        return None
    query = select(ForumMessage).where(ForumMessage.id == reply_to_id, ForumMessage.thread_id == thread.id)
    quoted = (await session.execute(query)).scalar_one_or_none()
    if quoted is None or quoted.is_deleted:
        raise BadRequest(f"there is no message {reply_to_id} in this thread to reply to", code="bad_reply")
    return quoted


async def _tell_new(
    session: AsyncSession, thread: Thread, message: ForumMessage, *, visible_to: set[int] | None
) -> None:
    new = NewMessage(
        thread_id=thread.id,
        message=MessageView.of(message),
        message_count=thread.message_count,
        thread_revision=thread.revision,
    )
    tell_thread(session, thread.id, new, visible_to=visible_to)

"""Likes: at most one of each person for a message, counted right however many like it at once."""

from __future__ import annotations

from sqlalchemy import delete, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.errors import Conflict
from encore.forum import notification_service
from encore.forum.access import audience
from encore.forum.channel import tell_thread
from encore.forum.locks import locked_message
from encore.forum.messages import MessageLiked, MessageUnliked
from encore.forum.models import ForumMessage, Like
from encore.forum.notification_upsert import inserting
from encore.forum.schemas import Liked

__all__ = ["like_message", "unlike_message"]


async def like_message(session: AsyncSession, *, liker: User, message_id: int) -> Liked:
    """Like a message; nothing happens the second time. Raises NotFound, and Conflict when it was removed."""
    message, thread = await locked_message(session, message_id, writer=liker, hold="members")
    if message.is_deleted:
        raise Conflict("this message was removed", code="message_removed")
    statement = inserting(session, Like).values(message_id=message_id, user_id=liker.id).on_conflict_do_nothing()
    if (await session.execute(statement.returning(Like.id))).scalar_one_or_none() is None:
        return _unchanged(message, is_liked=True)
    count, revision = await _count(session, message_id, change=1)
    visible_to = await audience(session, thread)
    liked = MessageLiked(
        thread_id=thread.id, message_id=message_id, like_count=count, liked_by_user_id=liker.id, revision=revision
    )
    tell_thread(session, thread.id, liked, visible_to=visible_to)
    if message.author_id != liker.id:
        await notification_service.on_like(
            session,
            liker=liker,
            message_id=message_id,
            author_id=message.author_id,
            thread_id=thread.id,
            title=thread.title,
            visible_to=visible_to,
        )
    return Liked(message_id=message_id, like_count=count, is_liked=True, revision=revision)


async def unlike_message(session: AsyncSession, *, liker: User, message_id: int) -> Liked:
    """Take a like back, if there is one. Raises NotFound."""
    message, thread = await locked_message(session, message_id, writer=liker, hold="members")
    statement = delete(Like).where(Like.message_id == message_id, Like.user_id == liker.id)
    if (await session.execute(statement.returning(Like.id))).scalar_one_or_none() is None:
        return _unchanged(message, is_liked=False)
    count, revision = await _count(session, message_id, change=-1)
    unliked = MessageUnliked(
        thread_id=thread.id, message_id=message_id, like_count=count, unliked_by_user_id=liker.id, revision=revision
    )
    tell_thread(session, thread.id, unliked, visible_to=await audience(session, thread))
    return Liked(message_id=message_id, like_count=count, is_liked=False, revision=revision)


def _unchanged(message: ForumMessage, *, is_liked: bool) -> Liked:
    return Liked(message_id=message.id, like_count=message.like_count, is_liked=is_liked, revision=message.revision)


async def _count(session: AsyncSession, message_id: int, *, change: int) -> tuple[int, int]:
    """Count in the database, where several do at once. Returns the count and the revision."""
    statement = (
        update(ForumMessage)
        .where(ForumMessage.id == message_id)
        .values(like_count=ForumMessage.like_count + change, revision=ForumMessage.revision + 1)
        .returning(ForumMessage.like_count, ForumMessage.revision)
        .execution_options(synchronize_session=False)
    )
    count, revision = (await session.execute(statement)).one()
    return count, revision

"""What is done with comments: written, edited, deleted, listed."""

from __future__ import annotations

import datetime
from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.catalogue.models import Track
from encore.catalogue.service import set_comments_closed, track_for_comments
from encore.comments.channel import manager, topic_of
from encore.comments.messages import CommentDeleted, CommentEdited, CommentsClosed, Mention, NewComment, Sender
from encore.comments.models import Comment
from encore.comments.schemas import CommentData
from encore.db import now
from encore.errors import BadRequest, Conflict, Forbidden, NotFound, TooManyRequests
from encore.live import announce
from encore.pagination import read_cursor
from encore.text.mentions import find_mentions

__all__ = ["Listed", "close", "comments_page", "create", "edit", "remove"]

Listed = tuple[Comment, str, str]
"""A comment, and its author's username and display name."""

A_MINUTE = datetime.timedelta(minutes=1)
PER_MINUTE = 60
SLACK_S = 1.0
"""Players round: a comment may lie this much behind the end."""


async def create(
    session: AsyncSession, author: User, *, track_id: int, content: str, at_s: float, parent_id: int | None
) -> CommentData:
    """Write a comment, and tell who listens to the track, whom it names, and whose track it is.

    Raises NotFound for the track or the parent, Conflict when its comments are closed, BadRequest for a moment that the
    track does not have, TooManyRequests above 60 a minute.
    """
    track = await _track(session, track_id, stays=True)
    if track.comments_closed and not author.is_staff:
        raise Conflict("comments on this track are closed", code="comments_closed")
    if at_s > track.duration_s + SLACK_S:
        raise BadRequest(
            f"timestamp= lies behind the end of the track, at {track.duration_s:.1f} s", code="bad_timestamp"
        )
    await _check_pace(session, author)
    parent = None if parent_id is None else await _parent(session, track_id, parent_id)
    comment = Comment(
        track_id=track_id,
        user_id=author.id,
        parent_id=None if parent is None else parent.parent_id or parent.id,
        content=content,
        at_s=min(at_s, track.duration_s),
    )
    session.add(comment)
    await session.flush()
    data = CommentData.of(comment, username=author.username, display_name=author.display_name)
    announce(session, manager, NewComment(track_id=track_id, comment=data), topic=topic_of(track_id))
    creators = {track.creator_id} if track.album is None else {track.creator_id, track.album.creator_id}
    await _mention(session, author, data, names=find_mentions(content), others=creators)
    return data


async def edit(session: AsyncSession, user: User, *, comment_id: int, content: str) -> CommentData:
    """Change one's own comment; who is named only now is told. Raises NotFound, and Forbidden for somebody else's."""
    comment = await session.get(Comment, comment_id)
    if comment is None:
        raise NotFound(f"there is no comment {comment_id}")
    if comment.user_id != user.id:
        raise Forbidden("only its author edits a comment")
    before, at = comment.content, now()
    change = update(Comment).where(Comment.id == comment_id).values(content=content, last_edited_at=at)
    if (await session.execute(change.returning(Comment.id))).scalar_one_or_none() is None:
        raise NotFound(f"there is no comment {comment_id}")
    await session.refresh(comment)
    message = CommentEdited(
        track_id=comment.track_id,
        comment_id=comment_id,
        content=content,
        timestamp=comment.at_s,
        is_edited=True,
        last_edited_at=at,
    )
    announce(session, manager, message, topic=topic_of(comment.track_id))
    data = CommentData.of(comment, username=user.username, display_name=user.display_name)
    known = set(find_mentions(before))
    await _mention(session, user, data, names=[name for name in find_mentions(content) if name not in known])
    return data


async def remove(session: AsyncSession, user: User, *, comment_id: int) -> None:
    """Delete a comment: one's own, or anybody's for creators, the team and admins. Raises NotFound and Forbidden."""
    comment = await session.get(Comment, comment_id)
    if comment is None:
        raise NotFound(f"there is no comment {comment_id}")
    if comment.user_id != user.id and not user.is_staff:
        raise Forbidden("only its author, creators, the team and admins delete a comment")
    gone = await session.execute(delete(Comment).where(Comment.id == comment_id).returning(Comment.id))
    if gone.scalar_one_or_none() is None:
        raise NotFound(f"there is no comment {comment_id}")  # somebody else was quicker
    message = CommentDeleted(track_id=comment.track_id, comment_id=comment_id)
    announce(session, manager, message, topic=topic_of(comment.track_id))


async def close(session: AsyncSession, user: User, *, track_id: int, closed: bool) -> None:
    """Close or open a track's comments: its creator, the team and admins. Raises NotFound and Forbidden. Idempotent."""
    track = await _track(session, track_id)
    if track.creator_id != user.id and not (user.is_team or user.is_admin):
        raise Forbidden("only the track's creator, the team and admins close its comments")
    if await set_comments_closed(session, track_id, closed=closed):
        message = CommentsClosed(track_id=track_id, closed=closed)
        announce(session, manager, message, topic=topic_of(track_id))


async def comments_page(
    session: AsyncSession,
    track_id: int,
    *,
    order: str,
    from_s: float,
    to_s: float | None,
    limit: int,
    cursor: str | None,
) -> Sequence[Listed]:
    """One more than a page of a track's comments: as they come in the track, or the newest first. Raises NotFound."""
    await _track(session, track_id)
    query = select(Comment, User.username, User.display_name).join(User, User.id == Comment.user_id)
    query = query.where(Comment.track_id == track_id)
    if from_s > 0:
        query = query.where(Comment.at_s >= from_s)
    if to_s is not None:
        query = query.where(Comment.at_s < to_s)
    if order == "newest":
        key = read_cursor(cursor, int)
        if key is not None:
            query = query.where(Comment.id < key[0])
        query = query.order_by(Comment.id.desc())
    else:
        key = read_cursor(cursor, float, int)
        if key is not None:
            query = query.where(tuple_(Comment.at_s, Comment.id) > tuple_(key[0], key[1]))
        query = query.order_by(Comment.at_s, Comment.id)
    return [(row[0], row[1], row[2]) for row in await session.execute(query.limit(limit + 1))]


async def _track(session: AsyncSession, track_id: int, *, stays: bool = False) -> Track:
    track = await track_for_comments(session, track_id, stays=stays)
    if track is None:
        raise NotFound(f"there is no track {track_id}")
    return track


async def _parent(session: AsyncSession, track_id: int, parent_id: int) -> Comment:
    # Locked: nobody deletes it before the reply, which names it, is there.
    parent = await session.get(Comment, parent_id, with_for_update={"read": True, "key_share": True})
    if parent is None or parent.track_id != track_id:
        raise NotFound(f"there is no comment {parent_id} on this track to reply to")
    return parent


async def _check_pace(session: AsyncSession, author: User) -> None:
    lately = select(func.count()).where(Comment.user_id == author.id, Comment.created_at > now() - A_MINUTE)
    if (await session.scalars(lately)).one() >= PER_MINUTE:
        raise TooManyRequests(f"at most {PER_MINUTE} comments a minute", retry_after_s=10)


async def _mention(
    session: AsyncSession,
    author: User,
    data: CommentData,
    *,
    names: Sequence[str],
    others: set[int] | None = None,
) -> None:
    """Tell those whom a comment names, and the others whom it concerns: each once, and never its author."""
    named = await session.scalars(select(User.id).where(User.username_key.in_(names))) if names else ()
    user_ids = (set(named) | (others or set())) - {author.id}
    if user_ids:
        sender = Sender(id=author.id, username=author.username, display_name=author.display_name or author.username)
        message = Mention(track_id=data.track_id, comment=data, from_user=sender)
        announce(session, manager, message, target_user_ids=map(str, sorted(user_ids)))

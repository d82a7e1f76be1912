"""Following threads: a notification for every new message in them."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.forum.access import readable, readable_thread
from encore.forum.models import Thread
from encore.forum.notification_models import Follow
from encore.forum.notification_schemas import FollowItem
from encore.forum.notification_upsert import inserting
from encore.pagination import Page, cut, read_cursor

__all__ = ["follow", "followed", "follows", "unfollow"]


async def follow(session: AsyncSession, thread_id: int, *, user: User) -> None:
    """Follow a thread; more than once does no harm. Raises NotFound for one that is not this user's business."""
    await readable_thread(session, thread_id, reader=user)
    statement = inserting(session, Follow).values(user_id=user.id, thread_id=thread_id)
    await session.execute(statement.on_conflict_do_nothing())


async def unfollow(session: AsyncSession, thread_id: int, *, user: User) -> None:
    """Follow it no more, which one may also do with a thread that one may not read any more. Raises nothing."""
    await session.execute(
        delete(Follow)
        .where(Follow.user_id == user.id, Follow.thread_id == thread_id)
        .execution_options(synchronize_session=False)
    )


async def followed(session: AsyncSession, *, user_id: int, thread_ids: Collection[int]) -> set[int]:
    """Which of these threads somebody follows."""
    query = select(Follow.thread_id).where(Follow.user_id == user_id, Follow.thread_id.in_(thread_ids))
    return set((await session.execute(query)).scalars())


async def follows(session: AsyncSession, *, user: User, limit: int, cursor: str | None) -> Page[FollowItem]:
    """The threads that somebody follows, the newest threads first. Raises BadRequest for a cursor that is none."""
    query = (
        select(Follow.thread_id, Thread.title, Follow.created_at)
        .join(Thread, Thread.id == Follow.thread_id)
        .where(Follow.user_id == user.id, readable(user.id))
        .order_by(Follow.thread_id.desc())
        .limit(limit + 1)
    )
    key = read_cursor(cursor, int)
    if key is not None:
        query = query.where(Follow.thread_id < key[0])
    rows, next_cursor = cut((await session.execute(query)).all(), limit=limit, key=lambda row: [row.thread_id])
    items = [FollowItem(thread_id=row.thread_id, title=row.title, followed_at=row.created_at) for row in rows]
    return Page(items=items, next_cursor=next_cursor)

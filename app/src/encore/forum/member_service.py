"""Members of private threads: who may read them, and how that begins and ends."""

from __future__ import annotations

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import User
from encore.db import now
from encore.errors import BadRequest, Conflict, NotFound
from encore.forum import notification_service
from encore.forum.access import family, readable_thread
from encore.forum.bodies import MOST_MEMBERS
from encore.forum.channel import tell_everybody
from encore.forum.locks import locked_thread
from encore.forum.messages import NewThreadCreated, Unsubscribed
from encore.forum.models import ReadPosition, Thread, ThreadMember
from encore.forum.notification_upsert import inserting
from encore.forum.schemas import MemberItem
from encore.forum.thread_service import check_may_change, fresh_view
from encore.pagination import Page, cut, read_cursor

__all__ = ["add_member", "get_member", "list_members", "remove_member"]


async def list_members(
    session: AsyncSession, *, reader: User, thread_id: int, limit: int, cursor: str | None
) -> Page[MemberItem]:
    """Who may read a private thread. Raises NotFound, BadRequest for a sub-thread, and Conflict for a public one."""
    key = read_cursor(cursor, int)
    thread = await readable_thread(session, thread_id, reader=reader)
    _check_has_members(thread)
    query = (
        select(ThreadMember)
        .where(ThreadMember.thread_id == thread_id)
        .options(joinedload(ThreadMember.user))
        .order_by(ThreadMember.user_id)
        .limit(limit + 1)
    )
    if key is not None:
        query = query.where(ThreadMember.user_id > key[0])
    rows = (await session.execute(query)).scalars().all()
    shown, next_cursor = cut(rows, limit=limit, key=lambda row: [row.user_id])
    return Page(items=[_item(member, thread) for member in shown], next_cursor=next_cursor)


async def get_member(session: AsyncSession, *, reader: User, thread_id: int, user_id: int) -> MemberItem:
    """One who may read a private thread. Raises as `list_members` does, and NotFound for who may not."""
    thread = await readable_thread(session, thread_id, reader=reader)
    _check_has_members(thread)
    return await _member(session, thread, user_id)


async def add_member(session: AsyncSession, *, actor: User, thread_id: int, user_id: int) -> MemberItem:
    """Let somebody read a private thread; its author, and moderators among its members. Idempotent.

    Raises NotFound, Forbidden, BadRequest for a sub-thread, and Conflict for a public thread, and when there are 200.
    """
    thread = await locked_thread(session, thread_id, writer=actor)
    _check_has_members(thread)
    check_may_change(thread, actor=actor)
    if (await session.execute(select(User.id).where(User.id == user_id))).scalar_one_or_none() is None:
        raise NotFound(f"there is nobody with the id {user_id}")
    statement = inserting(session, ThreadMember).values(thread_id=thread_id, user_id=user_id, added_at=now())
    added = await session.execute(statement.on_conflict_do_nothing().returning(ThreadMember.user_id))
    if added.scalar_one_or_none() is not None:
        query = select(func.count()).select_from(ThreadMember).where(ThreadMember.thread_id == thread_id)
        if (await session.execute(query)).scalar_one() > MOST_MEMBERS:
            raise Conflict(f"a private thread has at most {MOST_MEMBERS} members", code="too_many_members")
        view = await fresh_view(session, thread_id, reader=actor)
        tell_everybody(session, NewThreadCreated(thread_id=thread_id, thread=view), visible_to={user_id})
    return await _member(session, thread, user_id)


async def remove_member(session: AsyncSession, *, actor: User, thread_id: int, user_id: int) -> None:
    """Take a private thread away from somebody, on all their sockets at once; or leave it oneself.

    What was written before may still be on its way to them; of what is written afterwards they hear nothing.
    Raises NotFound, Forbidden, BadRequest for a sub-thread, and Conflict for a public thread and for the author.
    """
    thread = await locked_thread(session, thread_id, writer=actor)
    _check_has_members(thread)
    if user_id != actor.id:
        check_may_change(thread, actor=actor)
    if user_id == thread.author_id:
        raise Conflict("the one who began a thread stays in it: delete the thread instead", code="is_author")
    statement = delete(ThreadMember).where(ThreadMember.thread_id == thread_id, ThreadMember.user_id == user_id)
    if (await session.execute(statement.returning(ThreadMember.user_id))).scalar_one_or_none() is None:
        raise NotFound(f"{user_id} is no member of this thread")
    thread_ids = await family(session, thread_id)
    positions = delete(ReadPosition).where(ReadPosition.user_id == user_id, ReadPosition.thread_id.in_(thread_ids))
    await session.execute(positions.execution_options(synchronize_session=False))
    await notification_service.on_access_lost(session, user_id=user_id, thread_id=thread_id)
    # To all their sockets, not only to those that hear the topic: the page of all threads shows it no longer either.
    tell_everybody(session, Unsubscribed(thread_id=thread_id, reason="access_lost"), visible_to={user_id})


def _check_has_members(thread: Thread) -> None:
    if thread.parent_thread_id is not None:
        raise BadRequest(f"a sub-thread has the members of thread {thread.parent_thread_id}", code="sub_thread")
    if not thread.is_private:
        raise Conflict("everybody may read this thread", code="public_thread")


async def _member(session: AsyncSession, thread: Thread, user_id: int) -> MemberItem:
    query = select(ThreadMember).where(ThreadMember.thread_id == thread.id, ThreadMember.user_id == user_id)
    member = (await session.execute(query.options(joinedload(ThreadMember.user)))).scalar_one_or_none()
    if member is None:
        raise NotFound(f"{user_id} is no member of this thread")
    return _item(member, thread)


def _item(member: ThreadMember, thread: Thread) -> MemberItem:
    user = member.user
    return MemberItem(
        user_id=user.id,
        username=user.username,
        display_name=user.display_name,
        at=member.added_at,
        is_author=user.id == thread.author_id,
    )

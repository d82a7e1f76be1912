"""Whom one may mention: the names that begin with what was typed."""

from __future__ import annotations

from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.forum.access import readable_thread
from encore.forum.models import ThreadMember
from encore.forum.notification_schemas import Person

__all__ = ["completions"]

MOST = 10
BEHIND_ALL_NAMES = "\x7f"
"""Greater than every character of a username."""


async def completions(session: AsyncSession, prefix: str, *, asker: User, thread_id: int | None) -> list[Person]:
    """At most ten people whose usernames begin so, by name; with a thread only those who may read it.

    It goes along the index of the names. Raises NotFound for a thread that is not the asker's business.
    """
    start = prefix.lower()
    query = (
        select(User.id, User.username, User.display_name)
        .where(User.username_key >= start, User.username_key < start + BEHIND_ALL_NAMES, User.is_banned.is_(False))
        .order_by(User.username_key)
        .limit(MOST)
    )
    if thread_id is not None:
        thread = await readable_thread(session, thread_id, reader=asker)
        if thread.is_private:
            query = query.where(
                exists().where(ThreadMember.thread_id == thread.root_id, ThreadMember.user_id == User.id)
            )
    rows = await session.execute(query)
    return [Person(user_id=row.id, username=row.username, display_name=row.display_name) for row in rows]

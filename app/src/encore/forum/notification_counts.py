"""The numbers of unread notifications: who changes them, and how every tab of a user learns the right one.

Two changes of one user's notifications take turns at a row of the database, in the same order everywhere, and number
themselves by it. So a count is exact, and of two that arrive in the wrong order the one with the higher version holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from sqlalchemy import Select, and_, func, literal, select, true, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.db import BigId
from encore.forum.channel import manager
from encore.forum.notification_messages import ForumNotificationCount
from encore.forum.notification_models import NotificationVersion, Recipient
from encore.forum.notification_upsert import inserting
from encore.live import announce

__all__ = ["NEWEST_IDS", "Held", "batches", "hold", "hold_one", "tell_counts", "unread_of"]

BATCH = 5_000
"""Users whom one statement or one message names."""
NEWEST_IDS = 500
"""Ids of read or removed notifications that a message lists: more than any page shows."""


@dataclass(frozen=True, slots=True)
class Held:
    """Users whose notifications nobody else changes until the commit."""

    user_ids: Sequence[int]
    version: int


async def hold(session: AsyncSession, user_ids: Select[int]) -> Held:
    """Wait for one's turn at the notifications of these users, and give the next state of them its number."""
    column = user_ids.distinct().subquery().c[0]
    # In the order of the ids, here and below, so that two writers never wait for one another.
    missing = select(column, literal(0, BigId)).where(true()).order_by(column)
    statement = inserting(session, NotificationVersion).from_select(["user_id", "version"], missing)
    await session.execute(statement.on_conflict_do_nothing())
    rows = await session.execute(
        select(NotificationVersion.user_id, NotificationVersion.version)
        .where(NotificationVersion.user_id.in_(select(column)))
        .order_by(NotificationVersion.user_id)
        .with_for_update(key_share=True)
    )
    found = rows.all()
    version = 1 + max((row.version for row in found), default=0)
    held = Held([row.user_id for row in found], version)
    for batch in batches(held.user_ids):
        await session.execute(
            update(NotificationVersion)
            .where(NotificationVersion.user_id.in_(batch))
            .values(version=version)
            .execution_options(synchronize_session=False)
        )
    return held


async def hold_one(session: AsyncSession, user_id: int) -> Held:
    """The same for one user."""
    return await hold(session, select(literal(user_id, BigId)))


async def tell_counts(
    session: AsyncSession, held: Held, *, read_ids: Collection[int] = (), removed_ids: Collection[int] = ()
) -> None:
    """Announce to each of these users the count as it is now, once the session is committed.

    Those with the same count get the same message, so that ten thousand cost a few. The ids say which notifications
    were read or are gone; some of them may be none of the user's.
    """
    users_by_count: defaultdict[int, list[int]] = defaultdict(list)
    for batch in batches(held.user_ids):
        rows = await session.execute(
            select(NotificationVersion.user_id, func.count(Recipient.notification_id))
            .outerjoin(Recipient, and_(Recipient.user_id == NotificationVersion.user_id, Recipient.read_at.is_(None)))
            .where(NotificationVersion.user_id.in_(batch))
            .group_by(NotificationVersion.user_id)
        )
        for user_id, count in rows:
            users_by_count[count].append(user_id)
    for count, user_ids in sorted(users_by_count.items()):
        message = ForumNotificationCount(
            count=count, version=held.version, read_ids=_newest(read_ids), removed_ids=_newest(removed_ids)
        )
        for batch in batches(user_ids):
            announce(session, manager, message, target_user_ids=map(str, batch))


async def unread_of(session: AsyncSession, user_id: int) -> tuple[int, int]:
    """How many are unread, and the version of that state."""
    count = (
        select(func.count())
        .select_from(Recipient)
        .where(Recipient.user_id == user_id, Recipient.read_at.is_(None))
        .scalar_subquery()
    )
    version = select(NotificationVersion.version).where(NotificationVersion.user_id == user_id).scalar_subquery()
    row = (await session.execute(select(count, func.coalesce(version, 0)))).one()
    return row[0], row[1]


def batches(user_ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """The users in groups of at most 5,000."""
    return (user_ids[start : start + BATCH] for start in range(0, len(user_ids), BATCH))


def _newest(ids: Collection[int]) -> list[int]:
    return sorted(ids, reverse=True)[:NEWEST_IDS]

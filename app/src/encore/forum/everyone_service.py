"""The switch for @everyone, which an admin turns off in an emergency."""

from __future__ import annotations

import datetime

from pydantic import BaseModel, Field
from sqlalchemy import exists, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import now
from encore.forum.access import audience, readable_thread
from encore.forum.channel import manager
from encore.forum.notification_messages import EveryoneMentionDisabled, EveryoneMentionEnabled
from encore.forum.notification_models import EveryoneSwitch, NotificationPreferences
from encore.live import ServerMessage, announce

__all__ = ["EveryoneState", "may_tell_everyone", "state", "switch"]

THE_ROW = 1


class EveryoneState(BaseModel):
    """Whether @everyone notifies anybody, and since when."""

    enabled: bool
    reason: str = Field(description="Why it is off; empty without one, and while it is on")
    changed_at: datetime.datetime
    may_use: bool = Field(description="Whether the one who asks may use it, while it is on")
    reach: int | None = Field(description="How many people it would notify; null for those who may not use it")


async def may_tell_everyone(session: AsyncSession, author: User) -> bool:
    """Whether an @everyone of this author counts. Until the commit nobody turns the switch."""
    if not author.is_staff:
        return False
    query = select(EveryoneSwitch.is_on).where(EveryoneSwitch.id == THE_ROW).with_for_update(read=True)
    return (await session.execute(query)).scalar_one()


async def state(session: AsyncSession, *, reader: User, thread_id: int | None = None) -> EveryoneState:
    """How the switch stands, and whom an @everyone would reach now, in this thread or in a public one.

    Raises NotFound for a thread that is not the reader's business.
    """
    thread = None if thread_id is None else await readable_thread(session, thread_id, reader=reader)
    visible_to = None if thread is None else await audience(session, thread)
    row = (await session.execute(select(EveryoneSwitch).where(EveryoneSwitch.id == THE_ROW))).scalar_one()
    return await _shown(session, row, reader, visible_to)


async def switch(session: AsyncSession, *, admin: User, on: bool, reason: str = "") -> EveryoneState:
    """Turn @everyone on or off for the whole forum, and tell everyone; nothing happens if it stands so already."""
    query = select(EveryoneSwitch).where(EveryoneSwitch.id == THE_ROW).with_for_update()
    row = (await session.execute(query.execution_options(populate_existing=True))).scalar_one()
    if row.is_on != on:
        row.is_on, row.reason, row.changed_at, row.changed_by_id = on, "" if on else reason, now(), admin.id
        announce(session, manager, _message(row))
    return await _shown(session, row, admin, None)


def _message(row: EveryoneSwitch) -> ServerMessage:
    if row.is_on:
        return EveryoneMentionEnabled(message="@everyone works again")
    because = f": {row.reason}" if row.reason else ""
    return EveryoneMentionDisabled(message=f"@everyone is switched off{because}")


async def _shown(
    session: AsyncSession, row: EveryoneSwitch, reader: User, visible_to: set[int] | None
) -> EveryoneState:
    reach = await _reach(session, reader, visible_to) if reader.is_staff else None
    return EveryoneState(
        enabled=row.is_on, reason=row.reason, changed_at=row.changed_at, may_use=reader.is_staff, reach=reach
    )


async def _reach(session: AsyncSession, author: User, visible_to: set[int] | None) -> int:
    unwilling = exists().where(NotificationPreferences.user_id == User.id, NotificationPreferences.everyone.is_(False))
    query = select(func.count()).select_from(User).where(User.is_banned.is_(False), User.id != author.id, ~unwilling)
    if visible_to is not None:
        query = query.where(User.id.in_(visible_to))
    return (await session.execute(query)).scalar_one()

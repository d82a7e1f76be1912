"""Figures about broadcasts: of this replica, and of all together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.broadcasts.channel import manager
from encore.broadcasts.models import Broadcast, BroadcastReceipt, Status
from encore.broadcasts.schemas import BroadcastData, ClusterFigures, Stats
from encore.db import now

__all__ = ["keep_reach", "reach", "stats"]

ASKED_AT_MOST = 1_000
ASKED_AT_ONCE = 50


async def reach(targets: Sequence[str] | None, *, here: int) -> tuple[int, int]:
    """How many a broadcast that was just sent reaches on all replicas together, and how many replicas there are.

    Sockets of a broadcast to everybody (`targets` is None); of one to some, those people of the first 1,000 who are
    connected. Never less than `here`, the sockets of this replica that got it.
    """
    counts = await manager.cluster_counts()
    if targets is None:
        return max(here, counts.connections), counts.replicas
    found = 0
    for first in range(0, min(len(targets), ASKED_AT_MOST), ASKED_AT_ONCE):
        some = targets[first : min(first + ASKED_AT_ONCE, ASKED_AT_MOST)]
        found += sum(await asyncio.gather(*map(manager.is_user_connected_anywhere, some)))
    return max(here, found), counts.replicas


async def stats(session: AsyncSession) -> Stats:
    """What the creators' page shows. Waits for the other replicas for a moment, and says whether all answered."""
    midnight = now().replace(hour=0, minute=0, second=0, microsecond=0)
    today = (await session.scalars(select(func.count()).where(Broadcast.sent_at >= midnight))).one()
    newest = select(Broadcast).where(Broadcast.status == Status.ACTIVE).order_by(Broadcast.sent_at.desc())
    active = (await session.scalars(newest.order_by(Broadcast.id.desc()).limit(1))).first()
    delivered, acknowledged = (0, 0) if active is None else await _receipts(session, active.id)
    counts = await manager.cluster_counts()
    return Stats(
        broadcasts_today=today,
        active_broadcast=None if active is None else BroadcastData.of(active),
        connected_users=manager.get_user_count(),
        cluster=ClusterFigures(
            connected=counts.connections,
            connected_users=counts.users,
            replicas=counts.replicas,
            complete=counts.complete,
            delivered=delivered,
            acknowledged=acknowledged,
            acknowledgement_rate=round(acknowledged / delivered, 4) if delivered else 0.0,
        ),
    )


async def keep_reach(session: AsyncSession, broadcast_id: int, *, sent_to_users: int, reached: int) -> None:
    """Note how far a broadcast went when it was sent."""
    broadcast = await session.get_one(Broadcast, broadcast_id)
    broadcast.sent_to_users = sent_to_users
    broadcast.reached = reached


async def _receipts(session: AsyncSession, broadcast_id: int) -> tuple[int, int]:
    query = select(func.count(), func.count(BroadcastReceipt.acknowledged_at))
    row = (await session.execute(query.where(BroadcastReceipt.broadcast_id == broadcast_id))).one()
    return int(row[0]), int(row[1])

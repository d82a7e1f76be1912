"""What is done with broadcasts: sent, scheduled, cleared, acknowledged."""

from __future__ import annotations

import datetime
import hashlib
from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Select, and_, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.broadcasts.channel import Delivered, audience, manager
from encore.broadcasts.messages import BroadcastCleared, NewBroadcast
from encore.broadcasts.mirror import mirror
from encore.broadcasts.models import Broadcast, BroadcastReceipt, Status
from encore.broadcasts.schemas import BroadcastData, NewBroadcastBody
from encore.db import after_commit, database, insert, now
from encore.errors import BadRequest, Conflict, NotFound
from encore.live import Announcement, announce
from encore.pagination import read_cursor

__all__ = [
    "acknowledge",
    "active_for",
    "cancel",
    "clear",
    "create",
    "due_ids",
    "fire",
    "history_page",
    "record_deliveries",
    "repair_mirror",
    "seen_by_page",
    "targets_of",
]

DUE_LIMIT = 20
LOOKS = 5
FURTHEST = datetime.timedelta(days=366)
SENDING = 0x656E636F7265
"""PostgreSQL's lock that one who sends holds: of two at once neither would see the other's, and both stayed active."""


async def create(session: AsyncSession, author: User, new: NewBroadcastBody) -> tuple[Broadcast, Announcement | None]:
    """Send it at the commit, or schedule it. The announcement is None for one that is scheduled."""
    user_ids = sorted(set(new.target_user_ids))
    if user_ids:
        known = (await session.scalars(select(User.id).where(User.id.in_(user_ids)))).all()
        if len(known) < len(user_ids):
            missing = sorted(set(user_ids).difference(known))
            raise BadRequest(f"there is no user with id {missing[0]}", code="unknown_user")
    if new.send_at is not None and new.send_at > now() + FURTHEST:
        raise BadRequest("send_at lies more than a year ahead", code="too_far_ahead")
    roles = sorted(set(new.roles))
    broadcast = Broadcast(
        author_id=author.id,
        author_name=author.display_name or author.username,
        message=new.message,
        type=new.type,
        status=Status.SCHEDULED,
        roles=roles,
        user_ids=user_ids,
        audience=_audience_key(roles, user_ids),
        send_at=new.send_at,
    )
    session.add(broadcast)
    await session.flush()
    if new.send_at is not None and new.send_at > now():
        return broadcast, None
    return broadcast, await fire(session, broadcast.id)


async def fire(session: AsyncSession, broadcast_id: int) -> Announcement | None:
    """Send a scheduled one at the commit; None if it is not scheduled any more: of many replicas one gets to do it."""
    if session.get_bind().dialect.name == "postgresql":
        await session.execute(select(func.pg_advisory_xact_lock(SENDING)))
    at = now()
    claim = update(Broadcast).where(Broadcast.id == broadcast_id, Broadcast.status == Status.SCHEDULED)
    claimed = await session.execute(claim.values(status=Status.ACTIVE, sent_at=at).returning(Broadcast.id))
    if claimed.scalar_one_or_none() is None:
        return None
    broadcast = await session.get_one(Broadcast, broadcast_id, populate_existing=True)
    await _end(session, and_(Broadcast.audience == broadcast.audience, Broadcast.id != broadcast.id))
    data = BroadcastData.of(broadcast)
    announcement = announce(
        session, manager, NewBroadcast(broadcast=data), target_user_ids=await targets_of(session, broadcast)
    )
    if not broadcast.audience:
        after_commit(session, show_current)
    return announcement


async def cancel(session: AsyncSession, broadcast_id: int) -> None:
    """Take a scheduled one back. Raises NotFound, and Conflict when it was sent or cancelled already."""
    change = update(Broadcast).where(Broadcast.id == broadcast_id, Broadcast.status == Status.SCHEDULED)
    done = await session.execute(change.values(status=Status.CANCELLED, ended_at=now()).returning(Broadcast.id))
    if done.scalar_one_or_none() is None:
        if await session.get(Broadcast, broadcast_id) is None:
            raise NotFound(f"there is no broadcast {broadcast_id}")
        raise Conflict("this broadcast was sent or cancelled already")


async def clear(session: AsyncSession, broadcast_id: int | None) -> list[int]:
    """Take one that is active, or all of them, off everybody's page. Raises NotFound for one that never was there."""
    if broadcast_id is not None and await session.get(Broadcast, broadcast_id) is None:
        raise NotFound(f"there is no broadcast {broadcast_id}")
    ended = await _end(session, Broadcast.id == broadcast_id if broadcast_id is not None else None)
    if any(not broadcast.audience for broadcast in ended):
        after_commit(session, show_current)
    return [broadcast.id for broadcast in ended]


async def acknowledge(session: AsyncSession, *, user_id: int, roles: frozenset[str], broadcast_id: int) -> None:
    """Note that somebody has read it, and take it off their other pages. Raises NotFound unless it was sent to them."""
    broadcast = await session.get(Broadcast, broadcast_id)
    sent = broadcast is not None and broadcast.status in (Status.ACTIVE, Status.CLEARED)
    if broadcast is None or not sent or not broadcast.is_for(user_id, roles):
        raise NotFound(f"there is no broadcast {broadcast_id} for you")
    at = now()
    receipt = insert(session, BroadcastReceipt).values(
        broadcast_id=broadcast_id, user_id=user_id, delivered_at=at, acknowledged_at=at
    )
    receipt = receipt.on_conflict_do_update(
        index_elements=["broadcast_id", "user_id"],
        set_={"acknowledged_at": at},
        where=BroadcastReceipt.acknowledged_at.is_(None),
    )
    done = await session.execute(receipt.returning(BroadcastReceipt.user_id))
    if done.scalar_one_or_none() is None:
        return  # acknowledged before
    announce(session, manager, BroadcastCleared(broadcast_id=broadcast_id), target_user_ids=[str(user_id)])
    after_commit(session, lambda: mirror.acknowledged(broadcast_id, [user_id]))


async def active_for(
    session: AsyncSession, *, user_id: int, roles: frozenset[str]
) -> tuple[list[Broadcast], list[Broadcast]]:
    """What is active for somebody, newest first: not acknowledged, acknowledged. The former count as delivered."""
    query = _active().add_columns(BroadcastReceipt.user_id, BroadcastReceipt.acknowledged_at)
    query = query.outerjoin(
        BroadcastReceipt, and_(BroadcastReceipt.broadcast_id == Broadcast.id, BroadcastReceipt.user_id == user_id)
    )
    waiting: list[Broadcast] = []
    acknowledged: list[Broadcast] = []
    for broadcast, known, acknowledged_at in await session.execute(query):
        if not broadcast.is_for(user_id, roles):
            continue
        (waiting if acknowledged_at is None else acknowledged).append(broadcast)
        if known is None:
            audience.note(Delivered(broadcast.id, frozenset({(user_id, roles)})))
    return waiting, acknowledged


async def due_ids(session: AsyncSession) -> Sequence[int]:
    """Scheduled ones whose time has come."""
    due = select(Broadcast.id).where(Broadcast.status == Status.SCHEDULED, Broadcast.send_at <= now())
    return (await session.scalars(due.order_by(Broadcast.send_at).limit(DUE_LIMIT))).all()


async def record_deliveries(session: AsyncSession, notes: Collection[Delivered]) -> None:
    """Keep who got what, as this replica noted it."""
    ids = {note.broadcast_id for note in notes}
    known = {row.id: row for row in await session.scalars(select(Broadcast).where(Broadcast.id.in_(ids)))}
    rows = {
        (note.broadcast_id, user_id)
        for note in notes
        for user_id, roles in note.listeners
        if note.broadcast_id in known and known[note.broadcast_id].is_for(user_id, roles)
    }
    users = {user_id for _, user_id in rows}
    there = set(await session.scalars(select(User.id).where(User.id.in_(users)))) if users else set()
    at = now()
    values = [
        {"broadcast_id": broadcast_id, "user_id": user_id, "delivered_at": at}
        for broadcast_id, user_id in sorted(rows)
        if user_id in there
    ]
    if values:
        await session.execute(insert(session, BroadcastReceipt).on_conflict_do_nothing(), values)


async def repair_mirror(session: AsyncSession) -> None:
    """Write to Redis what it should show, after it was away."""
    mirror.is_stale = False
    active = await _shown(session)
    await mirror.current(None if active is None else BroadcastData.of(active).model_dump_json())
    if active is not None:
        users = select(BroadcastReceipt.user_id).where(
            BroadcastReceipt.broadcast_id == active.id, BroadcastReceipt.acknowledged_at.is_not(None)
        )
        await mirror.acknowledged(active.id, (await session.scalars(users)).all())


async def show_current() -> None:
    """Write to Redis what is active. Two replicas that do so at once may overtake one another, so each looks again."""
    shown: str | None = ""
    for _ in range(LOOKS):
        payload = None
        if mirror.may_be_there:
            async with database().reading() as session:
                active = await _shown(session)
            payload = None if active is None else BroadcastData.of(active).model_dump_json()
        if payload == shown:
            return
        await mirror.current(payload)
        shown = payload


async def history_page(
    session: AsyncSession, *, limit: int, cursor: str | None, scheduled: bool
) -> Sequence[Broadcast]:
    """One more than a page of what was sent, newest first; or of what is scheduled, soonest first."""
    if scheduled:
        query = select(Broadcast).where(Broadcast.status == Status.SCHEDULED)
        key = read_cursor(cursor, str, int)
        if key is not None:
            query = query.where(tuple_(Broadcast.send_at, Broadcast.id) > tuple_(_moment(key[0]), key[1]))
        query = query.order_by(Broadcast.send_at, Broadcast.id)
    else:
        query = select(Broadcast).where(Broadcast.sent_at.is_not(None))
        key = read_cursor(cursor, str, int)
        if key is not None:
            query = query.where(tuple_(Broadcast.sent_at, Broadcast.id) < tuple_(_moment(key[0]), key[1]))
        query = query.order_by(Broadcast.sent_at.desc(), Broadcast.id.desc())
    return (await session.scalars(query.limit(limit + 1))).all()


async def seen_by_page(
    session: AsyncSession, broadcast_id: int, *, limit: int, cursor: str | None
) -> Sequence[tuple[BroadcastReceipt, str]]:
    """One more than a page of who got it, by user id, with their names. Raises NotFound."""
    if await session.get(Broadcast, broadcast_id) is None:
        raise NotFound(f"there is no broadcast {broadcast_id}")
    query = select(BroadcastReceipt, User.username).join(User, User.id == BroadcastReceipt.user_id)
    query = query.where(BroadcastReceipt.broadcast_id == broadcast_id)
    key = read_cursor(cursor, int)
    if key is not None:
        query = query.where(BroadcastReceipt.user_id > key[0])
    rows = await session.execute(query.order_by(BroadcastReceipt.user_id).limit(limit + 1))
    return [(receipt, name) for receipt, name in rows]


async def _shown(session: AsyncSession) -> Broadcast | None:
    """What everybody sees at present."""
    return (await session.scalars(_active().where(Broadcast.audience == "").limit(1))).first()


def _active() -> Select[Broadcast]:
    active = select(Broadcast).where(Broadcast.status == Status.ACTIVE)
    return active.order_by(Broadcast.sent_at.desc(), Broadcast.id.desc())


async def _end(session: AsyncSession, which: ColumnElement[bool] | None) -> list[Broadcast]:
    """Clear active ones, and announce it."""
    query = _active() if which is None else _active().where(which)
    rows = list(await session.scalars(query))
    ended = []
    for row in rows:
        change = update(Broadcast).where(Broadcast.id == row.id, Broadcast.status == Status.ACTIVE)
        done = await session.execute(change.values(status=Status.CLEARED, ended_at=now()).returning(Broadcast.id))
        if done.scalar_one_or_none() is None:
            continue  # somebody else was quicker
        ended.append(row)
        targets = await targets_of(session, row)
        announce(session, manager, BroadcastCleared(broadcast_id=row.id), target_user_ids=targets)
    return ended


async def targets_of(session: AsyncSession, broadcast: Broadcast) -> list[str] | None:
    """The ids of those whom it is for, as sockets know them; None for everybody."""
    if not broadcast.roles and not broadcast.user_ids:
        return None
    flags = {"team": User.is_team, "creator": User.is_creator, "admin": User.is_admin}
    holds = [flags[role].is_(True) for role in broadcast.roles]
    found = set(await session.scalars(select(User.id).where(or_(*holds)))) if holds else set()
    return [str(user_id) for user_id in sorted(found.union(broadcast.user_ids))]


def _audience_key(roles: Sequence[str], user_ids: Sequence[int]) -> str:
    if not roles and not user_ids:
        return ""
    return hashlib.sha256(repr((list(roles), list(user_ids))).encode()).hexdigest()


def _moment(value: object) -> datetime.datetime:
    try:
        moment = datetime.datetime.fromisoformat(str(value))
        if moment.tzinfo is not None:
            return moment.astimezone(datetime.UTC)
    except (ValueError, OverflowError):  # the first and the last hours of the calendar have no name in UTC
        pass
    raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor")

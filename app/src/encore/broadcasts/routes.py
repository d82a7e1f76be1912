"""The routes of broadcasts: REST, and the socket."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, WebSocket

from antiphon import Connection, Identity
from encore.accounts.access import CurrentUser, Staff
from encore.answers import Gone
from encore.broadcasts import figures, service, timekeeper
from encore.broadcasts.channel import SignedIn, audience, manager
from encore.broadcasts.messages import AcknowledgeBroadcast, ActiveBroadcast, Connected, GetActiveBroadcast
from encore.broadcasts.schemas import (
    Acknowledge,
    Acknowledged,
    AcknowledgedBy,
    ActiveAnswer,
    BroadcastData,
    Clear,
    Cleared,
    HistoryItem,
    NewBroadcastBody,
    SendingLimits,
    SentBroadcast,
    Stats,
)
from encore.db import ReadSession, WriteSession, database
from encore.errors import ErrorAnswer
from encore.live import read_message, tell, telling_problems
from encore.pagination import Cursor, Limit, Page, cut

__all__ = ["router", "timekeeper"]

router = APIRouter(tags=["broadcasts"])

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorAnswer, "description": "There is no such broadcast"}}
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorAnswer, "description": "Sent or cancelled already"}}


@router.post("/api/creator/broadcast")
async def send_broadcast(new: NewBroadcastBody, author: Staff) -> SentBroadcast:
    """Send an announcement to everybody, or to some; now, or at a time."""
    async with database().writing() as session:
        broadcast, announcement = await service.create(session, author, new)
    data = BroadcastData.of(broadcast)
    receipt = None if announcement is None else announcement.receipt
    if receipt is None:
        return SentBroadcast(broadcast=data, sent_to_users=0, reached=0, replicas=0, scope="scheduled")
    async with database().reading() as session:
        targets = await service.targets_of(session, broadcast)
    reached, replicas = await figures.reach(targets, here=receipt.connections)
    async with database().writing() as session:
        await figures.keep_reach(session, broadcast.id, sent_to_users=receipt.connections, reached=reached)
    return SentBroadcast(
        broadcast=data,
        sent_to_users=receipt.connections,
        reached=reached,
        replicas=replicas,
        scope=receipt.scope,
    )


@router.post("/api/creator/broadcast/clear", responses=NOT_FOUND)
async def clear_broadcast(session: WriteSession, user: Staff, which: Clear | None = None) -> Cleared:
    """Take the active broadcast off everybody's page."""
    return Cleared(cleared=await service.clear(session, which.broadcast_id if which is not None else None))


@router.post("/api/creator/broadcast/acknowledge", responses=NOT_FOUND)
async def acknowledge_broadcast(session: WriteSession, user: CurrentUser, which: Acknowledge) -> Acknowledged:
    """Say that one has read it: it is shown no more, on all one's devices."""
    await service.acknowledge(session, user_id=user.id, roles=user.roles, broadcast_id=which.broadcast_id)
    return Acknowledged(broadcast_id=which.broadcast_id)


@router.get("/api/creator/broadcast/active")
async def get_active_broadcast(session: ReadSession, user: CurrentUser) -> ActiveAnswer:
    """What is active for the one who asks."""
    waiting, acknowledged = await service.active_for(session, user_id=user.id, roles=user.roles)
    shown = [BroadcastData.of(broadcast) for broadcast in waiting]
    return ActiveAnswer(
        broadcast=shown[0] if shown else None,
        others=shown[1:],
        acknowledged=[broadcast.id for broadcast in acknowledged],
    )


@router.get("/api/creator/broadcast/limits")
async def get_broadcast_limits(user: CurrentUser) -> SendingLimits:
    """How long a broadcast may be, of which kinds, and whether one may send any."""
    return SendingLimits(may_send=user.is_staff)


@router.get("/api/creator/broadcast/stats")
async def get_broadcast_stats(session: ReadSession, user: Staff) -> Stats:
    """Figures of this replica, and of all together."""
    return await figures.stats(session)


@router.get("/api/creator/broadcasts")
async def list_broadcasts(
    session: ReadSession,
    user: Staff,
    limit: Limit = 20,
    cursor: Cursor = None,
    scheduled: Annotated[bool, Query(description="Those that wait for their time, instead of those sent")] = False,
) -> Page[HistoryItem]:
    """The history, newest first; or what is scheduled, soonest first."""
    rows = await service.history_page(session, limit=limit, cursor=cursor, scheduled=scheduled)
    page, behind = cut(rows, limit=limit, key=lambda row: (str(row.send_at if scheduled else row.sent_at), row.id))
    return Page(items=[HistoryItem.of(row) for row in page], next_cursor=behind)


@router.get("/api/creator/broadcasts/{broadcast_id}/receipts", responses=NOT_FOUND)
async def list_broadcast_receipts(
    session: ReadSession, user: Staff, broadcast_id: Number, limit: Limit = 50, cursor: Cursor = None
) -> Page[AcknowledgedBy]:
    """Who got it, and who acknowledged it when."""
    rows = await service.seen_by_page(session, broadcast_id, limit=limit, cursor=cursor)
    page, behind = cut(rows, limit=limit, key=lambda row: (row[0].user_id,))
    items = [
        AcknowledgedBy(
            user_id=receipt.user_id,
            username=username,
            delivered_at=receipt.delivered_at,
            acknowledged_at=receipt.acknowledged_at,
        )
        for receipt, username in page
    ]
    return Page(items=items, next_cursor=behind)


@router.delete("/api/creator/broadcasts/{broadcast_id}", responses={**NOT_FOUND, **CONFLICT})
async def cancel_broadcast(session: WriteSession, user: Staff, broadcast_id: Number) -> Gone:
    """Take a scheduled broadcast back before its time."""
    await service.cancel(session, broadcast_id)
    return Gone()


@router.websocket("/api/creator/broadcast/ws")
@router.websocket("/ws/broadcasts")
async def broadcast_socket(websocket: WebSocket, identity: SignedIn) -> None:
    """Announcements as they are made; acknowledging them."""

    async def greet(connection: Connection) -> None:
        audience.come(identity)
        try:
            await tell(manager, connection, Connected())
            message = await _active_message(identity)
            if message.broadcast is not None:
                await tell(manager, connection, message)
        except BaseException:
            audience.go(identity)
            raise

    async def answer(connection: Connection, message: object) -> None:
        async with telling_problems(manager, connection):
            said = read_message(message, AcknowledgeBroadcast, GetActiveBroadcast)
            if isinstance(said, AcknowledgeBroadcast):
                async with database().writing() as session:
                    await service.acknowledge(
                        session, user_id=_user_id(identity), roles=identity.roles, broadcast_id=said.broadcast_id
                    )
            else:
                await tell(manager, connection, await _active_message(identity))

    await manager.serve(
        websocket,
        identity=identity,
        on_connect=greet,
        on_message=answer,
        on_close=lambda connection: audience.go(identity),
        heartbeat="earlier",
    )


async def _active_message(identity: Identity) -> ActiveBroadcast:
    async with database().reading() as session:
        waiting, _ = await service.active_for(session, user_id=_user_id(identity), roles=identity.roles)
    return ActiveBroadcast(broadcast=BroadcastData.of(waiting[0]) if waiting else None)


def _user_id(identity: Identity) -> int:
    return int(identity.user_id or 0)

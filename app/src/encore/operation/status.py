"""What a replica says of itself: sockets by channel, the bus, what was sent, dropped and lost."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, Field

import encore
from antiphon import Drain, ManagerStats, State, WebSocketManager
from encore.live import channels
from encore.operation.replica import STARTED_AT, replica_name, uptime_s
from encore.settings import read_settings

__all__ = ["ReplicaStatus", "read_status"]

COUNT_S = 1.0
"""How long the other replicas may take to say how many sockets they have."""


class ClusterChannel(BaseModel):
    """A channel on all replicas together."""

    connections: int
    users: int
    replicas: int = Field(description="Replicas that answered, this one included")
    complete: bool = Field(description="False while the bus is away, or when a replica did not answer in time")


class ChannelStatus(BaseModel):
    """A channel on this replica. Counts are since its start."""

    channel: str
    state: str = Field(examples=["up"])
    connections: int
    users: int
    topics: int = Field(description="Tracks, threads and the like that a socket here hears")
    published: int
    published_local: int = Field(description="Publications that reached this replica alone, at least at first")
    delivered: int = Field(description="Messages given to sockets: one message to 100 clients counts 100")
    lost: dict[str, int] = Field(description="Sockets that this replica had to end, by reason")
    dropped_slow: dict[str, int] = Field(description="Messages that slow clients miss, by reason")
    queued_connections: int = Field(description="Clients that are behind right now")
    queued_bytes: int
    cluster: ClusterChannel


class BusStatus(BaseModel):
    """The link that carries messages between replicas."""

    state: str = Field(description="local (there is no bus), up, suspect, degraded", examples=["up"])
    reason: str | None = Field(description="Why it is degraded", examples=["unreachable"])
    replicas: int | None = Field(description="Replicas that the bus knew when it was last asked")
    waiting: int = Field(description="Publications that wait for the bus")
    queued: int = Field(description="Publications that had to wait, since the start")
    flushed: int = Field(description="Those that went out once it was back")
    dropped: dict[str, int] = Field(description="Publications that other replicas never got, by reason")
    duplicates: int = Field(description="Copies that were recognised and dropped")
    losses: dict[str, int] = Field(description="Times that the link was lost, by reason")


class Totals(BaseModel):
    """All channels of this replica together."""

    connections: int
    published: int
    delivered: int
    lost: int
    dropped_slow: int


class ReplicaStatus(BaseModel):
    """How one replica is."""

    replica: str
    version: str
    mode: Literal["production", "development", "demo"]
    started_at: datetime.datetime
    uptime_s: float
    draining: bool
    bus: BusStatus
    totals: Totals
    channels: list[ChannelStatus]


async def read_status() -> ReplicaStatus:
    """This replica now. Asks the others for their counts, for at most about a second."""
    managers = sorted(channels().values(), key=lambda manager: manager.channel)
    found = await asyncio.gather(*(_channel(manager) for manager in managers))
    return ReplicaStatus(
        replica=replica_name(),
        version=encore.__version__,
        mode=read_settings().mode,
        started_at=datetime.datetime.fromtimestamp(STARTED_AT, datetime.UTC),
        uptime_s=round(uptime_s(), 3),
        draining=Drain.has_begun(),
        bus=_bus([manager.stats() for manager in managers]),
        totals=Totals(
            connections=sum(one.connections for one in found),
            published=sum(one.published for one in found),
            delivered=sum(one.delivered for one in found),
            lost=sum(sum(one.lost.values()) for one in found),
            dropped_slow=sum(sum(one.dropped_slow.values()) for one in found),
        ),
        channels=list(found),
    )


async def _channel(manager: WebSocketManager) -> ChannelStatus:
    counts = await manager.cluster_counts(timeout_s=COUNT_S)
    stats, vitals = manager.stats(), manager.vitals()
    return ChannelStatus(
        channel=stats.channel,
        state=str(stats.state),
        connections=stats.connections,
        users=stats.users,
        topics=stats.topics,
        published=stats.published,
        published_local=stats.published_local,
        delivered=stats.delivered,
        lost=_plain(stats.lost),
        dropped_slow=_plain(stats.dropped_slow),
        queued_connections=vitals.queued_connections,
        queued_bytes=vitals.queued_bytes,
        cluster=ClusterChannel(
            connections=counts.connections, users=counts.users, replicas=counts.replicas, complete=counts.complete
        ),
    )


def _bus(found: list[ManagerStats]) -> BusStatus:
    """All channels share one link; what one of them knows of it holds for all."""
    link = next((stats.link for stats in found if stats.link is not None), None)
    if link is None:
        state = found[0].state if found else State.LOCAL
        return BusStatus(
            state=str(state),
            reason=None,
            replicas=None,
            waiting=0,
            queued=0,
            flushed=0,
            dropped={},
            duplicates=0,
            losses={},
        )
    return BusStatus(
        state=str(link.state),
        reason=None if link.reason is None else str(link.reason),
        replicas=link.replicas,
        waiting=link.outbox_messages,
        queued=link.queued,
        flushed=link.flushed,
        dropped=_plain(link.dropped),
        duplicates=link.duplicates,
        losses=_plain(link.losses),
    )


def _plain(counts: Mapping[str, int]) -> dict[str, int]:
    return {str(reason): count for reason, count in counts.items()}

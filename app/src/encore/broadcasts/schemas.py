"""What the REST routes of broadcasts take and give."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, Field

from encore.broadcasts.models import Broadcast
from encore.text.fields import prose

__all__ = [
    "MAX_CHARACTERS",
    "Acknowledge",
    "Acknowledged",
    "AcknowledgedBy",
    "ActiveAnswer",
    "BroadcastData",
    "Cleared",
    "ClusterFigures",
    "Clear",
    "HistoryItem",
    "NewBroadcastBody",
    "SentBroadcast",
    "SendingLimits",
    "Stats",
]

MAX_CHARACTERS = 280
"""Unicode code points, as Python's len() and JavaScript's [...text].length count them."""

Kind = Literal["info", "success", "warning", "urgent"]
Role = Literal["team", "creator", "admin"]
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]


def _in_utc(moment: datetime.datetime) -> datetime.datetime:
    try:
        return moment.astimezone(datetime.UTC)
    except OverflowError:  # the first and the last hours of the calendar have no name there
        raise ValueError("there is no such moment in UTC") from None


Moment = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class NewBroadcastBody(BaseModel):
    """An announcement to send now, or at a time."""

    message: Annotated[str, prose(max_length=MAX_CHARACTERS)]
    type: Kind = "info"
    roles: list[Role] = Field(default=[], max_length=3, description="Only for these roles; empty for everybody")
    target_user_ids: list[Id] = Field(default=[], max_length=1000, description="Only for these; empty for everybody")
    send_at: Moment | None = Field(default=None, description="When to send it; now without it")


class BroadcastData(BaseModel):
    """A broadcast, as messages and answers carry it."""

    id: int
    message: str
    type: str
    status: str
    author: str
    roles: list[str]
    created_at: datetime.datetime
    send_at: datetime.datetime | None
    sent_at: datetime.datetime | None

    @classmethod
    def of(cls, row: Broadcast) -> BroadcastData:
        return cls(
            id=row.id,
            message=row.message,
            type=row.type,
            status=row.status,
            author=row.author_name,
            roles=list(row.roles),
            created_at=row.created_at,
            send_at=row.send_at,
            sent_at=row.sent_at,
        )


class HistoryItem(BroadcastData):
    """A broadcast in the history, with how far it went."""

    ended_at: datetime.datetime | None = Field(description="When it was cleared")
    sent_to_users: int = Field(description="Sockets of the sending replica that it was given to")
    reached: int = Field(description="As in the answer when it was sent")

    @classmethod
    def of(cls, row: Broadcast) -> HistoryItem:
        shown = BroadcastData.of(row).model_dump()
        return cls(**shown, ended_at=row.ended_at, sent_to_users=row.sent_to_users, reached=row.reached)


class SentBroadcast(BaseModel):
    """What became of a broadcast that was sent, or that it is scheduled."""

    broadcast: BroadcastData
    sent_to_users: int = Field(description="Sockets of this replica that it was given to")
    reached: int = Field(
        description="Sockets on all replicas together; of a broadcast to some only, the connected people among them"
    )
    replicas: int = Field(description="Replicas that are known to take part; 1 while the broker is away")
    scope: Literal["cluster", "local", "scheduled"] = Field(
        description="`cluster`: every replica hears it; `local`: the others will when the broker is back"
    )


class Clear(BaseModel):
    """Which broadcast is to be cleared."""

    broadcast_id: Id | None = Field(default=None, description="All that are active, without it")


class Cleared(BaseModel):
    cleared: list[int] = Field(description="Ids of the broadcasts that were cleared")


class Acknowledge(BaseModel):
    broadcast_id: Id


class Acknowledged(BaseModel):
    broadcast_id: int
    acknowledged: bool = True


class AcknowledgedBy(BaseModel):
    """Somebody who got a broadcast."""

    user_id: int
    username: str
    delivered_at: datetime.datetime
    acknowledged_at: datetime.datetime | None


class ActiveAnswer(BaseModel):
    """What is active for the one who asks."""

    broadcast: BroadcastData | None = Field(description="The newest that they have not acknowledged")
    others: list[BroadcastData] = Field(description="Further ones, newest first")
    acknowledged: list[int] = Field(description="Ids of active ones that they have acknowledged")


class SendingLimits(BaseModel):
    max_characters: int = MAX_CHARACTERS
    types: list[str] = ["info", "success", "warning", "urgent"]
    may_send: bool


class ClusterFigures(BaseModel):
    """Of all replicas together."""

    connected: int
    connected_users: int
    replicas: int
    complete: bool = Field(description="False while some replica did not answer: the figures are then a lower bound")
    delivered: int = Field(description="People who got the active broadcast")
    acknowledged: int = Field(description="People who acknowledged it")
    acknowledgement_rate: float = Field(description="Of those who got it, from 0 to 1")


class Stats(BaseModel):
    broadcasts_today: int
    active_broadcast: BroadcastData | None
    connected_users: int
    connected_users_note: str = "Count is for this replica only"
    max_characters: int = MAX_CHARACTERS
    cluster: ClusterFigures

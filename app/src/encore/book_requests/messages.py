"""What goes over the channels `book_requests`, to those who ask, and `book_requests_admin`, to those who decide."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import BaseModel

from encore.live import Heartbeat, Ping, Pong, Problem, ServerMessage

__all__ = [
    "ADMIN_FROM_SERVER",
    "FROM_CLIENT",
    "FROM_SERVER",
    "CreatedData",
    "NewData",
    "NewRequestMessage",
    "RequestCreated",
    "RequestUpdated",
    "StatusData",
    "StatusUpdated",
    "UpdatedData",
]


class CreatedData(BaseModel):
    id: int
    title: str
    status: Literal["pending"] = "pending"


class RequestCreated(ServerMessage):
    """To the one who asked, on all devices."""

    type: Literal["request_created"] = "request_created"
    data: CreatedData


class StatusData(BaseModel):
    id: int
    status: str
    message: str
    reason: str = ""


class StatusUpdated(ServerMessage):
    """To the one who asked, and to those who voted for it."""

    type: Literal["status_updated"] = "status_updated"
    data: StatusData


class NewData(BaseModel):
    id: int
    title: str
    user: str
    created_at: datetime.datetime


class NewRequestMessage(ServerMessage):
    """To those who decide."""

    type: Literal["new_request"] = "new_request"
    data: NewData


class UpdatedData(BaseModel):
    id: int
    status: str


class RequestUpdated(ServerMessage):
    """To those who decide: it was decided, or withdrawn (status "withdrawn")."""

    type: Literal["request_updated"] = "request_updated"
    data: UpdatedData


FROM_SERVER = (RequestCreated, StatusUpdated, Problem, Pong, Heartbeat)
ADMIN_FROM_SERVER = (NewRequestMessage, RequestUpdated, Problem, Pong, Heartbeat)
FROM_CLIENT = (Ping,)

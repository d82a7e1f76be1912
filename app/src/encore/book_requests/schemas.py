"""What the REST routes of book requests take and give."""

from __future__ import annotations

import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, HttpUrl

from encore.book_requests.models import BookRequest, RequestEvent, Status
from encore.text.fields import Line, line, prose

__all__ = [
    "Counts",
    "Decision",
    "EventData",
    "Found",
    "Merge",
    "NewRequest",
    "OpenRequest",
    "OwnRequest",
    "Quota",
    "Reply",
    "RequestDetail",
    "Voted",
]

Kind = Literal["audiobook", "book"]
Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Link = Annotated[HttpUrl, Field(max_length=500)]


class NewRequest(BaseModel):
    """What somebody asks for."""

    title: Line
    author: Annotated[str, line(may_be_empty=True)] = ""
    kind: Kind = "audiobook"
    note: Annotated[str, prose(max_length=2_000, may_be_empty=True)] = ""
    link: Link | None = None
    is_private: bool = Field(default=False, description="Only oneself and those who decide know of it")


class OwnRequest(BaseModel):
    """A request, as its owner and those who decide see it."""

    id: int
    title: str
    author: str
    kind: str
    note: str
    link: str
    is_private: bool
    status: Status
    reason: str
    votes: int
    user_id: int
    user: str
    album_id: int | None = Field(description="What it was fulfilled with")
    merged_into_id: int | None
    created_at: datetime.datetime
    updated_at: datetime.datetime

    @classmethod
    def of(cls, row: BookRequest, username: str) -> OwnRequest:
        names = [name for name in cls.model_fields if name != "user"]
        return cls(user=username, **{name: getattr(row, name) for name in names})


class OpenRequest(BaseModel):
    """A request, as everybody else sees it: not who asked, nor the note."""

    id: int
    title: str
    author: str
    kind: str
    status: Status
    votes: int
    is_mine: bool
    have_voted: bool


class EventData(BaseModel):
    """Something that happened to a request."""

    id: int
    kind: str
    user: str | None
    from_status: str
    to_status: str
    text: str
    created_at: datetime.datetime

    @classmethod
    def of(cls, row: RequestEvent, username: str | None) -> EventData:
        names = [name for name in cls.model_fields if name != "user"]
        return cls(user=username, **{name: getattr(row, name) for name in names})


class RequestDetail(OwnRequest):
    """The same with its history."""

    history: list[EventData] = []


class Found(BaseModel):
    """What is there already, before one asks."""

    albums: list[FoundAlbum] = Field(description="In the library: play it")
    requests: list[OpenRequest] = Field(description="Asked for already: vote for it")


class FoundAlbum(BaseModel):
    id: int
    title: str


class Decision(BaseModel):
    """The next status of a request."""

    status: Status
    reason: Annotated[str, prose(max_length=2_000, may_be_empty=True)] = ""
    expected_status: Status | None = Field(
        default=None, description="What one saw: another status by now is a 409, whatever the new one is"
    )
    album_id: Id | None = Field(default=None, description="What it is fulfilled with")


class Reply(BaseModel):
    text: Annotated[str, prose(max_length=2_000)]


class Merge(BaseModel):
    into_id: Id


class Voted(BaseModel):
    id: int
    votes: int
    have_voted: bool


class Quota(BaseModel):
    used: int
    limit: int | None = Field(description="Null: no limit")
    days: int = 7


class Counts(BaseModel):
    """How many requests have each status."""

    pending: int = 0
    approved: int = 0
    in_progress: int = 0
    fulfilled: int = 0
    rejected: int = 0


Found.model_rebuild()

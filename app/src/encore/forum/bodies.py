"""What the REST routes of the forum's threads and messages take."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, Field

from encore.text.fields import Line, line, prose

__all__ = [
    "Content",
    "Id",
    "MOST_MEMBERS",
    "LockBody",
    "MessageBody",
    "MoveMessageBody",
    "MoveThreadBody",
    "NewMessageBody",
    "NewSubThreadBody",
    "NewThreadBody",
    "PreviewBody",
    "ReadBody",
    "ReportBody",
    "ResolveBody",
    "ThreadBody",
]

CONTENT_CHARACTERS = 8_000
MOST_MEMBERS = 200

Id = Annotated[int, Field(ge=1, le=2**63 - 1)]
Number = Annotated[int, Field(ge=0, le=2**31 - 1)]
Content = Annotated[str, prose(max_length=CONTENT_CHARACTERS)]
"""Markdown of a message."""
Reason = Annotated[str, line(may_be_empty=True)]
Note = Annotated[str, prose(max_length=1000, may_be_empty=True)]


class NewThreadBody(BaseModel):
    """A thread and its first message."""

    title: Line
    content: Content
    is_private: bool = Field(default=False, description="Only members know of it")
    member_ids: list[Id] = Field(default=[], max_length=MOST_MEMBERS - 1, description="Of a private thread, beside you")


class NewSubThreadBody(BaseModel):
    """A sub-thread and its first message. It is as private as what it belongs to."""

    title: Line
    content: Content


class ThreadBody(BaseModel):
    """What is to be changed of a thread."""

    title: Line


class LockBody(BaseModel):
    """Why a thread is closed; shown where the next message would be written."""

    reason: Reason = ""


class MoveThreadBody(BaseModel):
    """Where a thread shall go: below a thread, or one of its messages; into the index without either."""

    parent_thread_id: Id | None = None
    parent_message_id: Id | None = None


class NewMessageBody(BaseModel):
    content: Content
    reply_to_id: Id | None = Field(default=None, description="The message of this thread that it answers and quotes")


class MessageBody(BaseModel):
    """What a message shall say now."""

    content: Content


class MoveMessageBody(BaseModel):
    thread_id: Id


class ReadBody(BaseModel):
    """How far a thread was read."""

    number: Number | None = Field(default=None, description="Of the last message that was read; all without it")


class ReportBody(BaseModel):
    """What is wrong with a message."""

    reason: Annotated[str, prose(max_length=1000)]


class ResolveBody(BaseModel):
    """What a moderator decided: `removed` removes the message, unless that has happened."""

    outcome: Literal["dismissed", "removed"]
    note: Note = ""


class PreviewBody(BaseModel):
    """Markdown to look at before it is sent."""

    content: Content

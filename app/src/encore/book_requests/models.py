"""Tables of requests, the votes for them, and what happened to them."""

from __future__ import annotations

import datetime
from enum import StrEnum
from typing import Final

from sqlalchemy import ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from encore.db import BigId, Model, UtcTime, now

__all__ = ["OPEN", "TRANSITIONS", "BookRequest", "RequestEvent", "RequestVote", "Status"]


class Status(StrEnum):
    """Where a request stands."""

    PENDING = "pending"
    APPROVED = "approved"
    IN_PROGRESS = "in_progress"
    FULFILLED = "fulfilled"
    REJECTED = "rejected"


TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    Status.PENDING: frozenset({Status.APPROVED, Status.REJECTED}),
    Status.APPROVED: frozenset({Status.IN_PROGRESS, Status.PENDING}),
    Status.IN_PROGRESS: frozenset({Status.FULFILLED, Status.REJECTED, Status.APPROVED}),
    Status.REJECTED: frozenset({Status.PENDING}),
    Status.FULFILLED: frozenset(),
}
"""What may follow what. No two of the steps from one status lead to another: of two admins who decide at once, the
second one's step does not fit any more. A decision is taken back by way of `pending`."""

OPEN: Final = (Status.PENDING, Status.APPROVED, Status.IN_PROGRESS)
"""May be voted for, and counts as asked for already."""


class BookRequest(Model):
    """Somebody would like to have a book."""

    __tablename__ = "book_requests"
    __table_args__ = (
        Index(None, "user_id", "id"),
        Index(None, "user_id", "created_at"),
        Index(None, "status", "id"),
        Index(None, "status", "votes", "id"),
        Index(None, "votes", "id"),
        Index(None, "title_key", "status"),
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    title_key: Mapped[str] = mapped_column(String(200))
    """The title without case, punctuation and articles: what is equal is the same book."""
    author: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(10))
    note: Mapped[str] = mapped_column(Text)
    link: Mapped[str] = mapped_column(String(500))
    is_private: Mapped[bool]
    """Only its owner and those who decide know of it."""
    status: Mapped[str] = mapped_column(String(12), default=Status.PENDING)
    reason: Mapped[str] = mapped_column(Text, default="")
    """What was said with the last decision."""
    votes: Mapped[int] = mapped_column(default=0)
    album_id: Mapped[int | None] = mapped_column(ForeignKey("albums.id", ondelete="SET NULL"))
    """What it was fulfilled with."""
    merged_into_id: Mapped[int | None] = mapped_column(ForeignKey("book_requests.id", ondelete="SET NULL"))
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    updated_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class RequestVote(Model):
    """Somebody else would like to have it too."""

    __tablename__ = "book_request_votes"
    __table_args__ = (Index(None, "user_id"),)

    request_id: Mapped[int] = mapped_column(ForeignKey("book_requests.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class RequestEvent(Model):
    """Something that happened to a request: its history, replies included."""

    __tablename__ = "book_request_events"
    __table_args__ = (Index(None, "request_id", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    request_id: Mapped[int] = mapped_column(ForeignKey("book_requests.id", ondelete="CASCADE"))
    user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    kind: Mapped[str] = mapped_column(String(10))
    """"created", "status", "reply" or "merged"."""
    from_status: Mapped[str] = mapped_column(String(12), default="")
    to_status: Mapped[str] = mapped_column(String(12), default="")
    text: Mapped[str] = mapped_column(Text, default="")
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

"""Tables of broadcasts, and of who got and acknowledged them."""

from __future__ import annotations

import datetime
from enum import StrEnum

from sqlalchemy import JSON, ForeignKey, Index, String
from sqlalchemy.orm import Mapped, mapped_column

from encore.db import BigId, Model, UtcTime, now

__all__ = ["Broadcast", "BroadcastReceipt", "Status"]


class Status(StrEnum):
    """The life of a broadcast: scheduled → active → cleared, or scheduled → cancelled."""

    SCHEDULED = "scheduled"
    ACTIVE = "active"
    CLEARED = "cleared"
    CANCELLED = "cancelled"


class Broadcast(Model):
    """An announcement."""

    __tablename__ = "broadcasts"
    __table_args__ = (Index(None, "status", "send_at"), Index(None, "sent_at", "id"), {"sqlite_autoincrement": True})

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    author_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    author_name: Mapped[str] = mapped_column(String(80))
    message: Mapped[str] = mapped_column(String(280))
    type: Mapped[str] = mapped_column(String(10))
    status: Mapped[str] = mapped_column(String(10))
    roles: Mapped[list[str]] = mapped_column(JSON)
    """Of "team", "creator", "admin": only for these; empty for everybody."""
    user_ids: Mapped[list[int]] = mapped_column(JSON)
    """Only for these; empty for everybody."""
    audience: Mapped[str] = mapped_column(String(80), default="")
    """"" for everybody; the same text for the same audience, of which the newest broadcast replaces the one before."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    send_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    sent_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    ended_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    """When it was cleared or cancelled."""
    sent_to_users: Mapped[int] = mapped_column(default=0)
    """Sockets of the sending replica that it was given to."""
    reached: Mapped[int] = mapped_column(default=0)
    """What `figures.reach` found on all replicas together when it was sent."""

    def is_for(self, user_id: int, roles: frozenset[str]) -> bool:
        """Whether somebody is in its audience."""
        if not self.roles and not self.user_ids:
            return True
        return user_id in self.user_ids or bool(roles.intersection(self.roles))


class BroadcastReceipt(Model):
    """Somebody got a broadcast; later, perhaps, acknowledged it."""

    __tablename__ = "broadcast_receipts"

    broadcast_id: Mapped[int] = mapped_column(ForeignKey("broadcasts.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    delivered_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    acknowledged_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)

"""The table of comments."""

from __future__ import annotations

import datetime

from sqlalchemy import ForeignKey, Index, Text
from sqlalchemy.orm import Mapped, mapped_column

from encore.db import BigId, Model, UtcTime, now

__all__ = ["Comment"]


class Comment(Model):
    """What somebody said at a moment of a track. Deleting one lets its replies stand by themselves."""

    __tablename__ = "comments"
    __table_args__ = (
        Index(None, "track_id", "at_s", "id"),
        Index(None, "track_id", "id"),
        Index(None, "user_id", "created_at"),
        Index(None, "parent_id"),
        {"sqlite_autoincrement": True},  # an id that was deleted is not given to another comment
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    track_id: Mapped[int] = mapped_column(ForeignKey("tracks.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("comments.id", ondelete="SET NULL"))
    """What it replies to: always a comment that replies to nothing itself."""
    content: Mapped[str] = mapped_column(Text)
    """As it was written: no markup."""
    at_s: Mapped[float]
    """Seconds into the track."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    last_edited_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)

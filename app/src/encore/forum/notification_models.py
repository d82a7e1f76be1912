"""Tables of notifications, of what people want to be told, and of the threads that they follow."""

from __future__ import annotations

import datetime

from sqlalchemy import BigInteger, ForeignKey, Index, String, text
from sqlalchemy.orm import Mapped, mapped_column

from encore.db import BigId, Model, UtcTime, now

__all__ = ["EveryoneSwitch", "Follow", "Notification", "NotificationPreferences", "NotificationVersion", "Recipient"]

_UNREAD = text("read_at IS NULL")


class Notification(Model):
    """Something that people are told: once for all of them, and without a copy of the text.

    What is shown of it is read from the message and the thread, so that it says what they say now.
    """

    __tablename__ = "forum_notifications"
    __table_args__ = (
        Index(None, "message_id", "kind"),
        Index(None, "from_user_id"),
        # Pages are told which ids are gone: none comes back.
        {"sqlite_autoincrement": True},
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    kind: Mapped[str] = mapped_column(String(20))
    message_id: Mapped[int] = mapped_column(ForeignKey("forum_messages.id", ondelete="CASCADE"))
    from_user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class Recipient(Model):
    """Somebody who is told of it, and whether it was read."""

    __tablename__ = "forum_notification_recipients"
    __table_args__ = (
        Index("ix_forum_notification_recipients_kind", "user_id", "kind", "notification_id"),
        Index(None, "notification_id"),
        Index(
            "ix_forum_notification_recipients_unread",
            "user_id",
            "notification_id",
            sqlite_where=_UNREAD,
            postgresql_where=_UNREAD,
        ),
    )

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    notification_id: Mapped[int] = mapped_column(
        ForeignKey("forum_notifications.id", ondelete="CASCADE"), primary_key=True
    )
    kind: Mapped[str] = mapped_column(String(20))
    """The notification's, for the list of one kind."""
    read_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)


class NotificationVersion(Model):
    """How often somebody's notifications have changed. Whoever changes them holds this row until the commit."""

    __tablename__ = "forum_notification_versions"

    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    version: Mapped[int] = mapped_column(BigInteger, default=0)


class NotificationPreferences(Model):
    """What somebody wants to be told. Without a row: everything."""

    __tablename__ = "forum_notification_preferences"

    user_id: Mapped[int] = mapped_column(
        ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, autoincrement=False
    )
    mention: Mapped[bool] = mapped_column(default=True)
    reply: Mapped[bool] = mapped_column(default=True)
    follow: Mapped[bool] = mapped_column(default=True)
    everyone: Mapped[bool] = mapped_column(default=True)
    like: Mapped[bool] = mapped_column("likes", default=True)
    everyone_muted: Mapped[bool] = mapped_column(default=False)
    """@everyone is listed and counted, and not pushed."""


class Follow(Model):
    """Somebody wants to know of every new message in a thread."""

    __tablename__ = "forum_follows"
    __table_args__ = (Index(None, "thread_id"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    thread_id: Mapped[int] = mapped_column(ForeignKey("forum_threads.id", ondelete="CASCADE"), primary_key=True)
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class EveryoneSwitch(Model):
    """Whether @everyone notifies anybody: the one row has the id 1."""

    __tablename__ = "forum_everyone_switch"

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    is_on: Mapped[bool]
    reason: Mapped[str] = mapped_column(String(200), default="")
    changed_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    changed_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))

"""Tables of the forum's threads and messages, and of what people do with them."""

from __future__ import annotations

import datetime
from enum import StrEnum

from sqlalchemy import ForeignKey, Index, String, Text, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from encore.accounts.models import User
from encore.db import BigId, Model, UtcTime, now

__all__ = ["ForumMessage", "Like", "MessageEdit", "ReadPosition", "Report", "ReportStatus", "Thread", "ThreadMember"]

NEVER_AGAIN = {"sqlite_autoincrement": True}
"""SQLite gives the id of a deleted row to the next one, unless told so: an old link, or a socket that still listens to
the thread's topic, would come to something else.
"""


class Thread(Model):
    """A conversation: a thread of the index, or a sub-thread of one, which belongs to it or to one of its messages.

    Every writer locks the thread's row first, so that numbers and counts are right, and in the order of the commits.
    """

    __tablename__ = "forum_threads"
    __table_args__ = (
        Index("ix_forum_threads_listing", "is_sub_thread", "is_private", "is_pinned", "last_message_at", "id"),
        Index(None, "parent_thread_id", "id"),
        Index(None, "parent_message_id", "id"),
        Index(None, "author_id"),
        Index(None, "last_message_user_id"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    is_sub_thread: Mapped[bool] = mapped_column(default=False)
    parent_thread_id: Mapped[int | None] = mapped_column(ForeignKey("forum_threads.id", ondelete="CASCADE"))
    parent_message_id: Mapped[int | None] = mapped_column(BigId)
    """No foreign key, which would be circular: a message goes only with its thread, and sub-threads go then too."""
    is_private: Mapped[bool] = mapped_column(default=False)
    """Only its members know of it. A sub-thread is as private as its parent, and has the parent's members."""
    is_pinned: Mapped[bool] = mapped_column(default=False)
    is_locked: Mapped[bool] = mapped_column(default=False)
    lock_reason: Mapped[str] = mapped_column(String(200), default="")
    message_count: Mapped[int] = mapped_column(default=0)
    """Messages that the listing shows, removed ones too."""
    last_number: Mapped[int] = mapped_column(default=0)
    """Of the newest message ever. Less somebody's read position it is the number of unread ones."""
    sub_thread_count: Mapped[int] = mapped_column(default=0)
    revision: Mapped[int] = mapped_column(default=1)
    """Grows with every change: of two states the one with the higher revision is the newer."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    last_message_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    last_message_user_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))

    author: Mapped[User] = relationship(lazy="raise", foreign_keys=[author_id])
    last_message_user: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[last_message_user_id])

    @property
    def root_id(self) -> int:
        """The thread whose members may read this one."""
        return self.id if self.parent_thread_id is None else self.parent_thread_id


class ThreadMember(Model):
    """Somebody who may read a private thread, and all of its sub-threads. Its author is one too."""

    __tablename__ = "forum_thread_members"
    __table_args__ = (Index(None, "user_id", "thread_id"),)

    thread_id: Mapped[int] = mapped_column(ForeignKey("forum_threads.id", ondelete="CASCADE"), primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    added_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

    user: Mapped[User] = relationship(lazy="raise")


class ForumMessage(Model):
    """Something said in a thread. When it is removed its text goes, and its place stays."""

    __tablename__ = "forum_messages"
    __table_args__ = (
        UniqueConstraint("thread_id", "number"),
        Index(None, "author_id", "id"),
        Index(None, "reply_to_id"),
        Index(None, "deleted_by_id"),
        NEVER_AGAIN,
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    thread_id: Mapped[int] = mapped_column(ForeignKey("forum_threads.id", ondelete="CASCADE"))
    number: Mapped[int]
    """Its place in the thread, from 1; never given twice, also when a message is moved away."""
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    content: Mapped[str] = mapped_column(Text)
    """Markdown; empty once it is removed."""
    content_html: Mapped[str] = mapped_column(Text)
    """The same, rendered and made safe when it was written."""
    reply_to_id: Mapped[int | None] = mapped_column(ForeignKey("forum_messages.id", ondelete="SET NULL"))
    like_count: Mapped[int] = mapped_column(default=0)
    sub_thread_count: Mapped[int] = mapped_column(default=0)
    revision: Mapped[int] = mapped_column(default=1)
    """Grows with every change: of two states the one with the higher revision is the newer."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    edited_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    deleted_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    deleted_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))

    author: Mapped[User] = relationship(lazy="raise", foreign_keys=[author_id])
    reply_to: Mapped[ForumMessage | None] = relationship(lazy="raise", remote_side=[id])

    @property
    def is_deleted(self) -> bool:
        return self.deleted_at is not None


class MessageEdit(Model):
    """What a message said before an edit."""

    __tablename__ = "forum_message_edits"
    __table_args__ = (Index(None, "message_id", "id"),)

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("forum_messages.id", ondelete="CASCADE"))
    content: Mapped[str] = mapped_column(Text)
    content_html: Mapped[str] = mapped_column(Text)
    replaced_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)


class Like(Model):
    """Somebody likes a message; at most once, which the database sees to."""

    __tablename__ = "forum_likes"
    __table_args__ = (
        UniqueConstraint("message_id", "user_id"),
        Index(None, "message_id", "id"),
        Index(None, "user_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[int] = mapped_column(ForeignKey("forum_messages.id", ondelete="CASCADE"))
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)

    user: Mapped[User] = relationship(lazy="raise")


class ReadPosition(Model):
    """How far somebody has read a thread."""

    __tablename__ = "forum_read_positions"
    __table_args__ = (Index(None, "thread_id"),)

    user_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), primary_key=True)
    thread_id: Mapped[int] = mapped_column(ForeignKey("forum_threads.id", ondelete="CASCADE"), primary_key=True)
    number: Mapped[int]
    """Of the last message that was read."""
    updated_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now, onupdate=now)


class ReportStatus(StrEnum):
    """The life of a report: open → dismissed or removed."""

    OPEN = "open"
    DISMISSED = "dismissed"
    REMOVED = "removed"
    """The message was removed because of it."""


class Report(Model):
    """Somebody tells the moderators about a message. It keeps the text as it was then, which its author may change."""

    __tablename__ = "forum_reports"
    __table_args__ = (
        UniqueConstraint("message_id", "reporter_id"),
        Index(None, "status", "id"),
        Index(None, "reporter_id"),
        Index(None, "author_id"),
        Index(None, "resolved_by_id"),
    )

    id: Mapped[int] = mapped_column(BigId, primary_key=True)
    message_id: Mapped[int | None] = mapped_column(ForeignKey("forum_messages.id", ondelete="SET NULL"))
    """None when the whole thread was deleted meanwhile."""
    author_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    reporter_id: Mapped[int] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    content: Mapped[str] = mapped_column(Text)
    """Of the message, when it was reported."""
    reason: Mapped[str] = mapped_column(String(1000))
    status: Mapped[str] = mapped_column(String(20), default=ReportStatus.OPEN)
    note: Mapped[str] = mapped_column(String(1000), default="")
    """Of the moderator who resolved it."""
    created_at: Mapped[datetime.datetime] = mapped_column(UtcTime, default=now)
    resolved_at: Mapped[datetime.datetime | None] = mapped_column(UtcTime)
    resolved_by_id: Mapped[int | None] = mapped_column(ForeignKey("users.id", ondelete="SET NULL"))

    author: Mapped[User] = relationship(lazy="raise", foreign_keys=[author_id])
    reporter: Mapped[User] = relationship(lazy="raise", foreign_keys=[reporter_id])
    resolved_by: Mapped[User | None] = relationship(lazy="raise", foreign_keys=[resolved_by_id])

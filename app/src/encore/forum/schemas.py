"""What the REST routes of the forum's threads and messages give, and its sockets."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import BaseModel, Field

from encore.accounts.models import User
from encore.forum.models import ForumMessage, MessageEdit, Report, Thread

__all__ = [
    "EditItem",
    "Liked",
    "MemberItem",
    "MessageItem",
    "MessagePlace",
    "MessageView",
    "PersonItem",
    "Preview",
    "Quote",
    "ReadState",
    "ReportItem",
    "SearchHit",
    "StartedThread",
    "ThreadItem",
    "ThreadView",
    "excerpt",
]

EXCERPT_CHARACTERS = 160


def excerpt(content: str) -> str:
    """The beginning of a message on one line, as a quotation shows it."""
    flat = " ".join(content[: EXCERPT_CHARACTERS * 4].split())
    return flat if len(flat) <= EXCERPT_CHARACTERS else flat[: EXCERPT_CHARACTERS - 1] + "…"


class ThreadView(BaseModel):
    """A thread, the same for everybody who may read it."""

    id: int
    title: str
    user_id: int
    username: str
    parent_thread_id: int | None = Field(description="Of a sub-thread: the thread that it belongs to")
    parent_message_id: int | None = Field(description="Of a sub-thread: the message that it belongs to, if any")
    is_private: bool
    is_pinned: bool
    is_locked: bool = Field(description="Only moderators may write in it")
    lock_reason: str
    message_count: int
    last_number: int = Field(description="The number of the newest message")
    sub_thread_count: int
    revision: int = Field(description="Grows with every change: the state with the higher one is the newer")
    created_at: datetime.datetime
    last_message_at: datetime.datetime
    last_message_user_id: int | None
    last_message_username: str | None

    @classmethod
    def of(cls, thread: Thread) -> ThreadView:
        """Of a row with `author` and `last_message_user` loaded."""
        return cls.model_validate(_thread_fields(thread))


class ThreadItem(ThreadView):
    """A thread, for the one who asks."""

    unread_count: int = Field(description="Messages behind one's read position; 0 for guests")
    last_read_number: int = Field(description="The number of the last message that one has read; 0 for none")
    is_following: bool

    @classmethod
    def for_reader(cls, thread: Thread, *, read_number: int | None, is_following: bool) -> ThreadItem:
        """`read_number` is None for guests, who have no position."""
        unread = 0 if read_number is None else max(0, thread.last_number - read_number)
        own = {"unread_count": unread, "last_read_number": read_number or 0, "is_following": is_following}
        return cls.model_validate(_thread_fields(thread) | own)


def _thread_fields(thread: Thread) -> dict[str, object]:
    last = thread.last_message_user
    return {
        "id": thread.id,
        "title": thread.title,
        "user_id": thread.author_id,
        "username": thread.author.username,
        "parent_thread_id": thread.parent_thread_id,
        "parent_message_id": thread.parent_message_id,
        "is_private": thread.is_private,
        "is_pinned": thread.is_pinned,
        "is_locked": thread.is_locked,
        "lock_reason": thread.lock_reason,
        "message_count": thread.message_count,
        "last_number": thread.last_number,
        "sub_thread_count": thread.sub_thread_count,
        "revision": thread.revision,
        "created_at": thread.created_at,
        "last_message_at": thread.last_message_at,
        "last_message_user_id": thread.last_message_user_id,
        "last_message_username": None if last is None else last.username,
    }


class Quote(BaseModel):
    """The message that another one answers."""

    id: int
    user_id: int
    username: str
    excerpt: str = Field(description="The beginning of what it says now; empty when it was removed")

    @classmethod
    def of(cls, message: ForumMessage) -> Quote:
        return cls(
            id=message.id,
            user_id=message.author_id,
            username=message.author.username,
            excerpt=excerpt(message.content),
        )


class MessageView(BaseModel):
    """A message, the same for everybody who may read it."""

    id: int
    thread_id: int
    number: int = Field(description="Its place in the thread, from 1; there may be gaps")
    content: str = Field(description="Markdown; empty when it was removed")
    content_html: str = Field(description="The same as safe HTML")
    user_id: int
    username: str
    display_name: str
    roles: list[str] = Field(description="Of the author: `team`, `creator`, `admin`")
    created_at: datetime.datetime
    is_edited: bool
    edited_at: datetime.datetime | None
    is_deleted: bool = Field(description="It was removed: its place is still shown")
    like_count: int
    sub_thread_count: int
    reply_to: Quote | None = Field(description="What it answers; null when one of the two was moved to another thread")
    revision: int = Field(description="Grows with every change: the state with the higher one is the newer")

    @classmethod
    def of(cls, message: ForumMessage) -> MessageView:
        """Of a row with `author`, and `reply_to` with its `author`, loaded."""
        return cls.model_validate(_message_fields(message))


class MessageItem(MessageView):
    """A message, for the one who asks."""

    is_liked: bool = Field(description="By the one who asks")

    @classmethod
    def for_reader(cls, message: ForumMessage, *, is_liked: bool) -> MessageItem:
        return cls.model_validate(_message_fields(message) | {"is_liked": is_liked})


def _message_fields(message: ForumMessage) -> dict[str, object]:
    author, quoted = message.author, message.reply_to
    return {
        "id": message.id,
        "thread_id": message.thread_id,
        "number": message.number,
        "content": message.content,
        "content_html": message.content_html,
        "user_id": message.author_id,
        "username": author.username,
        "display_name": author.display_name,
        "roles": sorted(author.roles),
        "created_at": message.created_at,
        "is_edited": message.edited_at is not None,
        "edited_at": message.edited_at,
        "is_deleted": message.is_deleted,
        "like_count": message.like_count,
        "sub_thread_count": message.sub_thread_count,
        "reply_to": Quote.of(quoted) if quoted is not None and quoted.thread_id == message.thread_id else None,
        "revision": message.revision,
    }


class StartedThread(BaseModel):
    """A thread that was just begun, and its first message."""

    thread: ThreadItem
    message: MessageItem


class MessagePlace(BaseModel):
    """A message, and where it stands: list its thread's messages with `from_number` to come to it."""

    message: MessageItem
    thread: ThreadItem
    from_number: int = Field(description="A few messages before it, for the page that shows it")


class PersonItem(BaseModel):
    """Somebody who did something, and when."""

    user_id: int
    username: str
    display_name: str
    at: datetime.datetime

    @classmethod
    def of(cls, user: User, at: datetime.datetime) -> PersonItem:
        return cls(user_id=user.id, username=user.username, display_name=user.display_name, at=at)


class Liked(BaseModel):
    message_id: int
    like_count: int
    is_liked: bool
    revision: int


class EditItem(BaseModel):
    """What a message said before."""

    id: int
    content: str
    content_html: str
    replaced_at: datetime.datetime

    @classmethod
    def of(cls, edit: MessageEdit) -> EditItem:
        return cls(id=edit.id, content=edit.content, content_html=edit.content_html, replaced_at=edit.replaced_at)


class MemberItem(PersonItem):
    """A member of a private thread, and since when."""

    is_author: bool


class ReadState(BaseModel):
    thread_id: int
    last_read_number: int
    unread_count: int


class ReportItem(BaseModel):
    """A report, for moderators."""

    id: int
    message_id: int | None = Field(description="Null when its thread was deleted meanwhile")
    user_id: int = Field(description="Who wrote the message")
    username: str
    content: str = Field(description="What the message said when it was reported")
    reporter_id: int
    reporter_username: str
    reason: str
    status: Literal["open", "dismissed", "removed"]
    note: str
    created_at: datetime.datetime
    resolved_at: datetime.datetime | None
    resolved_by: str | None

    @classmethod
    def of(cls, report: Report) -> ReportItem:
        """Of a row with its three people loaded."""
        return cls.model_validate(
            {
                "id": report.id,
                "message_id": report.message_id,
                "user_id": report.author_id,
                "username": report.author.username,
                "content": report.content,
                "reporter_id": report.reporter_id,
                "reporter_username": report.reporter.username,
                "reason": report.reason,
                "status": report.status,
                "note": report.note,
                "created_at": report.created_at,
                "resolved_at": report.resolved_at,
                "resolved_by": None if report.resolved_by is None else report.resolved_by.username,
            }
        )


class SearchHit(BaseModel):
    """A message, or a thread by its title, that has all of the words."""

    thread_id: int
    title: str = Field(description="Of the thread")
    message_id: int | None = Field(description="Null for a thread")
    number: int | None = Field(description="Of the message in its thread")
    user_id: int
    username: str
    created_at: datetime.datetime
    excerpt: str = Field(description="Plain text around the first of the words")


class Preview(BaseModel):
    content_html: str

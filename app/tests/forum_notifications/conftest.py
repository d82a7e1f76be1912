"""A forum in the database of a test, and everything that its services announce."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

import pytest

from encore.accounts.models import User
from encore.db import Database
from encore.forum import notification_inbox, notification_service
from encore.forum.channel import manager
from encore.forum.models import ForumMessage, Thread, ThreadMember
from encore.forum.notification_schemas import NotificationItem

Json = dict[str, Any]


@dataclass
class Announced:
    """What went out over the channel, in order, with the ids of those whom it was for; None: everybody."""

    messages: list[tuple[Json, frozenset[int] | None]] = field(default_factory=list)

    async def broadcast(
        self, message: Json, target_user_ids: Collection[str] | None = None, *, topic: str | None = None
    ) -> None:
        targets = None if target_user_ids is None else frozenset(int(user_id) for user_id in target_user_ids)
        self.messages.append((message, targets))

    def heard_by(self, user: User) -> list[Json]:
        """What this user's sockets got."""
        return [message for message, targets in self.messages if targets is None or user.id in targets]

    def told(self, user: User) -> list[tuple[str, int]]:
        """The kinds and messages of the notifications that were pushed to this user."""
        pushed = [message["notification"] for message in self.heard_by(user) if message["type"] == "forum_notification"]
        return [(notification["type"], notification["message_id"]) for notification in pushed]

    def counts(self, user: User) -> list[int]:
        """The counts that were pushed to this user."""
        return [message["count"] for message in self.heard_by(user) if message["type"] == "forum_notification_count"]


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> Announced:
    record = Announced()
    monkeypatch.setattr(manager, "broadcast", record.broadcast)
    return record


class Forum:
    """People, threads and messages, straight into the database; what happens is told to the notifications."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def people(self, *names: str, **flags: bool) -> list[User]:
        """New accounts, each with these flags."""
        async with self.database.writing() as session:
            users = [
                User(
                    username=name,
                    username_key=name.lower(),
                    email=name,
                    email_key=name.lower(),
                    password_hash="!",
                    **flags,
                )
                for name in names
            ]
            session.add_all(users)
        return users

    async def thread(
        self, author: User, text: str = "hello", *, members: Collection[User] = (), parent: Thread | None = None
    ) -> Thread:
        """A thread with its first message; a private one when it has members."""
        async with self.database.writing() as session:
            thread = Thread(title=f"{author.username}’s thread", author_id=author.id, is_private=bool(members))
            if parent is not None:
                thread.parent_thread_id, thread.is_private, thread.is_sub_thread = parent.id, parent.is_private, True
            session.add(thread)
            await session.flush()
            if parent is None:
                session.add_all(ThreadMember(thread_id=thread.id, user_id=user.id) for user in members)
            message = self._message(thread, author, text)
            session.add(message)
            await session.flush()
            await notification_service.on_new_thread(
                session,
                author=author,
                thread_id=thread.id,
                title=thread.title,
                message_id=message.id,
                text=text,
                visible_to={user.id for user in members} or None,
            )
        return thread

    async def message(
        self,
        thread: Thread,
        author: User,
        text: str,
        *,
        reply_to: User | None = None,
        members: Collection[User] = (),
    ) -> ForumMessage:
        """One more message in it."""
        async with self.database.writing() as session:
            message = self._message(thread, author, text)
            session.add(message)
            await session.flush()
            await notification_service.on_new_message(
                session,
                author=author,
                thread_id=thread.id,
                title=thread.title,
                message_id=message.id,
                text=text,
                reply_to_user_id=None if reply_to is None else reply_to.id,
                visible_to={user.id for user in members} or None,
            )
        return message

    async def edit(self, thread: Thread, message: ForumMessage, author: User, text: str) -> None:
        """Its author changes what it says."""
        async with self.database.writing() as session:
            row = await session.get_one(ForumMessage, message.id)
            old, row.content = row.content, text
            await notification_service.on_edit(
                session,
                author=author,
                thread_id=thread.id,
                title=thread.title,
                message_id=message.id,
                old_text=old,
                new_text=text,
                visible_to=None,
            )

    async def like(self, thread: Thread, message: ForumMessage, liker: User) -> None:
        """Somebody likes it."""
        async with self.database.writing() as session:
            await notification_service.on_like(
                session,
                liker=liker,
                message_id=message.id,
                author_id=message.author_id,
                thread_id=thread.id,
                title=thread.title,
                visible_to=None,
            )

    async def inbox(self, user: User) -> list[NotificationItem]:
        """All of somebody's notifications, the oldest first."""
        items: list[NotificationItem] = []
        cursor = None
        async with self.database.reading() as session:
            while True:
                page = await notification_inbox.page(
                    session, user=user, limit=100, cursor=cursor, kind=None, unread_only=False
                )
                items.extend(page.items)
                cursor = page.next_cursor
                if cursor is None:
                    return items[::-1]

    async def kinds(self, user: User) -> list[tuple[str, int]]:
        """The kinds and messages of all of somebody's notifications."""
        return [(item.type.value, item.message_id) for item in await self.inbox(user)]

    async def unread(self, user: User) -> int:
        """How many of them are unread."""
        async with self.database.reading() as session:
            return (await notification_inbox.unread(session, user=user)).count

    def _message(self, thread: Thread, author: User, text: str) -> ForumMessage:
        self._numbers = getattr(self, "_numbers", 0) + 1
        return ForumMessage(
            thread_id=thread.id, number=self._numbers, author_id=author.id, content=text, content_html=""
        )


@pytest.fixture
def forum(database: Database) -> Forum:
    return Forum(database)

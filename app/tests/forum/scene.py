"""People of a test, what the forum announces, and what a page makes of it."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Receipt
from encore.accounts.models import User
from encore.db import Database
from encore.forum import message_service, thread_service
from encore.forum.channel import manager
from encore.forum.schemas import MessageItem, StartedThread, excerpt
from harness.site import Json

PERSONAL = ("unread_count", "last_read_number", "is_following", "is_liked")
"""What differs between readers, and so is in no announcement."""
Act = Callable[[AsyncSession], Awaitable[Any]]
LAST = ("message_count", "last_number", "last_message_at", "last_message_user_id", "last_message_username", "revision")


async def people(database: Database, *names: str, **roles: str) -> list[User]:
    """Accounts; `tom="team"` gives a role."""
    users = []
    async with database.writing() as session:
        for name in [*names, *roles]:
            flags: dict[str, Any] = {f"is_{roles[name]}": True} if name in roles else {}
            key = name.casefold()
            user = User(username=name, username_key=key, email=key, email_key=key, password_hash="!", **flags)
            session.add(user)
            users.append(user)
    return users


async def do(database: Database, act: Act) -> Any:
    async with database.writing() as session:
        return await act(session)


async def begin(
    database: Database, author: User, *, members: tuple[User, ...] = (), title: str = "A title"
) -> StartedThread:
    async with database.writing() as session:
        return await thread_service.create_thread(
            session,
            author=author,
            title=title,
            content="The **first** message",
            is_private=bool(members),
            member_ids=[user.id for user in members],
        )


async def say(database: Database, author: User, thread_id: int, content: str, **more: Any) -> MessageItem:
    async with database.writing() as session:
        return await message_service.post_message(session, author=author, thread_id=thread_id, content=content, **more)


@dataclass
class Told:
    """What went out, in order: the message, its topic, and for whom (None: everybody who listens)."""

    message: Json
    topic: str | None
    users: set[str] | None


@dataclass
class Recorder:
    told: list[Told] = field(default_factory=list)

    def messages(self, *types: str) -> list[Json]:
        return [one.message for one in self.told if not types or one.message["type"] in types]

    def types(self) -> list[str]:
        return [one.message["type"] for one in self.told]

    def heard_by(self, user: User, *thread_ids: int) -> list[Json]:
        """What a socket of the user gets that has subscribed to these threads."""
        topics = {None, *(f"thread:{id}" for id in thread_ids)}
        mine = [one for one in self.told if one.users is None or str(user.id) in one.users]
        return [one.message for one in mine if one.topic in topics]

    def clear(self) -> None:
        self.told.clear()


def recording(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    """Keep what the forum's channel is given to send, in the place of its sockets."""
    recorder = Recorder()

    async def broadcast(
        message: Json, target_user_ids: Any = None, *, topic: str | None = None, **rest: Any
    ) -> Receipt:
        recorder.told.append(Told(message, topic, None if target_user_ids is None else set(target_user_ids)))
        return Receipt("0", "local", None, 0, False, None)

    monkeypatch.setattr(manager, "broadcast", broadcast)
    return recorder


@contextmanager
def statements(database: Database) -> Iterator[list[tuple[str, Any]]]:
    """The statements, with their parameters, that the database is given meanwhile; without those of transactions."""
    seen: list[tuple[str, Any]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        if not statement.startswith(("BEGIN", "COMMIT", "ROLLBACK")):
            seen.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


def bare(item: Json) -> Json:
    """A thread or a message without what is the reader's own."""
    return {name: value for name, value in item.items() if name not in PERSONAL}


class ThreadPage:
    """A page that shows one thread: what it fetched, and what it makes of the messages that come."""

    def __init__(self, thread: Json, messages: list[Json], sub_threads: list[Json]) -> None:
        self.thread: Json | None = bare(thread)
        self.id = thread["id"]
        self.messages = {message["id"]: bare(copy.deepcopy(message)) for message in messages}
        self.sub_threads = {sub["id"] for sub in sub_threads}

    @property
    def state(self) -> tuple[Json | None, list[Json], set[int]]:
        return self.thread, sorted(self.messages.values(), key=lambda message: message["number"]), self.sub_threads

    def apply(self, told: list[Json]) -> ThreadPage:
        for message in told:
            handler = getattr(self, f"on_{message['type']}", None)
            if handler is not None:
                handler(copy.deepcopy(message))
        return self

    def on_new_message(self, told: Json) -> None:
        new = told["message"]
        if told["thread_id"] != self.id:
            return
        self.messages.setdefault(new["id"], new)
        assert self.thread is not None
        if told["thread_revision"] > self.thread["revision"]:
            last = (
                told["message_count"],
                new["number"],
                new["created_at"],
                new["user_id"],
                new["username"],
                told["thread_revision"],
            )
            self.thread.update(zip(LAST, last, strict=True))

    def on_thread_updated(self, told: Json) -> None:
        thread = told["thread"]
        if told["thread_id"] != self.id:
            if thread["parent_thread_id"] != self.id:
                self.sub_threads.discard(thread["id"])
            return
        assert self.thread is not None
        if thread["revision"] >= self.thread["revision"]:
            self.thread = thread
        count = told["parent_message"]
        if count is not None:
            self._change(count, sub_thread_count=count["sub_thread_count"])

    def on_message_edited(self, told: Json) -> None:
        names = ("content", "content_html", "is_edited", "edited_at")
        if self._change(told, **{name: told[name] for name in names}):
            self._requote(told["message_id"], excerpt(told["content"]))

    def on_message_deleted(self, told: Json) -> None:
        if told["is_moved"] and told["thread_id"] == self.id:
            self.messages.pop(told["message_id"], None)
            self._requote(told["message_id"], None)
        elif not told["is_moved"]:
            empty = {"content": "", "content_html": "", "is_edited": False, "edited_at": None, "like_count": 0}
            if self._change(told, is_deleted=True, **empty):
                self._requote(told["message_id"], "")

    def on_message_liked(self, told: Json) -> None:
        self._change(told, like_count=told["like_count"])

    on_message_unliked = on_message_liked

    def on_new_sub_thread_created(self, told: Json) -> None:
        if told["thread_id"] == self.id:
            self.sub_threads.add(told["sub_thread"]["id"])

    def on_thread_deleted(self, told: Json) -> None:
        self.sub_threads.discard(told["thread_id"])
        if told["thread_id"] == self.id:
            self.thread, self.messages = None, {}

    def _change(self, told: Json, **changes: object) -> bool:
        message = self.messages.get(told["message_id"])
        if message is None or told["revision"] <= message["revision"]:
            return False
        message.update(changes, revision=told["revision"])
        return True

    def _requote(self, message_id: int, text: str | None) -> None:
        for message in self.messages.values():
            quote = message["reply_to"]
            if quote is not None and quote["id"] == message_id:
                message["reply_to"] = None if text is None else {**quote, "excerpt": text}

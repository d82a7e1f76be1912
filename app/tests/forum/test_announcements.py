"""Old state and messages make the fresh state, whatever a service does; a failed write announces nothing."""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import pytest
from forum.scene import Act, Recorder, ThreadPage, bare, begin, do, people, recording, say
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.db import Database
from encore.forum import (
    like_service,
    listings,
    member_service,
    message_service,
    moderation_service,
    report_service,
    thread_service,
)


async def fetched(database: Database, reader: User, thread_id: int) -> ThreadPage:
    """The page of a thread as somebody sees it who comes now."""
    async with database.reading() as session:
        thread = await listings.get_thread(session, reader=reader, thread_id=thread_id)
        messages = await listings.list_messages(
            session, reader=reader, thread_id=thread_id, from_number=None, order="asc", limit=100, cursor=None
        )
        subs = await listings.list_sub_threads(session, reader=reader, thread_id=thread_id, limit=100, cursor=None)
    as_json = [[item.model_dump(mode="json") for item in page.items] for page in (messages, subs)]
    return ThreadPage(thread.model_dump(mode="json"), *as_json)


class Stage:
    """A thread with three messages, one of them a reply, and another thread; for one of the services to act on."""

    def __init__(self, database: Database, recorder: Recorder, users: list[User]) -> None:
        self.database = database
        self.recorder = recorder
        self.ann, self.ben, self.tom = users

    async def set_up(self, *, is_private: bool) -> Stage:
        ann, ben, tom = self.ann, self.ben, self.tom
        members = (ben, tom) if is_private else ()
        started = await begin(self.database, ann, members=members)
        self.thread, self.first = started.thread.id, started.message.id
        self.second = (await say(self.database, ben, self.thread, "second", reply_to_id=self.first)).id
        self.third = (await say(self.database, ann, self.thread, "third", reply_to_id=self.second)).id
        await do(self.database, lambda session: like_service.like_message(session, liker=ben, message_id=self.third))
        sub = await do(
            self.database,
            lambda session: thread_service.create_sub_thread(
                session, author=ben, title="Aside", content="aside", parent_message_id=self.first
            ),
        )
        self.sub_thread = sub.thread.id
        self.recorder.clear()
        return self


class Story(Protocol):
    async def __call__(self, s: AsyncSession, x: Stage) -> Any: ...


STORIES: dict[str, Story] = {
    "post": lambda s, x: message_service.post_message(
        s, author=x.ben, thread_id=x.thread, content="new", reply_to_id=x.third
    ),
    "edit": lambda s, x: message_service.edit_message(s, editor=x.ben, message_id=x.second, content="other *words*"),
    "like": lambda s, x: like_service.like_message(s, liker=x.tom, message_id=x.second),
    "unlike": lambda s, x: like_service.unlike_message(s, liker=x.ben, message_id=x.third),
    "rename": lambda s, x: thread_service.rename_thread(s, actor=x.ann, thread_id=x.thread, title="Another"),
    "sub-thread of the thread": lambda s, x: thread_service.create_sub_thread(
        s, author=x.tom, title="Sub", content="sub", parent_thread_id=x.thread
    ),
    "sub-thread of a message": lambda s, x: thread_service.create_sub_thread(
        s, author=x.tom, title="Sub", content="sub", parent_message_id=x.first
    ),
    "pin": lambda s, x: moderation_service.set_pinned(s, moderator=x.tom, thread_id=x.thread, is_pinned=True),
    "lock": lambda s, x: moderation_service.set_locked(
        s, moderator=x.tom, thread_id=x.thread, is_locked=True, reason="enough"
    ),
    "move a sub-thread to another message": lambda s, x: moderation_service.move_thread(
        s, moderator=x.tom, thread_id=x.sub_thread, parent_thread_id=None, parent_message_id=x.third
    ),
    "move a message away": lambda s, x: message_service.move_message(
        s, actor=x.tom, message_id=x.second, thread_id=x.sub_thread
    ),
    "move it back": lambda s, x: message_service.move_message(s, actor=x.tom, message_id=x.second, thread_id=x.thread),
    "remove a message": lambda s, x: message_service.delete_message(s, actor=x.tom, message_id=x.third),
    "delete a sub-thread": lambda s, x: thread_service.delete_thread(s, actor=x.ben, thread_id=x.sub_thread),
}
"""In an order in which each is possible after those before it."""


@pytest.mark.parametrize("is_private", [False, True], ids=["public", "private"])
async def test_old_state_and_messages_make_the_fresh_state_when_a_service_acts(
    database: Database, monkeypatch: pytest.MonkeyPatch, is_private: bool
) -> None:
    recorder = recording(monkeypatch)
    users = await people(database, "ann", "ben", tom="team")
    stage = await Stage(database, recorder, users).set_up(is_private=is_private)
    for name, story in STORIES.items():
        recorder.clear()
        pages = [await fetched(database, stage.ben, id) for id in (stage.thread, stage.sub_thread)]
        await do(database, partial(story, x=stage))
        assert recorder.told, f"{name} announces nothing"
        members = {str(user.id) for user in users}
        for told in recorder.told:
            # Of what is private nothing goes out that does not name those whom it is for.
            assert not is_private or (told.users is not None and told.users <= members), told
        for page in pages:
            heard = recorder.heard_by(stage.ben, page.id)
            if name == "delete a sub-thread" and page.id == stage.sub_thread:
                assert page.apply(heard).thread is None
                continue
            fresh = await fetched(database, stage.ben, page.id)
            assert page.apply(heard).state == fresh.state, f"{name}: {recorder.types()}"
            # Heard twice, or late, they change nothing: a page subscribes first, then fetches.
            assert fresh.apply(heard).state == page.state, name


async def test_the_index_is_right_when_messages_are_applied(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recording(monkeypatch)
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    one = await begin(database, ann, title="One")
    side = await do(
        database,
        lambda s: thread_service.create_sub_thread(
            s, author=ben, title="Side", content="x", parent_thread_id=one.thread.id
        ),
    )
    recorder.clear()
    private = await begin(database, ann, members=(tom,), title="Private")
    await begin(database, ben, title="Two")
    await do(database, lambda s: member_service.add_member(s, actor=ann, thread_id=private.thread.id, user_id=ben.id))
    await do(
        database, lambda s: member_service.remove_member(s, actor=ann, thread_id=private.thread.id, user_id=tom.id)
    )
    await do(
        database,
        lambda s: moderation_service.move_thread(
            s, moderator=tom, thread_id=side.thread.id, parent_thread_id=None, parent_message_id=None
        ),
    )
    await do(database, lambda s: thread_service.delete_thread(s, actor=tom, thread_id=one.thread.id))
    for user in (ann, ben, tom):
        index = {one.thread.id: bare(one.thread.model_dump(mode="json"))}
        for message in recorder.heard_by(user):
            if message["type"] == "new_thread_created":
                index[message["thread_id"]] = message["thread"]
            elif message["type"] == "thread_deleted" or message.get("reason") == "access_lost":
                index.pop(message["thread_id"], None)
        async with database.reading() as session:
            page = await listings.list_threads(session, reader=user, limit=100, cursor=None)
        fresh = {item.id: bare(item.model_dump(mode="json")) for item in page.items}
        assert index == fresh, user.username
    moved = [one for one in recorder.told if one.message["thread_id"] == side.thread.id]
    assert [one.message["type"] for one in moved] == ["thread_updated", "thread_updated", "new_thread_created"]


async def test_nothing_is_announced_or_stored_when_the_write_fails(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = recording(monkeypatch)
    users = await people(database, "ann", "ben", tom="team")
    stage = await Stage(database, recorder, users).set_up(is_private=False)
    before = await fetched(database, stage.ben, stage.thread)
    for name, story in STORIES.items():
        if name == "move it back":
            continue  # it never went away
        with pytest.raises(ZeroDivisionError):
            async with database.writing() as session:
                await story(session, stage)
                raise ZeroDivisionError
    assert recorder.told == []
    assert (await fetched(database, stage.ben, stage.thread)).state == before.state


async def test_nothing_is_announced_when_nothing_changes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recording(monkeypatch)
    users = await people(database, "ann", "ben", tom="team")
    stage = await Stage(database, recorder, users).set_up(is_private=False)
    report = await do(
        database,
        lambda s: report_service.report_message(s, reporter=stage.ben, message_id=stage.third, reason="rude"),
    )
    acts: list[Act] = [
        lambda s: message_service.edit_message(s, editor=stage.ben, message_id=stage.second, content="second"),
        lambda s: like_service.like_message(s, liker=stage.ben, message_id=stage.third),
        lambda s: like_service.unlike_message(s, liker=stage.ben, message_id=stage.second),
        lambda s: thread_service.rename_thread(s, actor=stage.ann, thread_id=stage.thread, title="A title"),
        lambda s: moderation_service.set_pinned(s, moderator=stage.tom, thread_id=stage.thread, is_pinned=False),
        lambda s: moderation_service.set_locked(s, moderator=stage.tom, thread_id=stage.thread, is_locked=False),
        lambda s: moderation_service.move_thread(
            s, moderator=stage.tom, thread_id=stage.thread, parent_thread_id=None, parent_message_id=None
        ),
        lambda s: thread_service.mark_read(s, reader=stage.ben, thread_id=stage.thread, number=None),
        lambda s: report_service.resolve_report(
            s, moderator=stage.tom, report_id=report.id, outcome="dismissed", note=""
        ),
    ]
    for act in acts:
        await do(database, act)
    assert recorder.told == []

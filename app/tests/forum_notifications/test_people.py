"""Follows, the switch of @everyone, and the names to complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from encore.accounts.models import User
from encore.errors import NotFound
from encore.forum import follow_service
from encore.forum.models import Thread
from encore.forum.notification_people import completions

if TYPE_CHECKING:
    from forum_notifications.conftest import Forum


async def names(forum: Forum, asker: User, prefix: str, thread: Thread | None = None) -> list[str]:
    async with forum.database.reading() as session:
        people = await completions(session, prefix, asker=asker, thread_id=None if thread is None else thread.id)
    return [person.username for person in people]


async def test_names_are_completed_when_they_begin_so(forum: Forum) -> None:
    (ann, *_) = await forum.people("Ann", "anna", "an_na", "an.x", "An-9", "bann", "ann_2", "zoe")
    await forum.people("annie", is_banned=True)
    assert await names(forum, ann, "ann") == ["Ann", "ann_2", "anna"]
    assert await names(forum, ann, "AN") == ["An-9", "an.x", "an_na", "Ann", "ann_2", "anna"]
    assert await names(forum, ann, "an_") == ["an_na"]
    assert await names(forum, ann, "%") == []
    assert await names(forum, ann, "_") == []
    assert len(await names(forum, ann, "")) == 8


async def test_ten_names_are_enough_when_there_are_more(forum: Forum) -> None:
    people = await forum.people(*(f"name{number:02}" for number in range(15)))
    assert await names(forum, people[0], "name") == [f"name{number:02}" for number in range(10)]


async def test_only_members_are_named_when_the_thread_is_private(forum: Forum) -> None:
    ann, ben, _bob = await forum.people("ann", "ben", "bob")
    (ada,) = await forum.people("ada", is_admin=True)
    private = await forum.thread(ann, members=[ann, ben])
    sub = await forum.thread(ann, parent=private)
    public = await forum.thread(ann)
    for thread in (private, sub):
        assert await names(forum, ann, "b", thread) == ["ben"]
        with pytest.raises(NotFound):
            await names(forum, ada, "b", thread)
    assert await names(forum, ada, "b", public) == ["ben", "bob"]


async def test_follows_are_listed_when_one_may_read_them(forum: Forum) -> None:
    ann, ben = await forum.people("ann", "ben")
    threads = [await forum.thread(ann) for _ in range(3)]
    private = await forum.thread(ann, members=[ann, ben])
    async with forum.database.writing() as session:
        for thread in (threads[0], threads[2], private):
            await follow_service.follow(session, thread.id, user=ben)
    async with forum.database.reading() as session:
        one = await follow_service.follows(session, user=ben, limit=2, cursor=None)
        two = await follow_service.follows(session, user=ben, limit=2, cursor=one.next_cursor)
        found = await follow_service.followed(session, user_id=ben.id, thread_ids=[thread.id for thread in threads])
        authored = await follow_service.follows(session, user=ann, limit=9, cursor=None)
    assert [item.thread_id for item in one.items + two.items] == [private.id, threads[2].id, threads[0].id]
    assert two.next_cursor is None
    assert found == {threads[0].id, threads[2].id}
    assert len(authored.items) == 4


async def test_a_thread_is_not_found_when_one_may_not_follow_it(forum: Forum) -> None:
    ann, ben = await forum.people("ann", "ben")
    private = await forum.thread(ann, members=[ann])
    for thread_id in (private.id, private.id + 1):
        with pytest.raises(NotFound):
            async with forum.database.writing() as session:
                await follow_service.follow(session, thread_id, user=ben)
        async with forum.database.writing() as session:
            await follow_service.unfollow(session, thread_id, user=ben)

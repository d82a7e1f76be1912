"""One's own notifications: listed, counted, read, removed; and what every tab knows of it."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from encore.accounts.models import User
from encore.errors import BadRequest, NotFound
from encore.forum import follow_service, notification_inbox, notification_service
from encore.forum.models import ForumMessage, Thread
from encore.forum.notification_messages import Kind
from encore.forum.notification_schemas import Preferences

if TYPE_CHECKING:
    from forum_notifications.conftest import Announced, Forum, Json


async def page(forum: Forum, user: User, **options: Any) -> tuple[list[int], str | None]:
    settings = {"limit": 2, "cursor": None, "kind": None, "unread_only": False, **options}
    async with forum.database.reading() as session:
        found = await notification_inbox.page(session, user=user, **settings)
    return [item.id for item in found.items], found.next_cursor


async def test_pages_show_each_once_when_more_arrive_meanwhile(forum: Forum, announced: Announced) -> None:
    ann, ben = await forum.people("ann", "ben")
    thread = await forum.thread(ann)
    for _ in range(5):
        await forum.message(thread, ben, "hi")
    ids = [item.id for item in await forum.inbox(ann)]
    first, cursor = await page(forum, ann)
    await forum.message(thread, ben, "later")
    second, cursor = await page(forum, ann, cursor=cursor)
    third, cursor = await page(forum, ann, cursor=cursor)
    assert first + second + third == ids[::-1]
    assert cursor is None


@pytest.mark.parametrize("cursor", ["x", "WzFd!", "WyJhIl0", "W10", "WzEsMl0"])
async def test_a_cursor_is_refused_when_it_is_none(forum: Forum, cursor: str) -> None:
    (ann,) = await forum.people("ann")
    with pytest.raises(BadRequest):
        await page(forum, ann, cursor=cursor)


async def test_only_some_are_listed_when_the_kind_or_the_unread_are_asked_for(
    forum: Forum, announced: Announced
) -> None:
    ann, ben = await forum.people("ann", "ben")
    thread = await forum.thread(ann)
    await forum.message(thread, ben, "@ann")
    await forum.message(thread, ben, "two")
    await forum.message(thread, ben, "@ann three")
    one, two, three = [item.id for item in await forum.inbox(ann)]
    async with forum.database.writing() as session:
        await notification_inbox.mark_read(session, three, user=ann)
    assert await page(forum, ann, kind=Kind.MENTION) == ([three, one], None)
    assert await page(forum, ann, kind=Kind.LIKE) == ([], None)
    assert await page(forum, ann, unread_only=True) == ([two, one], None)
    assert await page(forum, ann, unread_only=True, kind=Kind.MENTION) == ([one], None)
    assert (await page(forum, ann, kind=Kind.MENTION, limit=1))[0] == [three]


async def test_all_tabs_learn_it_when_one_reads(forum: Forum, announced: Announced) -> None:
    ann, ben = await forum.people("ann", "ben")
    thread = await forum.thread(ann)
    for _ in range(3):
        await forum.message(thread, ben, "hi")
    one, two, three = [item.id for item in await forum.inbox(ann)]
    announced.messages.clear()
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_read(session, two, user=ann)).count == 2
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_read(session, two, user=ann)).count == 2
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_all_read(session, user=ann)).count == 0
    pushed = [(message["count"], message["read_ids"]) for message in announced.heard_by(ann)]
    assert pushed == [(2, [two]), (0, [three, one])]
    assert announced.heard_by(ben) == []


async def test_some_are_read_when_one_kind_or_thread_is_named(forum: Forum, announced: Announced) -> None:
    ann, ben = await forum.people("ann", "ben")
    thread, other = await forum.thread(ann), await forum.thread(ann)
    await forum.message(thread, ben, "@ann")
    await forum.message(thread, ben, "two")
    await forum.message(other, ben, "three")
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_all_read(session, user=ann, kind=Kind.MENTION)).count == 2
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_all_read(session, user=ann, thread_id=thread.id)).count == 1
    assert [item.is_read for item in await forum.inbox(ann)] == [True, True, False]


async def test_another_ones_notification_is_not_found_whatever_is_done_to_it(
    forum: Forum, announced: Announced
) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    await forum.thread(ann, "@ben")
    (item,) = await forum.inbox(ben)
    for act in (notification_inbox.mark_read, notification_inbox.remove):
        for number in (item.id, item.id + 1):
            with pytest.raises(NotFound):
                async with forum.database.writing() as session:
                    await act(session, number, user=kim)
    async with forum.database.writing() as session:
        assert (await notification_inbox.mark_all_read(session, user=kim)).count == 0
    assert await forum.unread(ben) == 1
    assert announced.heard_by(kim) == []


async def test_a_notification_is_gone_when_it_is_removed(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    await forum.thread(ann, "@ben @kim")
    (item,) = await forum.inbox(ben)
    async with forum.database.writing() as session:
        assert (await notification_inbox.remove(session, item.id, user=ben)).count == 0
    assert await forum.inbox(ben) == []
    assert announced.heard_by(ben)[-1]["removed_ids"] == [item.id]
    assert len(await forum.inbox(kim)) == 1


async def test_preferences_are_kept_when_they_are_set(forum: Forum) -> None:
    (ann,) = await forum.people("ann")
    everything = Preferences(mention=True, reply=True, follow=True, everyone=True, like=True, everyone_muted=False)
    async with forum.database.reading() as session:
        assert await notification_inbox.preferences_of(session, user=ann) == everything
    for wanted in (everything.model_copy(update={"like": False, "everyone_muted": True}), everything):
        async with forum.database.writing() as session:
            await notification_inbox.set_preferences(session, wanted, user=ann)
        async with forum.database.reading() as session:
            assert await notification_inbox.preferences_of(session, user=ann) == wanted


class _Tab:
    """What a page knows: fetched once, then kept by what it hears."""

    def __init__(self, count: int, version: int, items: dict[int, bool]) -> None:
        self.count, self.version, self.items = count, version, items

    @classmethod
    async def fetched(cls, forum: Forum, user: User) -> _Tab:
        items = {item.id: item.is_read for item in await forum.inbox(user)}
        async with forum.database.reading() as session:
            unread = await notification_inbox.unread(session, user=user)
        return cls(unread.count, unread.version, items)

    def hear(self, message: Json) -> None:
        if message["type"] == "forum_notification":
            self.items.setdefault(message["notification"]["id"], False)
        elif message["type"] == "forum_notification_count":
            if message["version"] > self.version:
                self.count, self.version = message["count"], message["version"]
            self.items.update(dict.fromkeys(self.items.keys() & set(message["read_ids"]), True))
            for number in message["removed_ids"]:
                self.items.pop(number, None)

    def state(self) -> tuple[int, int, dict[int, bool]]:
        return self.count, self.version, self.items


async def test_a_tab_knows_the_state_when_it_adds_what_it_hears(forum: Forum, announced: Announced) -> None:
    people = await forum.people("ann", "ben", "kim")
    (ada,) = await forum.people("ada", is_admin=True)
    people.append(ada)
    ann, ben, kim, _ = people
    private = await forum.thread(ann, "@ben", members=[ann, ben, ada])
    thread = await forum.thread(ann, "@ben @kim")
    tabs = {user.id: await _Tab.fetched(forum, user) for user in people}
    announced.messages.clear()

    async with forum.database.writing() as session:
        await follow_service.follow(session, thread.id, user=kim)
    first = await forum.message(thread, ben, "@ann hi", reply_to=ada)
    second = await forum.message(thread, ada, "@everyone")
    await forum.message(private, ann, "secret @ben", members=[ann, ben, ada])
    await forum.like(thread, first, ann)
    await forum.like(thread, second, kim)
    await forum.edit(thread, first, ben, "@ann @kim hi")
    newest = (await forum.inbox(ann))[-1].id
    async with forum.database.writing() as session:
        await notification_inbox.mark_read(session, newest, user=ann)
    async with forum.database.writing() as session:
        await notification_inbox.remove(session, (await forum.inbox(kim))[0].id, user=kim)
    async with forum.database.writing() as session:
        await notification_inbox.mark_all_read(session, user=ada)
    async with forum.database.writing() as session:
        await notification_service.on_removed(session, message_ids=[second.id])
    async with forum.database.writing() as session:
        await notification_service.on_access_lost(session, user_id=ben.id, thread_id=private.id)

    for user in people:
        for message in announced.heard_by(user):
            tabs[user.id].hear(message)
        assert tabs[user.id].state() == (await _Tab.fetched(forum, user)).state(), user.username
    assert all(tabs[user.id].items for user in people)


async def test_the_last_version_has_the_right_count_when_many_write_at_once(forum: Forum, announced: Announced) -> None:
    ann, ben, kim, tom = await forum.people("ann", "ben", "kim", "tom")
    threads = [await forum.thread(author, "begun") for author in (ann, ben, kim)]
    for thread in threads:
        for user in (ann, ben, kim):
            async with forum.database.writing() as session:
                await follow_service.follow(session, thread.id, user=user)
    announced.messages.clear()

    async def write(thread: Thread, number: int) -> None:
        async with forum.database.writing() as session:
            message = ForumMessage(
                thread_id=thread.id, number=1000 + number, author_id=tom.id, content="x", content_html=""
            )
            session.add(message)
            await session.flush()
            await notification_service.on_new_message(
                session,
                author=tom,
                thread_id=thread.id,
                title=thread.title,
                message_id=message.id,
                text="@kim x",
                reply_to_user_id=None,
                visible_to=None,
            )

    async def read(user: User) -> None:
        async with forum.database.writing() as session:
            await notification_inbox.mark_all_read(session, user=user)

    work = [write(thread, number) for thread in threads for number in range(6)]
    work += [read(user) for user in (ann, ben) for _ in range(3)]
    random.Random(7).shuffle(work)
    await asyncio.gather(*work)
    for user in (ann, ben, kim):
        async with forum.database.reading() as session:
            unread = await notification_inbox.unread(session, user=user)
        heard = [message for message in announced.heard_by(user) if message["type"] == "forum_notification_count"]
        versions = [message["version"] for message in heard]
        assert len(set(versions)) == len(versions)
        latest = max(heard, key=lambda message: int(message["version"]))
        assert (latest["count"], latest["version"]) == (unread.count, unread.version)
    assert await forum.unread(kim) == 18

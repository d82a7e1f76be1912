"""Who is told of what, and who is not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import func, select

from encore.accounts.models import User
from encore.errors import NotFound
from encore.forum import everyone_service, follow_service, notification_expiry, notification_inbox, notification_service
from encore.forum.models import ForumMessage, Thread
from encore.forum.notification_models import Follow, Notification, NotificationVersion, Recipient
from encore.forum.notification_schemas import Preferences

if TYPE_CHECKING:
    from forum_notifications.conftest import Announced, Forum


ALL_ON = {"mention": True, "reply": True, "follow": True, "everyone": True, "like": True, "everyone_muted": False}


async def prefer(forum: Forum, user: User, **changes: bool) -> None:
    async with forum.database.writing() as session:
        await notification_inbox.set_preferences(session, Preferences(**{**ALL_ON, **changes}), user=user)


async def follow(forum: Forum, user: User, thread: Thread) -> None:
    async with forum.database.writing() as session:
        await follow_service.follow(session, thread.id, user=user)


async def test_those_are_told_once_whom_a_message_concerns_in_several_ways(forum: Forum, announced: Announced) -> None:
    ann, ben, kim, tom, zoe = await forum.people("Ann", "ben", "kim", "tom", "zoe")
    thread = await forum.thread(ann)
    for follower in (ben, kim):
        await follow(forum, follower, thread)
    message = await forum.message(thread, zoe, "@ann @BEN @ann @nobody @zoe see this", reply_to=kim)
    expected = {ann: "mention", ben: "mention", kim: "reply"}
    for user in (ann, ben, kim, tom, zoe):
        kinds = [(expected[user], message.id)] if user in expected else []
        assert await forum.kinds(user) == kinds
        assert announced.told(user) == kinds
        assert announced.counts(user) == [1] * len(kinds)


async def test_followers_are_told_when_somebody_else_writes(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    thread = await forum.thread(ann)
    await follow(forum, ben, thread)
    await follow(forum, ben, thread)
    message = await forum.message(thread, ann, "news")
    assert await forum.kinds(ben) == [("follow", message.id)]
    assert await forum.kinds(ann) == await forum.kinds(kim) == []
    other = await forum.message(thread, kim, "more")
    assert await forum.kinds(ann) == [("follow", other.id)]
    async with forum.database.writing() as session:
        await follow_service.unfollow(session, thread.id, user=ben)
    await forum.message(thread, kim, "unheard")
    assert await forum.kinds(ben) == [("follow", message.id), ("follow", other.id)]


async def test_the_next_reason_counts_when_one_is_switched_off(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    thread = await forum.thread(ann)
    await prefer(forum, ben, mention=False)
    one = await forum.message(thread, ann, "@ben", reply_to=ben)
    await prefer(forum, ben, mention=False, reply=False)
    await forum.message(thread, ann, "@ben", reply_to=ben)
    await follow(forum, ben, thread)
    three = await forum.message(thread, ann, "@ben", reply_to=ben)
    await prefer(forum, ben, mention=False, reply=False, follow=False)
    await forum.message(thread, ann, "@ben", reply_to=ben)
    assert await forum.kinds(ben) == [("reply", one.id), ("follow", three.id)]
    assert announced.told(ben) == [("reply", one.id), ("follow", three.id)]
    assert await forum.kinds(kim) == []


async def test_nobody_else_learns_of_it_when_a_thread_is_private(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    (tom,) = await forum.people("tom", is_admin=True)
    thread = await forum.thread(ann, "@ben @kim @everyone", members=[ann, ben, tom])
    await follow(forum, ben, thread)
    message = await forum.message(thread, tom, "@kim @everyone", reply_to=kim, members=[ann, ben, tom])
    assert announced.heard_by(kim) == []
    assert await forum.kinds(kim) == []
    assert [kind for kind, _ in await forum.kinds(ben)] == ["mention", "follow"]
    assert await forum.kinds(ann) == [("follow", message.id)]
    assert not any(targets is None for _, targets in announced.messages)
    async with forum.database.reading() as session:
        assert (await everyone_service.state(session, reader=tom, thread_id=thread.id)).reach == 2
        with pytest.raises(NotFound):
            await everyone_service.state(session, reader=kim, thread_id=thread.id)


async def test_no_one_is_told_when_banned(forum: Forum, announced: Announced) -> None:
    ann, tom = await forum.people("ann", "tom", is_team=True)
    (ben,) = await forum.people("ben", is_banned=True)
    thread = await forum.thread(ann)
    message = await forum.message(thread, ben, "mine")
    await forum.message(thread, tom, "@ben @everyone", reply_to=ben)
    await forum.like(thread, message, tom)
    assert announced.heard_by(ben) == []
    assert await forum.unread(ben) == 0


async def test_new_names_are_told_when_a_message_is_edited(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    (cleo,) = await forum.people("cleo", is_creator=True)
    thread = await forum.thread(ann)
    message = await forum.message(thread, cleo, "@ben hi")
    await forum.edit(thread, message, cleo, "@ben @kim hi")
    await forum.edit(thread, message, cleo, "hi")
    await forum.edit(thread, message, cleo, "@ben @kim @ann @everyone hi")
    assert await forum.kinds(ben) == [("mention", message.id)]
    assert await forum.kinds(kim) == [("mention", message.id)]
    assert await forum.kinds(ann) == [("follow", message.id)]
    assert (await forum.inbox(ben))[0].content == "@ben @kim @ann @everyone hi"
    assert [len(announced.told(user)) for user in (ann, ben, kim)] == [1, 1, 1]


async def test_the_author_is_told_once_when_somebody_likes_and_unlikes_and_likes(
    forum: Forum, announced: Announced
) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    thread = await forum.thread(ann)
    message = await forum.message(thread, ann, "a *fine* message")
    for liker in (ann, ben, ben, kim):
        await forum.like(thread, message, liker)
    items = await forum.inbox(ann)
    assert [(item.type, item.from_username, item.content) for item in items] == [
        ("like", "ben", "a *fine* message"),
        ("like", "kim", "a *fine* message"),
    ]
    assert items[0].title == "ben likes your message in “ann’s thread”"
    assert announced.counts(ann) == [1, 2]
    await prefer(forum, ann, like=False)
    (tom,) = await forum.people("tom")
    await forum.like(thread, message, tom)
    assert await forum.unread(ann) == 2


async def test_everyone_is_told_when_one_of_the_staff_says_so(forum: Forum, announced: Announced) -> None:
    ann, ben, kim, zoe = await forum.people("ann", "ben", "kim", "zoe")
    (tom,) = await forum.people("tom", is_team=True)
    await prefer(forum, kim, everyone=False)
    await prefer(forum, zoe, everyone_muted=True)
    thread = await forum.thread(tom)
    async with forum.database.reading() as session:
        assert (await everyone_service.state(session, reader=tom)).reach == 3
        assert (await everyone_service.state(session, reader=ann)).reach is None
    message = await forum.message(thread, tom, "@everyone and you, @ann")
    assert await forum.kinds(ann) == announced.told(ann) == [("mention", message.id)]
    assert await forum.kinds(ben) == announced.told(ben) == [("everyone", message.id)]
    assert await forum.kinds(kim) == await forum.kinds(tom) == []
    assert announced.heard_by(kim) == announced.heard_by(tom) == []
    assert await forum.kinds(zoe) == [("everyone", message.id)]
    assert (announced.told(zoe), announced.counts(zoe)) == ([], [1])


async def test_everyone_is_plain_text_when_a_listener_writes_it_or_it_is_off(
    forum: Forum, announced: Announced
) -> None:
    ann, ben = await forum.people("ann", "ben")
    (ada,) = await forum.people("ada", is_admin=True)
    thread = await forum.thread(ann, "@everyone")
    await forum.message(thread, ann, "@everyone")
    assert announced.messages == []
    async with forum.database.writing() as session:
        await everyone_service.switch(session, admin=ada, on=False, reason="too much")
        await everyone_service.switch(session, admin=ada, on=False, reason="again")
    await forum.message(thread, ada, "@everyone")
    assert await forum.unread(ben) == 0
    async with forum.database.writing() as session:
        state = await everyone_service.state(session, reader=ben)
        assert (state.enabled, state.reason, state.may_use) == (False, "too much", False)
        await everyone_service.switch(session, admin=ada, on=True)
    await forum.message(thread, ada, "@everyone")
    assert await forum.unread(ben) == 1
    switches = [message for message, targets in announced.messages if targets is None]
    assert switches == [
        {"type": "everyone_mention_disabled", "message": "@everyone is switched off: too much"},
        {"type": "everyone_mention_enabled", "message": "@everyone works again"},
    ]


async def test_nothing_is_left_when_what_it_was_about_is_gone(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    thread, other = await forum.thread(ann), await forum.thread(ann)
    sub = await forum.thread(ann, "@ben", parent=thread)
    first = await forum.message(thread, ann, "@ben @kim")
    await forum.message(thread, ann, "@ben")
    await forum.message(other, ann, "@ben")
    assert await forum.unread(ben) == 4
    async with forum.database.writing() as session:
        await notification_service.on_removed(session, message_ids=[first.id])
    assert (announced.counts(ben)[-1], announced.counts(kim)[-1]) == (3, 0)
    removed = announced.heard_by(kim)[-1]["removed_ids"]
    assert removed == [announced.heard_by(kim)[0]["notification"]["id"]]
    async with forum.database.writing() as session:
        await notification_service.on_thread_removed(session, thread_ids=[thread.id, sub.id])
        await session.delete(await session.get_one(Thread, sub.id))
        await session.delete(await session.get_one(Thread, thread.id))
    assert announced.counts(ben)[-1] == await forum.unread(ben) == 1
    async with forum.database.reading() as session:
        assert await session.scalar(select(func.count()).select_from(Notification)) == 1
        assert await session.scalar(select(func.count()).select_from(Recipient)) == 1


async def test_nothing_is_left_when_somebody_loses_a_private_thread(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    everybody = [ann, ben, kim]
    thread = await forum.thread(ann, members=everybody)
    sub = await forum.thread(ann, parent=thread)
    for user in (ben, kim):
        await follow(forum, user, thread)
        await follow(forum, user, sub)
    await forum.message(thread, ann, "@ben @kim", members=everybody)
    await forum.message(sub, ann, "more", members=everybody)
    await forum.message(await forum.thread(ann), ann, "public @ben")
    async with forum.database.writing() as session:
        await notification_service.on_access_lost(session, user_id=ben.id, thread_id=thread.id)
    assert [item.content for item in await forum.inbox(ben)] == ["public @ben"]
    assert announced.counts(ben)[-1] == 1
    assert await forum.unread(kim) == 2
    async with forum.database.reading() as session:
        rows = await session.scalars(select(Follow.thread_id).where(Follow.user_id.in_([ben.id, kim.id])))
        assert sorted(rows) == [thread.id, sub.id]


async def test_old_ones_go_when_half_a_year_has_passed(forum: Forum, announced: Announced) -> None:
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    for text in ("@ben one", "@ben @kim two", "@ben three"):
        await forum.thread(ann, text)
    async with forum.database.writing() as session:
        for number, row in enumerate(await session.scalars(select(Notification).order_by(Notification.id))):
            row.created_at -= (2 - number) * notification_expiry.KEPT
    announced.messages.clear()
    assert await notification_expiry.forget_old() == 2
    assert await notification_expiry.forget_old() == 0
    assert [item.content for item in await forum.inbox(ben)] == ["@ben three"]
    assert (announced.counts(ben), announced.counts(kim)) == ([1], [0])


async def test_a_notification_is_not_listed_when_its_thread_cannot_be_read_any_more(forum: Forum) -> None:
    ann, ben = await forum.people("ann", "ben")
    thread = await forum.thread(ann, "@ben secret")
    async with forum.database.writing() as session:
        (await session.get_one(Thread, thread.id)).is_private = True
    assert await forum.inbox(ben) == []


async def test_nothing_is_stored_or_announced_when_the_write_fails(forum: Forum, announced: Announced) -> None:
    ann, ben = await forum.people("ann", "ben", is_admin=True)
    thread = await forum.thread(ann)
    with pytest.raises(ZeroDivisionError):
        async with forum.database.writing() as session:
            message = ForumMessage(thread_id=thread.id, number=99, author_id=ann.id, content="", content_html="")
            session.add(message)
            await session.flush()
            happening: dict[str, Any] = {
                "author": ann,
                "thread_id": thread.id,
                "title": thread.title,
                "message_id": message.id,
                "text": "@ben @everyone",
                "visible_to": None,
            }
            await notification_service.on_new_message(session, reply_to_user_id=None, **happening)
            await everyone_service.switch(session, admin=ann, on=False)
            raise ZeroDivisionError
    assert announced.messages == []
    async with forum.database.reading() as session:
        for table in (Notification, Recipient, NotificationVersion):
            assert await session.scalar(select(func.count()).select_from(table)) == 0
        assert (await everyone_service.state(session, reader=ann)).enabled
    assert await forum.unread(ben) == 0

"""Who may do what in the forum, and what does not make sense; on both databases."""

from __future__ import annotations

from functools import partial

import pytest
from forum.scene import Act, begin, do, people, say
from sqlalchemy import func, select

from encore.accounts.models import User
from encore.db import Database
from encore.errors import BadRequest, Conflict, Forbidden, NotFound, SiteError
from encore.forum import (
    like_service,
    listings,
    member_service,
    message_service,
    moderation_service,
    posting,
    report_service,
    thread_service,
)
from encore.forum.models import ForumMessage, Like, MessageEdit, ThreadMember


async def refused(database: Database, error: type[SiteError], act: Act, *, code: str | None = None) -> None:
    with pytest.raises(error) as caught:
        await do(database, act)
    assert code is None or caught.value.code == code


def everything(actor: User, thread: int, message: int) -> list[Act]:
    """All that one can do with a thread and its message."""
    return [
        lambda s: listings.get_thread(s, reader=actor, thread_id=thread),
        lambda s: listings.list_messages(
            s, reader=actor, thread_id=thread, from_number=None, order="asc", limit=10, cursor=None
        ),
        lambda s: listings.list_sub_threads(s, reader=actor, thread_id=thread, limit=10, cursor=None),
        lambda s: listings.list_sub_threads(s, reader=actor, message_id=message, limit=10, cursor=None),
        lambda s: listings.place_of_message(s, reader=actor, message_id=message),
        lambda s: listings.list_likers(s, reader=actor, message_id=message, limit=10, cursor=None),
        lambda s: listings.list_edits(s, reader=actor, message_id=message, limit=10, cursor=None),
        lambda s: thread_service.rename_thread(s, actor=actor, thread_id=thread, title="x"),
        lambda s: thread_service.delete_thread(s, actor=actor, thread_id=thread),
        lambda s: thread_service.mark_read(s, reader=actor, thread_id=thread, number=None),
        lambda s: thread_service.create_sub_thread(s, author=actor, title="x", content="x", parent_thread_id=thread),
        lambda s: thread_service.create_sub_thread(s, author=actor, title="x", content="x", parent_message_id=message),
        lambda s: message_service.post_message(s, author=actor, thread_id=thread, content="x"),
        lambda s: message_service.edit_message(s, editor=actor, message_id=message, content="x"),
        lambda s: message_service.delete_message(s, actor=actor, message_id=message),
        lambda s: message_service.move_message(s, actor=actor, message_id=message, thread_id=thread),
        lambda s: like_service.like_message(s, liker=actor, message_id=message),
        lambda s: like_service.unlike_message(s, liker=actor, message_id=message),
        lambda s: member_service.list_members(s, reader=actor, thread_id=thread, limit=10, cursor=None),
        lambda s: member_service.get_member(s, reader=actor, thread_id=thread, user_id=actor.id),
        lambda s: member_service.add_member(s, actor=actor, thread_id=thread, user_id=actor.id),
        lambda s: member_service.remove_member(s, actor=actor, thread_id=thread, user_id=actor.id),
        lambda s: moderation_service.set_pinned(s, moderator=actor, thread_id=thread, is_pinned=True),
        lambda s: moderation_service.set_locked(s, moderator=actor, thread_id=thread, is_locked=True),
        lambda s: moderation_service.move_thread(
            s, moderator=actor, thread_id=thread, parent_thread_id=None, parent_message_id=None
        ),
        lambda s: report_service.report_message(s, reporter=actor, message_id=message, reason="x"),
    ]


async def test_a_private_thread_is_not_there_when_one_is_no_member(database: Database) -> None:
    ann, ben, ada = await people(database, "ann", "ben", ada="admin")
    private = await begin(database, ann, members=(ben,))
    sub = await do(
        database,
        lambda s: thread_service.create_sub_thread(
            s, author=ben, title="Side", content="x", parent_message_id=private.message.id
        ),
    )
    for started in (private, sub):
        for act in everything(ada, started.thread.id, started.message.id):
            await refused(database, NotFound, act)
    elsewhere = await begin(database, ada)
    target = private.thread.id
    for act in (
        lambda s: message_service.move_message(s, actor=ada, message_id=elsewhere.message.id, thread_id=target),
        lambda s: moderation_service.move_thread(
            s, moderator=ada, thread_id=elsewhere.thread.id, parent_thread_id=target, parent_message_id=None
        ),
    ):
        await refused(database, NotFound, act)
    async with database.reading() as session:
        for reader, count in ((ann, 2), (ben, 2), (ada, 1), (None, 1)):
            page = await listings.list_threads(session, reader=reader, limit=10, cursor=None)
            assert len(page.items) == count


async def test_an_id_is_never_given_twice_when_its_thread_is_deleted(database: Database) -> None:
    (ann,) = await people(database, "ann")
    seen = set()
    for _ in range(2):
        started = await begin(database, ann)
        seen |= {started.thread.id, -started.message.id}
        await do(database, partial(thread_service.delete_thread, actor=ann, thread_id=started.thread.id))
    assert len(seen) == 4


async def test_only_its_author_changes_a_message_and_moderators_remove_it_too(database: Database) -> None:
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    started = await begin(database, ann)
    message = started.message.id
    for other in (ben, tom):
        await refused(
            database,
            Forbidden,
            partial(message_service.edit_message, editor=other, message_id=message, content="x"),
        )
    await refused(database, Forbidden, lambda s: message_service.delete_message(s, actor=ben, message_id=message))
    thread = started.thread.id
    await refused(
        database, Forbidden, lambda s: thread_service.rename_thread(s, actor=ben, thread_id=thread, title="x")
    )
    await refused(database, Forbidden, lambda s: thread_service.delete_thread(s, actor=ben, thread_id=thread))
    await do(database, lambda s: message_service.delete_message(s, actor=tom, message_id=message))


async def test_only_moderators_write_when_a_thread_is_locked(database: Database) -> None:
    ann, tom = await people(database, "ann", tom="team")
    started = await begin(database, ann)
    thread, message = started.thread.id, started.message.id
    await do(
        database,
        lambda s: moderation_service.set_locked(s, moderator=tom, thread_id=thread, is_locked=True, reason="calm down"),
    )
    for act in (
        lambda s: message_service.post_message(s, author=ann, thread_id=thread, content="x"),
        lambda s: message_service.edit_message(s, editor=ann, message_id=message, content="x"),
        lambda s: thread_service.rename_thread(s, actor=ann, thread_id=thread, title="x"),
        lambda s: thread_service.create_sub_thread(s, author=ann, title="x", content="x", parent_thread_id=thread),
        lambda s: thread_service.create_sub_thread(s, author=ann, title="x", content="x", parent_message_id=message),
    ):
        await refused(database, Forbidden, act, code="thread_locked")
    await say(database, tom, thread, "the last word")
    liked = await do(database, lambda s: like_service.like_message(s, liker=ann, message_id=message))
    assert liked.like_count == 1


async def test_nothing_of_a_message_is_kept_but_its_place_when_it_is_removed(database: Database) -> None:
    ann, ben = await people(database, "ann", "ben")
    started = await begin(database, ann)
    thread = started.thread.id
    secret = await say(database, ben, thread, "my *secret* address")
    await say(database, ann, thread, "oh", reply_to_id=secret.id)
    await do(database, lambda s: message_service.edit_message(s, editor=ben, message_id=secret.id, content="my secret"))
    await do(database, lambda s: like_service.like_message(s, liker=ann, message_id=secret.id))
    for _ in range(2):
        await do(database, lambda s: message_service.delete_message(s, actor=ben, message_id=secret.id))
    async with database.reading() as session:
        page = await listings.list_messages(
            session, reader=ann, thread_id=thread, from_number=None, order="asc", limit=10, cursor=None
        )
        edits = (await session.execute(select(func.count()).select_from(MessageEdit))).scalar_one()
        likes = (await session.execute(select(func.count()).select_from(Like))).scalar_one()
    _, removed, reply = page.items
    assert (removed.is_deleted, removed.content, removed.content_html, removed.like_count) == (True, "", "", 0)
    assert reply.reply_to is not None
    assert (reply.reply_to.id, reply.reply_to.excerpt) == (secret.id, "")
    assert (edits, likes) == (0, 0)
    for act in (
        lambda s: message_service.edit_message(s, editor=ben, message_id=secret.id, content="again"),
        lambda s: like_service.like_message(s, liker=ann, message_id=secret.id),
        lambda s: thread_service.create_sub_thread(s, author=ann, title="x", content="x", parent_message_id=secret.id),
        lambda s: report_service.report_message(s, reporter=ann, message_id=secret.id, reason="x"),
    ):
        await refused(database, Conflict, act, code="message_removed")
    await refused(
        database,
        BadRequest,
        lambda s: message_service.post_message(s, author=ann, thread_id=thread, content="x", reply_to_id=secret.id),
        code="bad_reply",
    )


async def test_everyone_is_marked_when_the_staff_writes_it(database: Database) -> None:
    ann, tom = await people(database, "ann", tom="team")
    for author, is_marked in ((ann, False), (tom, True)):
        started = await begin(database, author)
        said = await say(database, author, started.thread.id, "Hello @everyone")
        edit = partial(message_service.edit_message, editor=author, message_id=said.id, content="Well, @everyone")
        for html in (said.content_html, (await do(database, edit)).content_html):
            assert ('class="mention everyone"' in html) is is_marked


async def test_the_history_has_what_a_message_said_when_it_is_edited(database: Database) -> None:
    (ann,) = await people(database, "ann")
    message = (await begin(database, ann)).message.id
    for content in ("second", "*third*", "fourth"):
        edited = await do(
            database, partial(message_service.edit_message, editor=ann, message_id=message, content=content)
        )
        assert (edited.content, edited.is_edited) == (content, True)
    seen, cursor = [], None
    async with database.reading() as session:
        for _ in range(2):
            page = await listings.list_edits(session, reader=None, message_id=message, limit=2, cursor=cursor)
            seen += [edit.content for edit in page.items]
            cursor = page.next_cursor
    assert seen == ["*third*", "second", "The **first** message"]
    assert cursor is None


async def test_a_reply_quotes_only_its_own_thread(database: Database) -> None:
    ann, ben = await people(database, "ann", "ben")
    private, public = await begin(database, ann, members=(ann,)), await begin(database, ann)
    await refused(
        database,
        BadRequest,
        lambda s: message_service.post_message(
            s, author=ben, thread_id=public.thread.id, content="x", reply_to_id=private.message.id
        ),
        code="bad_reply",
    )


async def test_unread_counts_follow_the_read_position(database: Database) -> None:
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    thread, other = (await begin(database, ann)).thread.id, (await begin(database, ann)).thread.id
    messages = [(await say(database, ann, thread, f"number {n}")).id for n in range(2, 6)]

    async def unread(reader: User) -> tuple[int, int]:
        async with database.reading() as session:
            page = await listings.list_threads(session, reader=reader, limit=10, cursor=None)
            one = await listings.get_thread(session, reader=reader, thread_id=thread)
        listed = next(item for item in page.items if item.id == thread)
        assert (listed.unread_count, listed.last_read_number) == (one.unread_count, one.last_read_number)
        return one.unread_count, one.last_read_number

    async def read(number: int | None) -> tuple[int, int]:
        state = await do(database, lambda s: thread_service.mark_read(s, reader=ben, thread_id=thread, number=number))
        return state.unread_count, state.last_read_number

    assert (await unread(ann), await unread(ben)) == ((0, 5), (5, 0))
    assert await read(3) == (2, 3) == await unread(ben)
    assert await read(1) == (2, 3), "another tab is further on"
    # What was moved away is not to be read any more.
    await do(database, lambda s: message_service.move_message(s, actor=tom, message_id=messages[-1], thread_id=other))
    assert await read(4) == (0, 5)
    await say(database, ann, thread, "number 6")
    assert await unread(ben) == (1, 5)
    assert await read(2**31 - 1) == (0, 6)
    await say(database, ben, thread, "number 7")
    assert await unread(ben) == (0, 7)
    async with database.reading() as session:
        guest = await listings.get_thread(session, reader=None, thread_id=thread)
    assert (guest.unread_count, guest.is_following) == (0, False)


async def test_sub_threads_have_no_sub_threads(database: Database) -> None:
    ann, tom = await people(database, "ann", tom="team")
    one, two = await begin(database, ann), await begin(database, ann)

    sub = partial(thread_service.create_sub_thread, author=ann, title="x", content="x")
    side = await do(database, partial(sub, parent_thread_id=one.thread.id))
    for act in (
        partial(sub, parent_thread_id=side.thread.id),
        partial(sub, parent_message_id=side.message.id),
        lambda s: moderation_service.move_thread(
            s, moderator=tom, thread_id=two.thread.id, parent_thread_id=side.thread.id, parent_message_id=None
        ),
        lambda s: moderation_service.move_thread(
            s, moderator=tom, thread_id=one.thread.id, parent_thread_id=two.thread.id, parent_message_id=None
        ),
    ):
        await refused(database, BadRequest, act, code="too_deep")
    for act in (
        lambda s: moderation_service.move_thread(
            s, moderator=tom, thread_id=one.thread.id, parent_thread_id=one.thread.id, parent_message_id=None
        ),
        lambda s: moderation_service.move_thread(
            s,
            moderator=tom,
            thread_id=side.thread.id,
            parent_thread_id=two.thread.id,
            parent_message_id=one.message.id,
        ),
    ):
        await refused(database, BadRequest, act)


async def test_what_is_private_stays_with_its_readers_when_it_is_moved(database: Database) -> None:
    ann, tom = await people(database, "ann", tom="team")
    public, private, another = [await begin(database, tom, members=m) for m in ((), (tom, ann), (tom, ann))]
    side = await do(
        database,
        lambda s: thread_service.create_sub_thread(
            s, author=ann, title="x", content="x", parent_thread_id=private.thread.id
        ),
    )
    for message, target in (
        (private.message.id, public.thread.id),
        (public.message.id, private.thread.id),
        (private.message.id, another.thread.id),
        (side.message.id, public.thread.id),
    ):
        await refused(
            database,
            Conflict,
            partial(message_service.move_message, actor=tom, message_id=message, thread_id=target),
            code="other_readers",
        )
    for thread, parent in (
        (side.thread.id, None),
        (side.thread.id, public.thread.id),
        (side.thread.id, another.thread.id),
        (public.thread.id, another.thread.id),
        (another.thread.id, public.thread.id),
    ):
        await refused(
            database,
            Conflict,
            partial(
                moderation_service.move_thread,
                moderator=tom,
                thread_id=thread,
                parent_thread_id=parent,
                parent_message_id=None,
            ),
            code="other_readers",
        )
    moved = await do(
        database,
        lambda s: message_service.move_message(s, actor=tom, message_id=side.message.id, thread_id=private.thread.id),
    )
    assert (moved.thread_id, moved.number) == (private.thread.id, 2)


async def test_members_are_kept_right_when_they_come_and_go(database: Database) -> None:
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    private, public = await begin(database, ann, members=(ben,)), await begin(database, ann)
    thread = private.thread.id

    def add(actor: User, user_id: int, to: int = thread) -> Act:
        return lambda s: member_service.add_member(s, actor=actor, thread_id=to, user_id=user_id)

    def remove(actor: User, user_id: int, of: int = thread) -> Act:
        return lambda s: member_service.remove_member(s, actor=actor, thread_id=of, user_id=user_id)

    await refused(database, Forbidden, add(ben, tom.id))
    await refused(database, NotFound, add(ann, 2**40))
    await refused(database, Conflict, add(ann, ben.id, to=public.thread.id), code="public_thread")
    for _ in range(2):
        assert (await do(database, add(ann, tom.id))).username == "tom"
    await refused(database, Forbidden, remove(ben, tom.id))
    await refused(database, Conflict, remove(tom, ann.id), code="is_author")
    await refused(database, Conflict, remove(ann, ann.id), code="is_author")
    await do(database, remove(ben, ben.id))
    await refused(database, NotFound, remove(ann, ben.id))
    async with database.reading() as session:
        page = await member_service.list_members(session, reader=tom, thread_id=thread, limit=1, cursor=None)
        rest = await member_service.list_members(
            session, reader=tom, thread_id=thread, limit=1, cursor=page.next_cursor
        )
    assert [(item.username, item.is_author) for item in (*page.items, *rest.items)] == [("ann", True), ("tom", False)]
    assert rest.next_cursor is None
    create = partial(thread_service.create_thread, author=ann, title="x", content="x")
    for wrong in (partial(create, member_ids=[ben.id]), partial(create, is_private=True, member_ids=[2**40])):
        await refused(database, BadRequest, wrong)


async def test_a_private_thread_takes_no_more_members_when_it_is_full(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(member_service, "MOST_MEMBERS", 2)
    ann, ben, tom = await people(database, "ann", "ben", "tom")
    thread = (await begin(database, ann, members=(ben,))).thread.id
    await refused(
        database,
        Conflict,
        lambda s: member_service.add_member(s, actor=ann, thread_id=thread, user_id=tom.id),
        code="too_many_members",
    )
    async with database.reading() as session:
        count = await session.execute(select(func.count()).select_from(ThreadMember))
    assert count.scalar_one() == 2


async def test_one_moderator_decides_when_a_message_was_reported(database: Database) -> None:
    ann, ben, tom, cleo = await people(database, "ann", "ben", tom="team", cleo="creator")
    # tom and cleo are no members: what was reported to them they see all the same, and nothing else.
    private = await begin(database, ann, members=(ben,))
    message = private.message.id

    def report(reporter: User) -> Act:
        return lambda s: report_service.report_message(s, reporter=reporter, message_id=message, reason="rude")

    def resolve(moderator: User, outcome: str, id: int) -> Act:
        return lambda s: report_service.resolve_report(
            s,
            moderator=moderator,
            report_id=id,
            outcome=outcome,  # type: ignore[arg-type]  # one of the two
            note="seen",
        )

    await refused(database, BadRequest, report(ann))
    mine = await do(database, report(ben))
    await refused(database, Conflict, report(ben), code="already_reported")
    async with database.reading() as session:
        page = await report_service.list_reports(session, status="open", limit=10, cursor=None)
    assert [(item.content, item.username, item.reporter_username) for item in page.items] == [
        ("The **first** message", "ann", "ben")
    ]
    decided = await do(database, resolve(tom, "removed", mine.id))
    assert (decided.status, decided.resolved_by, decided.note) == ("removed", "tom", "seen")
    await refused(database, Conflict, resolve(cleo, "dismissed", mine.id), code="already_resolved")
    await refused(database, NotFound, resolve(cleo, "dismissed", 2**40))
    async with database.reading() as session:
        gone = await session.get(ForumMessage, message)
        assert gone is not None
        assert gone.is_deleted
    await do(database, lambda s: thread_service.delete_thread(s, actor=ann, thread_id=private.thread.id))
    async with database.reading() as session:
        page = await report_service.list_reports(session, status="removed", limit=10, cursor=None)
    assert [(item.message_id, item.content) for item in page.items] == [(None, "The **first** message")]


async def test_a_message_is_refused_when_its_html_comes_out_too_large(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (ann,) = await people(database, "ann")
    monkeypatch.setattr(posting, "render", lambda content, marks_everyone: "x" * 200_000)
    begin_it = partial(thread_service.create_thread, author=ann, title="x", content="x")
    await refused(database, BadRequest, begin_it, code="too_large")

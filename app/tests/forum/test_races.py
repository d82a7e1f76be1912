"""Many at once: nothing is counted twice, numbered twice or lost, and nobody waits for ever."""

from __future__ import annotations

import asyncio
from functools import partial

from forum.scene import Act, begin, do, people, say
from sqlalchemy import func, select

from encore.db import Database
from encore.errors import Conflict, NotFound, SiteError
from encore.forum import like_service, listings, member_service, message_service, report_service, thread_service
from encore.forum.models import ForumMessage, Like, Thread


async def together(database: Database, acts: list[Act]) -> list[object]:
    """Do all at once, and return what each gave, or its error; one that the site does not know of is raised."""
    results = await asyncio.gather(*(do(database, act) for act in acts), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException) and not isinstance(result, SiteError):
            raise result
    return list(results)


async def test_each_like_counts_once_when_people_click_at_the_same_time(database: Database) -> None:
    fans = await people(database, *(f"fan{n}" for n in range(6)))
    message = (await begin(database, fans[0])).message.id
    like = [partial(like_service.like_message, liker=fan, message_id=message) for fan in fans for _ in range(3)]
    await together(database, [*like])
    unlike = [partial(like_service.unlike_message, liker=fan, message_id=message) for fan in fans[:2] for _ in range(3)]
    await together(database, [*unlike])
    async with database.reading() as session:
        count = (await session.execute(select(func.count()).select_from(Like))).scalar_one()
        stored = (await session.execute(select(ForumMessage.like_count))).scalar_one()
    assert count == stored == 4


async def test_messages_are_numbered_without_gaps_when_many_write_at_once(database: Database) -> None:
    writers = await people(database, *(f"writer{n}" for n in range(5)))
    thread = (await begin(database, writers[0])).thread.id
    acts: list[Act] = [
        partial(message_service.post_message, author=writer, thread_id=thread, content=f"@writer0 {n}")
        for writer in writers
        for n in range(3)
    ]
    await together(database, acts)
    async with database.reading() as session:
        numbers = list((await session.execute(select(ForumMessage.number).order_by(ForumMessage.number))).scalars())
        row = await session.get(Thread, thread)
        unread = await listings.get_thread(session, reader=writers[0], thread_id=thread)
    assert numbers == list(range(1, 17))
    assert row is not None
    assert (row.message_count, row.last_number, row.revision) == (16, 16, 16)
    assert unread.unread_count == 16 - unread.last_read_number


async def test_all_is_well_when_a_thread_goes_while_people_are_busy_in_it(database: Database) -> None:
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    for _ in range(3):
        started = await begin(database, ann, members=(ben, tom))
        thread, message = started.thread.id, started.message.id
        side = await do(
            database,
            partial(thread_service.create_sub_thread, author=ben, title="x", content="x", parent_message_id=message),
        )
        acts: list[Act] = [
            partial(message_service.post_message, author=ben, thread_id=thread, content="@ann"),
            partial(message_service.post_message, author=ben, thread_id=side.thread.id, content="@ann"),
            partial(like_service.like_message, liker=ben, message_id=message),
            partial(thread_service.mark_read, reader=tom, thread_id=thread, number=None),
            partial(message_service.edit_message, editor=ann, message_id=message, content="@ben"),
            partial(member_service.remove_member, actor=ann, thread_id=thread, user_id=ben.id),
            partial(report_service.report_message, reporter=tom, message_id=message, reason="x"),
            partial(message_service.move_message, actor=tom, message_id=side.message.id, thread_id=thread),
            partial(thread_service.delete_thread, actor=tom, thread_id=thread),
        ]
        results = await together(database, acts)
        errors = [result for result in results if isinstance(result, SiteError)]
        assert all(isinstance(error, NotFound | Conflict) for error in errors), errors
    async with database.reading() as session:
        assert (await session.execute(select(func.count()).select_from(ForumMessage))).scalar_one() == 0


async def test_one_of_two_moderators_wins_when_both_decide(database: Database) -> None:
    ann, ben, tom, cleo = await people(database, "ann", "ben", tom="team", cleo="creator")
    thread = (await begin(database, ann)).thread.id
    for _ in range(3):
        message = (await say(database, ann, thread, "rude")).id
        report = await do(
            database, partial(report_service.report_message, reporter=ben, message_id=message, reason="x")
        )
        decide = partial(report_service.resolve_report, report_id=report.id, note="")
        results = await together(
            database,
            [
                partial(decide, moderator=tom, outcome="removed"),
                partial(decide, moderator=cleo, outcome="dismissed"),
            ],
        )
        assert sorted(isinstance(result, Conflict) for result in results) == [False, True]

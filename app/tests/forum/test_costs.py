"""What reading the forum costs: as many statements for 30 rows as for one, and no more work among 100,000."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest_asyncio
from forum.scene import begin, people, say, statements
from sqlalchemy import bindparam, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Identity
from encore.accounts.models import User
from encore.db import Database, UtcTime, now
from encore.forum import (
    channel,
    like_service,
    listings,
    member_service,
    message_service,
    report_service,
    thread_service,
)
from encore.forum.access import topic_of
from encore.forum.models import Thread
from encore.forum.search import search
from encore.pagination import write_cursor

ROWS = 100_000
SERIES = f"WITH RECURSIVE series(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < {ROWS - 1})"
Read = Callable[[AsyncSession], Awaitable[Any]]


async def test_a_listing_takes_as_many_statements_when_it_is_long(database: Database) -> None:
    ann, ben, tom = await people(database, "ann", "ben", tom="team")
    thread = (await begin(database, ann, members=(ben, tom))).thread.id
    first = (await say(database, ben, thread, "to be liked")).id
    reads: dict[str, Read] = {
        "threads": partial(listings.list_threads, reader=ann, limit=100, cursor=None),
        "messages": partial(
            listings.list_messages,
            reader=ann,
            thread_id=thread,
            from_number=None,
            order="asc",
            limit=100,
            cursor=None,
        ),
        "sub-threads": partial(listings.list_sub_threads, reader=ann, thread_id=thread, limit=100, cursor=None),
        "likers": partial(listings.list_likers, reader=ann, message_id=first, limit=100, cursor=None),
        "edits": partial(listings.list_edits, reader=ann, message_id=first, limit=100, cursor=None),
        "members": partial(member_service.list_members, reader=ann, thread_id=thread, limit=100, cursor=None),
        "reports": partial(report_service.list_reports, status="open", limit=100, cursor=None),
        "search": partial(search, reader=ann, query="number", what="messages", limit=100, cursor=None),
        "titles": partial(search, reader=ann, query="title", what="titles", limit=100, cursor=None),
    }
    fans = await people(database, *(f"fan{number}" for number in range(30)))
    grow = partial(_one_more_of_each, ann=ann, ben=ben, tom=tom, thread=thread, first=first)
    async with database.writing() as session:
        await grow(session, fan=fans[0])
    short = {name: await _cost(database, read) for name, read in reads.items()}
    async with database.writing() as session:
        for fan in fans[1:]:
            await grow(session, fan=fan)
    for name, read in reads.items():
        rows, count = await _cost(database, read)
        assert rows >= 30 > short[name][0], name
        assert count == short[name][1] <= 4, name


async def _one_more_of_each(
    s: AsyncSession, *, fan: User, ann: User, ben: User, tom: User, thread: int, first: int
) -> None:
    name = fan.username
    await member_service.add_member(s, actor=ann, thread_id=thread, user_id=fan.id)
    await thread_service.create_thread(s, author=fan, title=f"A title of {name}", content="x")
    message = await message_service.post_message(
        s, author=fan, thread_id=thread, content=f"number {name}", reply_to_id=first
    )
    await like_service.like_message(s, liker=fan, message_id=first)
    await message_service.edit_message(s, editor=ben, message_id=first, content=f"edit {name}")
    await report_service.report_message(s, reporter=tom, message_id=message.id, reason="x")
    await thread_service.create_sub_thread(s, author=fan, title="Side", content="x", parent_thread_id=thread)


async def _cost(database: Database, read: Read) -> tuple[int, int]:
    """How many items a page has, and how many statements it took."""
    async with database.reading() as session:
        with statements(database) as seen:
            page = await read(session)
    return len(page.items), len(seen)


async def test_rechecks_do_not_ask_the_database_again_and_again_about_public_threads(database: Database) -> None:
    ann, ben = await people(database, "ann", "ben")
    public, private = await begin(database, ann), await begin(database, ann, members=(ann,))
    listeners = [Identity(user_id=str(user.id)) for user in (ann, ben)]
    topics = [topic_of(started.thread.id) for started in (public, private)]
    channel._public_until.clear()
    heard, costs = [], []
    for _ in range(2):
        for listener in listeners:
            for topic in topics:
                with statements(database) as seen:
                    heard.append(await channel.may_hear(listener, topic))
                costs.append(len(seen))
    assert heard == [True, True, True, False] * 2
    assert costs == [1, 2, 0, 2] + [0, 2] * 2
    channel._public_until.clear()


# -- among 100,000 -----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture
async def crowded(database: Database) -> AsyncIterator[tuple[Database, User, int]]:
    """100,000 threads, every tenth private, and 100,000 messages, half of them in one thread."""
    ann, ben = await people(database, "ann", "ben")
    thread = (await begin(database, ann)).thread.id
    mine = (await begin(database, ben, members=(ann,))).thread.id
    later = (
        "datetime(:at, '+' || n || ' seconds') || '.000000'" if database.is_sqlite else ":at + n * interval '1 second'"
    )
    fill_threads = f"""
        INSERT INTO forum_threads (title, author_id, is_sub_thread, is_private, is_pinned, is_locked, lock_reason,
            message_count, last_number, sub_thread_count, revision, created_at, last_message_at)
        SELECT 'title ' || n, :author, false, n % 10 = 0, false, false, '', 1, 1, 0, 1, :at, {later} FROM series"""
    fill_messages = """
        INSERT INTO forum_messages
            (thread_id, number, author_id, content, content_html, like_count, sub_thread_count, revision, created_at)
        SELECT
            CASE n % 2 WHEN 1 THEN CAST(:thread AS bigint) ELSE CAST(:other AS bigint) END,
            n + 2, :author, 'common word' || n, '', 0, 0, 1, :at
        FROM series"""
    values = {"author": ben.id, "at": now(), "thread": thread, "other": mine}
    async with database.writing() as session:
        for fill in (fill_threads, fill_messages):
            statement = text(SERIES + fill).bindparams(bindparam("at", type_=UtcTime))
            await session.execute(statement, {name: values[name] for name in values if f":{name}" in fill})
        await session.execute(text("ANALYZE"))
    yield database, ann, thread


async def test_a_page_reads_no_more_than_it_shows_when_there_are_100_000_rows(
    crowded: tuple[Database, User, int],
) -> None:
    database, ann, thread = crowded
    async with database.reading() as session:
        some = (await session.execute(select(Thread).where(Thread.id == ROWS // 2))).scalar_one()
    deep = write_cursor([0, (some.last_message_at - listings.EPOCH) // listings.MICROSECOND, some.id])
    page_of = partial(
        listings.list_messages, reader=ann, thread_id=thread, from_number=None, order="asc", limit=50, cursor=None
    )
    reads: dict[str, Read] = {
        "threads": partial(listings.list_threads, reader=ann, limit=50, cursor=None),
        "threads of a guest": partial(listings.list_threads, reader=None, limit=50, cursor=None),
        "threads far down": partial(listings.list_threads, reader=ann, limit=50, cursor=deep),
        "first messages": page_of,
        "last messages": partial(page_of, order="desc"),
        "from the middle": partial(page_of, from_number=ROWS // 2),
        "messages far down": partial(page_of, cursor=write_cursor([ROWS - 100])),
        "a rare word": partial(search, reader=ann, query="word77777", what="messages", limit=50, cursor=None),
        "a common word": partial(search, reader=ann, query="common", what="messages", limit=50, cursor=None),
        "a rare title": partial(search, reader=ann, query="77777", what="titles", limit=50, cursor=None),
    }
    for name, read in reads.items():
        async with database.reading() as session:
            with statements(database) as seen:
                assert (await read(session)).items
        work = [await _work(database, statement, parameters) for statement, parameters in seen]
        if name.startswith(("a rare", "a common")) and not database.is_sqlite:
            # PostgreSQL looks at all that have it, FTS5 only at those that are shown.
            assert "_search" in await _plan(database, *seen[0])
            continue
        assert sum(work) < 20 * 50 * (STEPS_A_ROW if database.is_sqlite else 1), (name, work)


async def _plan(database: Database, statement: str, parameters: Any) -> str:
    async with database.engine.connect() as connection:
        return "\n".join(row[0] for row in await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))


STEPS_A_ROW = 40
"""Of SQLite's virtual machine, at most, for a row that a page shows."""


async def _work(database: Database, statement: str, parameters: Any) -> int:
    """What a statement really does: rows that PostgreSQL touches, steps of SQLite's virtual machine."""
    async with database.engine.connect() as connection:
        if not database.is_sqlite:
            result = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plan = result.scalar_one()
            return _rows((json.loads(plan) if isinstance(plan, str) else plan)[0]["Plan"])
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 10
            return 0

        raw: Any = (await connection.get_raw_connection()).driver_connection
        await raw.set_progress_handler(count, 10)
        (await connection.exec_driver_sql(statement, parameters)).all()
        await raw.set_progress_handler(None, 0)
        return steps


def _rows(node: dict[str, Any]) -> int:
    """Rows that a part of a plan, and the parts below it, came up with or threw away."""
    own = node["Actual Rows"] + node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return int(own * node["Actual Loops"]) + sum(_rows(part) for part in node.get("Plans", ()))

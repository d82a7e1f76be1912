"""What it costs: as much with many as with few."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, insert, select, text

from encore.accounts.models import User
from encore.db import Database, now
from encore.forum import follow_service, notification_inbox
from encore.forum.models import Thread
from encore.forum.notification_messages import Kind
from encore.forum.notification_models import Follow
from encore.forum.notification_people import completions

if TYPE_CHECKING:
    from forum_notifications.conftest import Announced, Forum

Statement = tuple[str, Any]


@contextmanager
def statements(database: Database) -> Iterator[list[Statement]]:
    """What is sent to the database meanwhile."""
    sent: list[Statement] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        if not statement.startswith("BEGIN"):
            sent.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)


async def plan(database: Database, statement: Statement) -> str:
    """How the database goes about it."""
    words = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    async with database.engine.connect() as connection:
        rows = await connection.exec_driver_sql(words + statement[0], statement[1])
        return "\n".join(str(row[-1]) for row in rows)


async def crowd(forum: Forum, count: int) -> list[int]:
    """The ids of so many new accounts: person0, person1 and so on."""
    flags = dict.fromkeys(("is_team", "is_creator", "is_admin", "is_banned", "is_demo"), False)
    names = [f"person{number}" for number in range(count)]
    async with forum.database.writing() as session:
        await session.execute(
            insert(User),
            [
                {
                    "username": name,
                    "username_key": name,
                    "email": name,
                    "email_key": name,
                    "password_hash": "!",
                    **flags,
                }
                for name in names
            ],
        )
        found = await session.scalars(select(User.id).where(User.username.startswith("person")).order_by(User.id))
        return list(found)


async def follow(forum: Forum, user_ids: list[int], thread: Thread) -> None:
    async with forum.database.writing() as session:
        await session.execute(insert(Follow), [{"user_id": user_id, "thread_id": thread.id} for user_id in user_ids])


async def test_a_message_costs_the_same_statements_when_many_follow(forum: Forum, announced: Announced) -> None:
    (ann,) = await forum.people("ann")
    people = await crowd(forum, 300)
    counted = []
    for followers in (people[:1], people):
        thread = await forum.thread(ann)
        await follow(forum, followers, thread)
        announced.messages.clear()
        with statements(forum.database) as sent:
            await forum.message(thread, ann, "hello")
        counted.append((len(sent), len(announced.messages)))
    # One who has two unread by then gets a count of their own.
    assert counted[0][0] == counted[1][0] < 15
    assert counted == [(counted[0][0], 2), (counted[0][0], 3)]
    assert [await forum.unread(User(id=user_id)) for user_id in people[:3]] == [2, 1, 1]


async def test_ten_thousand_people_cost_a_few_statements_and_messages_when_everyone_is_told(
    forum: Forum, announced: Announced
) -> None:
    (ada,) = await forum.people("ada", is_admin=True)
    people = await crowd(forum, 10_000)
    thread = await forum.thread(ada)
    with statements(forum.database) as sent:
        message = await forum.message(thread, ada, "@everyone")
    assert len(sent) < 20
    notified = [targets for pushed, targets in announced.messages if pushed["type"] == "forum_notification"]
    counts = [(pushed["count"], targets) for pushed, targets in announced.messages if "count" in pushed]
    assert [len(targets or ()) for targets in notified] == [5_000, 5_000]
    assert [(count, len(targets or ())) for count, targets in counts] == [(1, 5_000), (1, 5_000)]
    assert len(frozenset().union(*(targets or () for targets in notified))) == 10_000
    somebody = User(id=people[777])
    assert await forum.kinds(somebody) == announced.told(somebody) == [("everyone", message.id)]


async def test_a_page_costs_one_statement_when_it_is_full(forum: Forum, announced: Announced) -> None:
    ann, *people = await forum.people(*(f"name{number}" for number in range(31)))
    thread = await forum.thread(ann)
    counted = []
    for writers in (people[:1], people[1:]):
        for writer in writers:
            await forum.message(thread, writer, "hello")
        with statements(forum.database) as sent:
            async with forum.database.reading() as session:
                await notification_inbox.page(session, user=ann, limit=100, cursor=None, kind=None, unread_only=False)
            async with forum.database.reading() as session:
                await follow_service.follows(session, user=ann, limit=100, cursor=None)
        counted.append(len(sent))
    assert counted == [2, 2]


async def _fill(forum: Forum, *, rows: int) -> User:
    """Somebody with very many notifications, all of one message, and nobody else's fewer."""
    ann, ben, kim = await forum.people("ann", "ben", "kim")
    thread = await forum.thread(ann)
    async with forum.database.writing() as session:
        number = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :rows)"
        await session.execute(
            text(
                f"{number} INSERT INTO forum_notifications (id, kind, message_id, from_user_id, created_at)"
                " SELECT 1000 + i, 'mention', (SELECT min(id) FROM forum_messages), :ben, :at FROM n"
                if forum.database.is_sqlite
                else "INSERT INTO forum_notifications (id, kind, message_id, from_user_id, created_at)"
                " SELECT 1000 + i, 'mention', (SELECT min(id) FROM forum_messages), :ben, :at"
                " FROM generate_series(1, :rows) AS i"
            ),
            {"rows": rows, "ben": ben.id, "at": now().replace(tzinfo=None) if forum.database.is_sqlite else now()},
        )
        for user in (ann, ben, kim):
            await session.execute(
                text(
                    "INSERT INTO forum_notification_recipients (user_id, notification_id, kind, read_at)"
                    " SELECT :user_id, id, kind, CASE WHEN id % 100 = 0 THEN NULL ELSE created_at END"
                    " FROM forum_notifications"
                ),
                {"user_id": user.id},
            )
    await follow(forum, [ben.id], thread)
    async with forum.database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("ANALYZE")
    return ann


async def test_the_indexes_are_used_when_there_are_a_hundred_thousand_notifications(forum: Forum) -> None:
    ann = await _fill(forum, rows=33_400)
    database = forum.database
    scanned = "SCAN recipients" if database.is_sqlite else "Seq Scan on forum_notification_recipients"
    asked: dict[str, dict[str, Any]] = {
        "page": {"kind": None, "unread_only": False},
        "kind": {"kind": Kind.MENTION, "unread_only": False},
        "unread": {"kind": None, "unread_only": True},
    }
    for name, options in asked.items():
        for cursor in (None, "WzIwMDAwXQ"):
            with statements(database) as sent:
                async with database.reading() as session:
                    page = await notification_inbox.page(session, user=ann, limit=20, cursor=cursor, **options)
            assert len(page.items) == 20
            how = await plan(database, sent[-1])
            assert "forum_notification_recipients" in how
            for word in (scanned, "SCAN forum_notification", "Seq Scan on forum_notif", "TEMP B-TREE", "Sort"):
                assert word not in how, f"{name}:\n{how}"
    with statements(database) as sent:
        assert await forum.unread(ann) == 334
    how = await plan(database, sent[-1])
    assert "forum_notification_recipients_unread" in how, how


async def test_the_index_of_the_names_is_used_when_one_is_completed(forum: Forum) -> None:
    (ann,) = await forum.people("ann")
    await crowd(forum, 3_000)
    async with forum.database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("ANALYZE")
    with statements(forum.database) as sent:
        async with forum.database.reading() as session:
            assert len(await completions(session, "person29", asker=ann, thread_id=None)) == 10
    how = await plan(forum.database, sent[-1])
    expected = "SEARCH users USING INDEX" if forum.database.is_sqlite else "Index Scan using uq_users_username_key"
    assert expected in how, how
    assert "Sort" not in how, how


@pytest.mark.parametrize("usernames", ["", "@ann @ben @kim"])
async def test_the_reasons_are_found_by_index_when_a_message_is_written(
    forum: Forum, announced: Announced, usernames: str
) -> None:
    ann, ben = await forum.people("ann", "ben")
    people = await crowd(forum, 3_000)
    thread = await forum.thread(ann)
    await follow(forum, people[:5], thread)
    async with forum.database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.exec_driver_sql("ANALYZE")
    with statements(forum.database) as sent:
        await forum.message(thread, ann, f"{usernames} hello", reply_to=ben)
    (question,) = [statement for statement in sent if "UNION ALL" in statement[0]]
    how = await plan(forum.database, question)
    assert "SCAN users" not in how, how
    assert "Seq Scan on users" not in how, how

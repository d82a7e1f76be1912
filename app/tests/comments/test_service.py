"""What the services of comments promise, on both databases: rollback, closed tracks, and the cost of a page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import pytest
from sqlalchemy import case, event, func, insert, literal, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.catalogue.models import Track
from encore.catalogue.service import delete_track
from encore.comments import service
from encore.comments.channel import TypingNotes, manager
from encore.comments.models import Comment
from encore.db import Database, UtcTime, now
from encore.errors import Conflict, SiteError
from harness.tracks import add_track

ROWS = 100_000


Deed = Callable[[AsyncSession], Awaitable[object]]


async def add_user(database: Database, name: str, **flags: bool) -> User:
    async with database.writing() as session:
        user = User(username=name, username_key=name, email=name, email_key=name, password_hash="!", **flags)
        session.add(user)
    return user


async def test_nothing_is_announced_when_the_unit_of_work_fails(database: Database) -> None:
    ann = await add_user(database, "ann")
    track = await add_track(database, ann.id)
    before = manager.stats().published
    with pytest.raises(ZeroDivisionError):
        async with database.writing() as session:
            await service.create(session, ann, track_id=track, content="never @ann", at_s=1.0, parent_id=None)
            raise ZeroDivisionError
    assert manager.stats().published == before
    async with database.reading() as session:
        assert (await session.scalars(select(Comment))).all() == []


async def test_only_staff_comments_when_comments_are_closed(database: Database) -> None:
    ann, tom = await add_user(database, "ann"), await add_user(database, "tom", is_team=True)
    track = await add_track(database, ann.id)
    async with database.writing() as session:
        await session.execute(update(Track).values(comments_closed=True))
    with pytest.raises(Conflict):
        async with database.writing() as session:
            await service.create(session, ann, track_id=track, content="x", at_s=1.0, parent_id=None)
    async with database.writing() as session:
        data = await service.create(session, tom, track_id=track, content="x", at_s=1.0, parent_id=None)
    assert data.username == "tom"


async def test_writers_are_told_that_it_is_gone_when_the_track_or_the_comment_is_deleted_meanwhile(
    database: Database,
) -> None:
    ann, ben = await add_user(database, "ann", is_creator=True), await add_user(database, "ben")

    async def outcome(act: Deed) -> str:
        try:
            async with database.writing() as session:
                await act(session)
        except SiteError as error:
            return error.code
        return "done"

    for _ in range(10):
        track = await add_track(database, ann.id)
        async with database.writing() as session:
            parent = await service.create(session, ann, track_id=track, content="x", at_s=1.0, parent_id=None)

        async def write(session: AsyncSession, *, track_id: int = track, parent_id: int | None = parent.id) -> None:
            await service.create(session, ben, track_id=track_id, content="@ann", at_s=1.0, parent_id=parent_id)

        deeds: list[Deed] = [write, write, partial(service.remove, user=ann, comment_id=parent.id), write, write]
        assert set(await asyncio.gather(*map(outcome, deeds))) <= {"done", "not_found"}
        alone = partial(write, parent_id=None)
        deeds = [alone, alone, partial(delete_track, user=ann, track_id=track), alone, alone]
        assert set(await asyncio.gather(*map(outcome, deeds))) <= {"done", "not_found"}


async def test_a_page_costs_the_same_when_there_are_100_000_comments(database: Database) -> None:
    ann = await add_user(database, "ann")
    track, other = await add_track(database, ann.id), await add_track(database, ann.id)
    at = now()
    async with database.writing() as session:
        series = select(literal(0).label("n")).cte(recursive=True)
        series = series.union_all(select(series.c.n + 1).where(series.c.n < ROWS - 1))
        place = case((series.c.n % 50 == 0, literal(track)), else_=literal(other))
        values = select(place, literal(ann.id), literal("x"), series.c.n % 200 + 0.5, literal(at, UtcTime))
        columns = ["track_id", "user_id", "content", "at_s", "created_at"]
        await session.execute(insert(Comment).from_select(columns, values))
        assert (await session.scalars(select(func.count()).select_from(Comment))).one() == ROWS
        await session.execute(text("ANALYZE"))
    statements: list[tuple[str, object]] = []

    def note(connection: object, cursor: object, statement: str, parameters: object, *rest: object) -> None:
        statements.append((statement, parameters))

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    for order, cursor in (("timestamp", None), ("newest", None)):
        for limit in (1, 100):
            statements.clear()
            async with database.reading() as session:
                page = await service.comments_page(
                    session, track, order=order, from_s=0.0, to_s=None, limit=limit, cursor=cursor
                )
            assert len(page) == limit + 1
            selects = [statement for statement in statements if statement[0].startswith("SELECT")]
            assert len(selects) == 2  # the track, and the page with its authors
            plan = await _plan(database, *selects[-1])
            assert "ix_comments_track_id" in plan
            assert "SCAN comments" not in plan
            assert "Seq Scan on comments" not in plan
            assert "TEMP B-TREE" not in plan
            assert "Sort" not in plan.replace("Sort Key", "") or "Incremental" in plan


async def _plan(database: Database, statement: str, parameters: object) -> str:
    prefix = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    async with database.engine.connect() as connection:
        rows = await connection.exec_driver_sql(prefix + statement, parameters)  # type: ignore[arg-type]  # as the driver had them
        return "\n".join(" ".join(map(str, row)) for row in rows)


def test_typing_is_news_once_in_two_seconds_when_keys_come_fast() -> None:
    at = 0.0
    notes = TypingNotes(clock=lambda: at)
    assert [notes.is_news("1", 7, is_typing=True) for _ in range(3)] == [True, False, False]
    assert notes.is_news("2", 7, is_typing=True)
    assert notes.is_news("1", 8, is_typing=True)
    at = 2.0
    assert notes.is_news("1", 7, is_typing=True)
    assert [notes.is_news("1", 7, is_typing=False) for _ in range(2)] == [True, False]
    assert notes.is_news("1", 7, is_typing=True)
    for number in range(TypingNotes.LIMIT + 10):
        notes.is_news(str(number), 9, is_typing=True)
    assert len(notes._told) == TypingNotes.LIMIT

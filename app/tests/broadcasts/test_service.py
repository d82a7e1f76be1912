"""What the services of broadcasts promise, on both databases."""

from __future__ import annotations

import asyncio
import datetime

import pytest
from sqlalchemy import event, select

from encore.accounts.models import User
from encore.broadcasts import service
from encore.broadcasts.channel import Delivered, manager
from encore.broadcasts.figures import stats
from encore.broadcasts.models import Broadcast, BroadcastReceipt, Status
from encore.broadcasts.schemas import NewBroadcastBody
from encore.db import Database, now
from encore.pagination import cut

SOON = datetime.timedelta(hours=1)


async def add_user(database: Database, name: str, **flags: bool) -> User:
    async with database.writing() as session:
        user = User(username=name, username_key=name, email=name, email_key=name, password_hash="!", **flags)
        session.add(user)
    return user


async def add_broadcast(database: Database, author: User, message: str, **options: object) -> int:
    body = NewBroadcastBody.model_validate({"message": message, **options})
    async with database.writing() as session:
        broadcast, _ = await service.create(session, author, body)
    return broadcast.id


async def test_one_of_many_sends_it_when_all_try_at_once(database: Database) -> None:
    cleo = await add_user(database, "cleo", is_creator=True)
    number = await add_broadcast(database, cleo, "once", send_at=now() + SOON)

    async def fire() -> bool:
        async with database.writing() as session:
            return await service.fire(session, number) is not None

    assert sorted(await asyncio.gather(*(fire() for _ in range(8)))) == [False] * 7 + [True]


async def test_the_last_one_alone_is_active_when_many_are_sent_at_once(database: Database) -> None:
    cleo = await add_user(database, "cleo", is_creator=True)
    numbers = await asyncio.gather(*(add_broadcast(database, cleo, f"number {number}") for number in range(8)))
    async with database.reading() as session:
        rows = (await session.scalars(select(Broadcast).order_by(Broadcast.sent_at, Broadcast.id))).all()
    assert sorted(row.id for row in rows) == sorted(numbers)
    assert [row.status for row in rows] == ["cleared"] * 7 + ["active"]


async def test_nothing_is_announced_when_the_unit_of_work_fails(database: Database) -> None:
    cleo = await add_user(database, "cleo", is_creator=True)
    before = manager.stats().published
    announced = []
    with pytest.raises(ZeroDivisionError):
        async with database.writing() as session:
            announced.append((await service.create(session, cleo, NewBroadcastBody(message="never")))[1])
            raise ZeroDivisionError
    assert [one.receipt for one in announced if one is not None] == [None]
    assert manager.stats().published == before
    async with database.reading() as session:
        assert (await session.scalars(select(Broadcast))).all() == []


async def test_it_is_counted_once_when_somebody_acknowledges_on_many_devices(database: Database) -> None:
    cleo, ann = await add_user(database, "cleo", is_creator=True), await add_user(database, "ann")
    number = await add_broadcast(database, cleo, "hello")

    async def acknowledge() -> None:
        async with database.writing() as session:
            await service.acknowledge(session, user_id=ann.id, roles=frozenset(), broadcast_id=number)

    await asyncio.gather(*(acknowledge() for _ in range(5)))
    async with database.writing() as session:
        everybody = frozenset({(ann.id, frozenset[str]()), (cleo.id, frozenset({"creator"})), (999, frozenset[str]())})
        await service.record_deliveries(session, [Delivered(number, everybody), Delivered(12345, everybody)])
        await service.record_deliveries(session, [Delivered(number, everybody)])
    async with database.reading() as session:
        receipts = {row.user_id: row.acknowledged_at for row in await session.scalars(select(BroadcastReceipt))}
        assert set(receipts) == {ann.id, cleo.id}
        assert receipts[ann.id] is not None
        assert receipts[cleo.id] is None
        figures = (await stats(session)).cluster
    assert (figures.delivered, figures.acknowledged, figures.acknowledgement_rate) == (2, 1, 0.5)


async def test_a_page_costs_the_same_when_the_history_is_long(database: Database) -> None:
    cleo = await add_user(database, "cleo", is_creator=True)
    start = now() - datetime.timedelta(days=30)
    async with database.writing() as session:
        session.add_all(
            Broadcast(
                author_id=cleo.id,
                author_name="cleo",
                message=f"number {number}",
                type="info",
                status=Status.CLEARED,
                roles=[],
                user_ids=[],
                sent_at=start + datetime.timedelta(seconds=number // 2),
            )
            for number in range(500)
        )
    statements: list[str] = []
    event.listen(
        database.engine.sync_engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *rest: statements.append(statement),
    )
    seen: list[str] = []
    cursor = None
    async with database.reading() as session:
        for _ in range(5):
            rows = await service.history_page(session, limit=99, cursor=cursor, scheduled=False)
            page, cursor = cut(rows, limit=99, key=lambda row: (str(row.sent_at), row.id))
            seen += [row.message for row in page]
    assert seen == [f"number {number}" for number in reversed(range(500))][: len(seen)]
    assert len(seen) == 495
    assert len([statement for statement in statements if statement.startswith("SELECT")]) == 5

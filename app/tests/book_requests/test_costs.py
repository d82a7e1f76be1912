"""What lists of requests cost: as many statements with one row as with thirty."""

from __future__ import annotations

import pytest
from sqlalchemy import event

from encore.accounts.models import User
from encore.book_requests import listings, service
from encore.book_requests.schemas import NewRequest
from encore.db import Database


async def fill(database: Database, count: int) -> tuple[User, int]:
    """So many requests of as many people, all voted for by one of them; who that is, and the first request."""
    async with database.writing() as session:
        people = [
            User(username=name, username_key=name, email=name, email_key=name, password_hash="!")
            for name in (f"person{number}" for number in range(count + 1))
        ]
        session.add_all(people)
    numbers = []
    for person in people[1:]:
        async with database.writing() as session:
            numbers.append((await service.ask(session, person, NewRequest(title=f"Of {person.username}"))).id)
    for number in numbers:
        async with database.writing() as session:
            await service.vote(session, people[0], number)
    return people[0], numbers[0]


async def statements(database: Database, voter: User, number: int) -> dict[str, int]:
    counts: dict[str, int] = {}
    seen: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        seen.append(statement)

    event.listen(database.engine.sync_engine, "before_cursor_execute", note)
    try:
        async with database.reading() as session:
            for name, reading in (
                ("queue", listings.queue_page(session, statuses=(), search="", sort="votes", limit=50, cursor=None)),
                (
                    "search",
                    listings.queue_page(session, statuses=(), search="of", sort="newest", limit=50, cursor=None),
                ),
                ("own", listings.own_page(session, voter, status=None, limit=50, cursor=None)),
                ("similar", listings.open_like(session, voter, "of")),
                ("history", listings.history(session, number)),
                ("counts", listings.counts(session)),
            ):
                seen.clear()
                await reading
                counts[name] = len([statement for statement in seen if statement.startswith("SELECT")])
    finally:
        event.remove(database.engine.sync_engine, "before_cursor_execute", note)
    return counts


@pytest.mark.parametrize("count", [1, 30])
async def test_every_list_takes_one_statement_when_it_has_one_row_or_thirty(database: Database, count: int) -> None:
    voter, number = await fill(database, count)
    names = ("queue", "search", "own", "similar", "history", "counts")
    assert await statements(database, voter, number) == dict.fromkeys(names, 1)

"""Several who change one request at the same moment, on both databases: nobody meets an error, and no vote is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy import func, select

from encore.accounts.models import User
from encore.book_requests import decisions, service
from encore.book_requests.models import BookRequest, RequestVote
from encore.book_requests.schemas import NewRequest
from encore.db import Database
from encore.errors import SiteError

ROUNDS = 12


async def people(database: Database, count: int) -> list[User]:
    async with database.writing() as session:
        users = [
            User(username=name, username_key=name, email=name, email_key=name, password_hash="!", is_admin=True)
            for name in (f"user{number}" for number in range(count))
        ]
        session.add_all(users)
    return users


async def ask(database: Database, user: User, title: str) -> int:
    async with database.writing() as session:
        return (await service.ask(session, user, NewRequest(title=title))).id


async def outcome(database: Database, act: Callable[..., Awaitable[object]], *args: object) -> str:
    """What became of it: done, or the code that the visitor is told. Everything else fails the test."""
    try:
        async with database.writing() as session:
            await act(session, *args)
    except SiteError as error:
        return error.code
    return "done"


async def test_others_are_told_that_it_is_gone_when_it_is_withdrawn_meanwhile(database: Database) -> None:
    owner, *others = await people(database, 5)
    for number in range(ROUNDS):
        request = await ask(database, owner, f"Book {number}")
        kept = await ask(database, others[0], f"Kept {number}")
        outcomes = await asyncio.gather(
            outcome(database, service.vote, others[0], request),
            outcome(database, service.reply, others[1], request, "Which edition?"),
            outcome(database, service.withdraw, owner, request),
            outcome(database, decisions.merge, others[2], kept, request),
            outcome(database, service.vote, others[3], request),
        )
        assert set(outcomes) <= {"done", "not_found"}


async def test_no_vote_is_lost_when_it_is_given_while_requests_are_merged(database: Database) -> None:
    owner, admin, *voters = await people(database, 6)
    for number in range(ROUNDS):
        first, second = await ask(database, owner, f"First {number}"), await ask(database, owner, f"Second {number}")
        votes = [outcome(database, service.vote, voter, second) for voter in voters]
        outcomes = await asyncio.gather(
            *votes[:2], outcome(database, decisions.merge, admin, first, second), *votes[2:]
        )
        assert set(outcomes) == {"done"}
        async with database.reading() as session:
            counted = select(func.count()).where(RequestVote.request_id == second)
            assert (await session.scalars(counted)).one() == len(voters)
            stored = select(BookRequest.votes).where(BookRequest.id == second)
            assert (await session.scalars(stored)).one() == len(voters)

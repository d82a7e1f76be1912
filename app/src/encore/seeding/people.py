"""The people of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import User
from encore.accounts.passwords import passwords
from encore.accounts.service_people import add_user
from encore.db import Database
from encore.errors import Conflict

__all__ = [
    "DEMO_PASSWORD", "PEOPLE", "CannotSeed", "DemoPeople", "demo_people", "hash_passwords", "refuse_demo_people",
    "seed_people",
]  # fmt: skip

DEMO_PASSWORD = "antiphon-demo"


class CannotSeed(RuntimeError):
    """The database is not one for a demonstration."""


class DemoPeople(RuntimeError):
    """People are there whose password everybody knows."""


@dataclass(frozen=True, slots=True)
class _Person:
    display_name: str
    roles: tuple[str, ...] = ()


PEOPLE = {
    "ann": _Person("Ann Ferreira"),
    "ben": _Person("Ben Okafor"),
    "tom": _Person("Tom Lindqvist", ("team",)),
    "cleo": _Person("Cleo Marchetti", ("creator",)),
    "ada": _Person("Ada Nowak", ("admin",)),
}


async def demo_people(session: AsyncSession) -> list[str]:
    """The names of those who are there."""
    found = await session.scalars(select(User.username).where(User.is_demo).order_by(User.username).limit(20))
    return list(found)


async def refuse_demo_people(database: Database) -> None:
    """For the start of a site that is no demonstration. Raises DemoPeople when there are any."""
    async with database.reading() as session:
        names = await demo_people(session)
    if names:
        raise DemoPeople(
            f"the database holds people of the demonstration ({', '.join(names)}), whose password everybody knows: use "
            "another database, or set ENCORE_MODE=demo"
        )


async def hash_passwords() -> dict[str, str]:
    """What to store for each, by username. Before the unit of work: it takes its time, and others want to write."""
    return {name: await passwords().hash(DEMO_PASSWORD) for name in PEOPLE}


async def seed_people(session: AsyncSession, hashes: Mapping[str, str]) -> dict[str, User]:
    """Write them down: by username. Raises CannotSeed when somebody else has one of the names."""
    people: dict[str, User] = {}
    for name, person in PEOPLE.items():
        try:
            user = await add_user(
                session,
                username=name,
                email=f"{name}@demo.example",
                password_hash=hashes[name],
                display_name=person.display_name,
                is_demo=True,
            )
        except Conflict as error:
            raise CannotSeed(
                f"somebody is called {name} already: the demonstration needs a database of its own"
            ) from error
        for role in person.roles:
            setattr(user, f"is_{role}", True)
        people[name] = user
    await session.flush()
    return people

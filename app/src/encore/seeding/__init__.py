"""The data of the demonstration: people whose password everybody knows, music, and what they said about it.

`seed_demo` needs numpy and soundfile, and loads them when it is called; asking for demo people needs neither.
"""

from __future__ import annotations

from encore.db import Database
from encore.seeding.people import DEMO_PASSWORD, CannotSeed, DemoPeople, refuse_demo_people

__all__ = ["DEMO_PASSWORD", "CannotSeed", "DemoPeople", "refuse_demo_people", "seed_demo"]


async def seed_demo(database: Database, *, longest_s: float | None = None) -> bool:
    """Put the demonstration into a database, and its audio into the storage. False if it is there already.

    All of it or nothing. Replicas may do it at the same time: one of them does. Nothing is announced. Tracks are cut to
    `longest_s`, where a test has no time. Raises CannotSeed when an account has the name of one of the people.
    """
    from encore.seeding.demo import seed

    return await seed(database, longest_s=longest_s)

"""What accounts do while the site serves: write down when sessions were used, and remove those that ran out."""

from __future__ import annotations

import asyncio
import logging
import random

from sqlalchemy import delete, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import LoginSession
from encore.accounts.passwords import close_passwords
from encore.accounts.sightings import EVERY, sightings
from encore.accounts.throttling import close_throttle
from encore.db import Database, database, now
from encore.live import while_serving

__all__ = ["keep_up", "purge"]

log = logging.getLogger("encore.accounts")

PURGE_EVERY_ROUNDS = 30
PURGE_AT_ONCE = 1000


@while_serving
async def keep_up() -> None:
    """Once a minute; every half hour expired sessions go. At the end what is held for accounts is given back.

    A database that is away is asked again a minute later. Tickets stay with the process: sockets are let in by them to
    the last.
    """
    round_number = random.randrange(PURGE_EVERY_ROUNDS)  # replicas that started together take turns
    try:
        while True:
            await asyncio.sleep(EVERY.total_seconds())
            round_number += 1
            await _one_round(purges=round_number % PURGE_EVERY_ROUNDS == 0)
    finally:
        close_passwords()
        await close_throttle()


async def _one_round(*, purges: bool) -> None:
    try:
        await sightings.write(database())
        if purges:
            await purge(database())
    except (SQLAlchemyError, OSError) as error:
        log.warning("when sessions were used could not be written down: %s", type(error).__name__)


async def purge(database: Database) -> int:
    """Remove sessions that ran out, a thousand at a time, so that nobody waits for long: how many."""
    total = 0
    while True:
        async with database.writing() as session:
            count = await _purge_some(session)
        total += count
        if count < PURGE_AT_ONCE:
            return total


async def _purge_some(session: AsyncSession) -> int:
    found = await session.execute(
        select(LoginSession.id)
        .where(LoginSession.expires_at <= now())
        .order_by(LoginSession.expires_at)
        .limit(PURGE_AT_ONCE)
    )
    ids = list(found.scalars())
    if ids:
        await session.execute(delete(LoginSession).where(LoginSession.id.in_(ids)))
    return len(ids)

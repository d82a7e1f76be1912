"""When sessions were last used: remembered here, and written down together once a minute."""

from __future__ import annotations

import datetime

from sqlalchemy import bindparam, update

from encore.accounts.models import LoginSession
from encore.db import Database, now

__all__ = ["Sightings", "sightings"]

EVERY = datetime.timedelta(minutes=1)


class Sightings:
    """No request waits for this, and none fails because of it. Past `limit` sessions a minute the rest is not noted."""

    def __init__(self, *, limit: int = 20_000) -> None:
        self._limit = limit
        self._seen: dict[int, datetime.datetime] = {}
        self.dropped = 0
        """How many were not noted since the start."""

    def note(self, session: LoginSession) -> None:
        """This session was used now."""
        moment = now()
        if moment - session.last_seen_at < EVERY or session.id in self._seen:
            return
        if len(self._seen) >= self._limit:
            self.dropped += 1
            return
        self._seen[session.id] = moment

    async def write(self, database: Database) -> int:
        """Write down what was noted: how many sessions. Those that have ended meanwhile are passed over.

        When the database fails it raises what that raises, and what was noted is lost.
        """
        seen, self._seen = self._seen, {}
        if not seen:
            return 0
        statement = (
            update(LoginSession).where(LoginSession.id == bindparam("noted_id")).values(last_seen_at=bindparam("at"))
        )
        rows = [{"noted_id": session_id, "at": moment} for session_id, moment in sorted(seen.items())]
        async with database.writing() as session:
            connection = await session.connection()
            await connection.execute(statement, rows)
        return len(rows)


sightings = Sightings()
"""This process' own."""

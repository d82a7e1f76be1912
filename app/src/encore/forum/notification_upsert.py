"""Inserting what may be there: SQLite and PostgreSQL have the same words for it."""

from __future__ import annotations

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from encore.db import Model

__all__ = ["inserting"]


def inserting(session: AsyncSession, model: type[Model]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT into the model's table that knows `on_conflict_do_nothing` and `on_conflict_do_update`."""
    if session.get_bind().dialect.name == "postgresql":
        return postgresql.insert(model)
    return sqlite.insert(model)

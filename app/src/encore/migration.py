"""Bringing a database to the present schema, with the migrations that come with the site."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

from encore.db import Database

__all__ = ["folder", "upgrade"]


def folder() -> Path:
    """Where the migrations are: in the wheel beside this module, in a clone in `app/migrations`."""
    packed = Path(__file__).parent / "migrations"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "migrations"


def upgrade(url: str, *, revision: str = "head") -> None:
    """Apply what is missing. Replicas may do it at the same time: they take turns."""
    asyncio.run(_upgrade(url, revision))


async def _upgrade(url: str, revision: str) -> None:
    database = Database(url)
    try:
        async with database.engine.execution_options(writes=True).connect() as connection:
            await connection.run_sync(_run, revision)
            await connection.commit()
    finally:
        await database.close()


def _run(connection: Connection, revision: str) -> None:
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4117)")
    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)

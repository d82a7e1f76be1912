"""Bringing a database to the present schema, with the migrations that come with the site."""

# Alembic is imported where it is needed: a replica that serves does without it, and starts sooner.
from __future__ import annotations

import asyncio
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, inspect, text

from encore.db import Database

if TYPE_CHECKING:
    from alembic.config import Config

__all__ = ["downgrade", "folder", "head", "revision_of", "upgrade"]

NAMES = re.compile(r'^(revision|down_revision) = "(\w+)"', re.M)


def folder() -> Path:
    """Where the migrations are: in the wheel beside this module, in a clone in `app/migrations`."""
    packed = Path(__file__).parent / "migrations"
    return packed if packed.is_dir() else Path(__file__).parents[2] / "migrations"


@cache
def head() -> str:
    """The revision that this version of the site works with."""
    revisions: set[str] = set()
    followed: set[str] = set()
    for script in folder().glob("versions/*.py"):
        for kind, name in NAMES.findall(script.read_text(encoding="utf-8")):
            (revisions if kind == "revision" else followed).add(name)
    (last,) = revisions - followed
    return last


async def revision_of(database: Database) -> str | None:
    """The revision that a database is at; None for one that was never migrated. Raises what the driver raises."""
    async with database.engine.connect() as connection:
        if not await connection.run_sync(lambda plain: inspect(plain).has_table("alembic_version")):
            return None
        found = (await connection.execute(text("SELECT version_num FROM alembic_version"))).scalar_one_or_none()
    return None if found is None else str(found)


def upgrade(url: str, *, revision: str = "head") -> None:
    """Apply what is missing. Replicas may do it at the same time: they take turns."""
    asyncio.run(_migrate(url, revision, upwards=True))


def downgrade(url: str, *, revision: str) -> None:
    """Take back what came after a revision, or everything with "base". What the tables held is lost."""
    asyncio.run(_migrate(url, revision, upwards=False))


async def _migrate(url: str, revision: str, *, upwards: bool) -> None:
    database = Database(url)
    try:
        async with database.engine.execution_options(writes=True).connect() as connection:
            await connection.run_sync(_run, revision, upwards)
            await connection.commit()
    finally:
        await database.close()


def _run(connection: Connection, revision: str, upwards: bool) -> None:
    from alembic import command

    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4117)")
    work = command.upgrade if upwards else command.downgrade
    work(_config(connection), revision)


def _config(connection: Connection) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder()).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config

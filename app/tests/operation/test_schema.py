"""The tables that the models describe are those that the migrations make, in both directions."""

from __future__ import annotations

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect

import encore.tables  # noqa: F401 - makes the metadata complete
from encore.db import Database, Model
from encore.migration import downgrade, folder, head, upgrade
from harness.databases import aside


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    # What full-text search keeps for itself is no model: SQLite has tables for it, PostgreSQL indexes of expressions.
    return [found for found in compare_metadata(context, Model.metadata) if not _is_of_search(found)]


def _is_of_search(found: object) -> bool:
    is_left_over = isinstance(found, tuple) and found[0] in ("remove_table", "remove_index")
    return isinstance(found, tuple) and is_left_over and "search" in (found[1].name or "")


def tables(connection: Connection) -> set[str]:
    return set(inspect(connection).get_table_names())


async def test_models_and_migrated_tables_are_the_same(database: Database) -> None:
    async with database.engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_nothing_is_left_when_all_is_taken_back_and_all_is_there_when_it_is_made_anew(
    database: Database, database_url: str
) -> None:
    async with database.engine.connect() as connection:
        before = await connection.run_sync(tables)
    await database.engine.dispose()
    aside(lambda: downgrade(database_url, revision="base"))
    async with database.engine.connect() as connection:
        assert await connection.run_sync(tables) == {"alembic_version"}
    await database.engine.dispose()
    aside(lambda: upgrade(database_url))
    async with database.engine.connect() as connection:
        assert await connection.run_sync(tables) == before
        assert await connection.run_sync(differences) == []


def test_the_head_is_the_one_that_alembic_finds() -> None:
    from alembic.script import ScriptDirectory

    assert ScriptDirectory(str(folder())).get_current_head() == head()

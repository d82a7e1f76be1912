"""The database: SQLite or PostgreSQL, one unit of work for each request, and what is announced after its commit."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends
from sqlalchemy import BigInteger, DateTime, Dialect, Integer, MetaData, event
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.types import TypeDecorator

__all__ = [
    "BigId",
    "Database",
    "Model",
    "ReadSession",
    "UtcTime",
    "WriteSession",
    "after_commit",
    "database",
    "insert",
    "now",
    "open_database",
]

BUSY_S = 10.0
"""How long a writer waits for SQLite's one write lock, which all replicas on the machine share."""

AfterCommit = Callable[[], Awaitable[None]]


class Model(DeclarativeBase):
    """The base of all tables. Names of constraints are fixed, so that migrations can name them."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


BigId = BigInteger().with_variant(Integer(), "sqlite")
"""The type of ids. SQLite numbers rows by itself only in a plain INTEGER, which has 64 bits there anyway."""


class UtcTime(TypeDecorator[datetime.datetime]):
    """A moment, always with its time zone, which is UTC: SQLite keeps none."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a moment needs its time zone: use encore.db.now()")
        value = value.astimezone(datetime.UTC)
        return value.replace(tzinfo=None) if dialect.name == "sqlite" else value

    def process_result_value(self, value: datetime.datetime | None, dialect: Dialect) -> datetime.datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=datetime.UTC) if value.tzinfo is None else value.astimezone(datetime.UTC)


def now() -> datetime.datetime:
    """The present moment, in UTC."""
    return datetime.datetime.now(datetime.UTC)


class Database:
    """The connections of this process to its database."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        writer = self.engine.execution_options(writes=True)
        self._readers = async_sessionmaker(self.engine, expire_on_commit=False)
        self._writers = async_sessionmaker(writer, expire_on_commit=False)

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """A session that is only read from; whatever is changed in it is thrown away."""
        async with self._readers() as session:
            yield session

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """A unit of work: committed at the end, then what `after_commit` was told happens, in that order.

        When the block raises, everything is rolled back and nothing happens after it. In SQLite writers take turns,
        over all replicas; one that waits for more than 10 s gets sqlalchemy's OperationalError.
        """
        async with self._writers() as session:
            yield session
            await session.commit()
            for act in session.info.pop("after_commit", ()):
                await act()

    async def close(self) -> None:
        await self.engine.dispose()


def after_commit(session: AsyncSession, act: AfterCommit) -> None:
    """Let this happen once the session's unit of work is committed; never, if it is rolled back."""
    session.info.setdefault("after_commit", []).append(act)


def insert(session: AsyncSession, table: type[Model]) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows `on_conflict_do_nothing` and `on_conflict_do_update`, in the session's dialect."""
    is_sqlite = session.get_bind().dialect.name == "sqlite"
    return sqlite.insert(table) if is_sqlite else postgresql.insert(table)


_open: Database | None = None


def open_database(url: str) -> Database:
    """Make this the process' database, and return it. Whoever opens it closes it."""
    global _open
    _open = Database(url)
    return _open


def database() -> Database:
    """The process' database."""
    if _open is None:
        raise RuntimeError("there is no database yet: encore.main.create_app() opens it, or encore.db.open_database()")
    return _open


async def _reader() -> AsyncIterator[AsyncSession]:
    async with database().reading() as session:
        yield session


async def _writer() -> AsyncIterator[AsyncSession]:
    async with database().writing() as session:
        yield session


ReadSession = Annotated[AsyncSession, Depends(_reader, scope="function")]
"""For routes that change nothing."""
WriteSession = Annotated[AsyncSession, Depends(_writer, scope="function")]
"""For routes that write: committed, and announced, before the answer leaves."""


def _engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+asyncpg")
    if parsed.drivername == "sqlite":
        parsed = parsed.set(drivername="sqlite+aiosqlite")
    if parsed.get_backend_name() != "sqlite":
        return create_async_engine(parsed, pool_size=10, max_overflow=10, pool_timeout=10, pool_pre_ping=True)
    engine = create_async_engine(
        parsed, connect_args={"timeout": BUSY_S}, pool_size=5, max_overflow=10, pool_timeout=10
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    """Every connection: transactions are begun by us, readers and the writer do not block one another."""
    raw: sqlite3.Connection = connection.driver_connection._conn
    connection.isolation_level = None
    raw.create_function("casefold", 1, lambda text: None if text is None else str(text).casefold(), deterministic=True)
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = NORMAL",
        "foreign_keys = ON",
        f"busy_timeout = {int(BUSY_S * 1000)}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Any) -> None:
    """A writer takes the lock at once: one that read first could not get it any more when another wrote meanwhile."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

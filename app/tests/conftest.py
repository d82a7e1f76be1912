"""Databases and sites for the tests of encore.

`database` is a fresh database in this process, once on SQLite and once on PostgreSQL. For whole sites: `make_site`
starts one for a test; `shared_site` is one for a module, of two replicas on SQLite with a broker, for tests that break
nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, closing
from typing import Protocol

import pytest
import pytest_asyncio

from antiphon.dev.broker_server import BrokerServer
from encore.db import Database, open_database
from harness.databases import Databases
from harness.logs import logging_kept
from harness.site import Site


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    with logging_kept():
        yield


@pytest.fixture(scope="session")
def databases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    with closing(Databases(tmp_path_factory.mktemp("databases"))) as databases:
        yield databases


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, databases: Databases) -> Iterator[str]:
    """A fresh database: SQLite, then PostgreSQL."""
    url = databases.fresh(request.param)
    yield url
    databases.drop(url)


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The same, open as the process' database."""
    opened = open_database(database_url)
    yield opened
    await opened.close()


class MakeSite(Protocol):
    async def __call__(
        self, kind: str = "sqlite", *, replicas: int = 2, broker: bool = True, environment: dict[str, str] | None = None
    ) -> Site: ...


@pytest_asyncio.fixture
async def make_site(databases: Databases) -> AsyncIterator[MakeSite]:
    """Starts a site for this test alone, with a broker of its own that may be killed (`site.broker`)."""
    async with AsyncExitStack() as stack:

        async def make(
            kind: str = "sqlite", *, replicas: int = 2, broker: bool = True, environment: dict[str, str] | None = None
        ) -> Site:
            server = stack.enter_context(BrokerServer.start("valkey")) if broker else None
            url = databases.fresh(kind)
            stack.callback(databases.drop, url)
            site = Site(url, replicas=replicas, broker=server, environment=environment)
            return await stack.enter_async_context(site)

        yield make


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_site(databases: Databases) -> AsyncIterator[Site]:
    """One site of two replicas for a module; it needs `pytestmark = pytest.mark.asyncio(loop_scope="module")`."""
    with BrokerServer.start("valkey") as server:
        async with Site(databases.fresh("sqlite"), replicas=2, broker=server) as site:
            yield site

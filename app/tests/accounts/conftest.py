"""A site whose replicas have the hall of `hall.py`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import httpx2
import pytest
import pytest_asyncio

from antiphon.dev.broker_server import BrokerServer
from encore.accounts.passwords import Passwords, close_passwords
from encore.accounts.throttling import close_throttle
from encore.db import Database
from encore.main import app
from harness.databases import Databases
from harness.site import Site

FOLDER = Path(__file__).parents[1]
SERVE = "import sys, antiphon; antiphon.run('accounts.hall:app', port=int(sys.argv[1]), proxy_headers=False)"


class HallSite(Site):
    """Serves the hall beside everything else."""

    code = SERVE


class MakeHall(Protocol):
    async def __call__(
        self, *, broker: bool = True, replicas: int = 2, environment: Mapping[str, str] | None = None
    ) -> Site: ...


def _environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    path = os.pathsep.join([str(FOLDER), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {"PYTHONPATH": path, **(more or {})}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def halls(databases: Databases) -> AsyncIterator[Site]:
    """Two replicas on SQLite with a broker, for tests that break nothing."""
    with BrokerServer.start("valkey") as server:
        async with HallSite(databases.fresh("sqlite"), broker=server, environment=_environment()) as site:
            yield site


@pytest_asyncio.fixture
async def make_halls(databases: Databases) -> AsyncIterator[MakeHall]:
    """Starts one for a test alone, with a broker that may be killed, or without."""
    async with AsyncExitStack() as stack:

        async def make(*, broker: bool = True, replicas: int = 2, environment: Mapping[str, str] | None = None) -> Site:
            server = stack.enter_context(BrokerServer.start("valkey")) if broker else None
            site = HallSite(
                databases.fresh("sqlite"), replicas=replicas, broker=server, environment=_environment(environment)
            )
            return await stack.enter_async_context(site)

        yield make


@pytest_asyncio.fixture
async def client(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., httpx2.AsyncClient]]:
    """Makes visitors of the site in this process, on SQLite, then on PostgreSQL. Each has cookies of its own.

    Hashing costs next to nothing there.
    """
    close_passwords()
    monkeypatch.setattr("encore.accounts.passwords._passwords", Passwords(memory_kib=8, rounds=1))
    async with AsyncExitStack() as stack:

        def visitor(address: str = "203.0.113.1") -> httpx2.AsyncClient:
            transport = httpx2.ASGITransport(app=app, client=(address, 50000))
            made = httpx2.AsyncClient(transport=transport, base_url="http://site.example")
            stack.push_async_callback(made.aclose)
            return made

        yield visitor
        close_passwords()
        await close_throttle()

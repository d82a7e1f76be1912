"""Visitors of the catalogue in this process, and sounds for them to upload."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx2
import pytest
import pytest_asyncio

from encore.accounts.models import User
from encore.accounts.sessions import cookie_name, start_session
from encore.db import Database
from encore.main import app
from encore.settings import read_settings

Visit = Callable[..., Awaitable[httpx2.AsyncClient]]


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty storage, and the smallest limit for uploads: 1 MiB."""
    folder = tmp_path / "files"
    monkeypatch.setenv("ENCORE_STORAGE", str(folder))
    monkeypatch.setenv("ENCORE_UPLOAD_BYTES", str(1024**2))
    read_settings.cache_clear()
    yield folder
    read_settings.cache_clear()


@pytest_asyncio.fixture
async def visit(database: Database, storage: Path) -> AsyncIterator[Visit]:
    """Makes visitors: `await visit("cleo", is_creator=True)` has a new account; `await visit()` is a guest."""
    async with AsyncExitStack() as stack:

        async def visitor(name: str | None = None, **roles: bool) -> httpx2.AsyncClient:
            cookies = {}
            if name is not None:
                async with database.writing() as session:
                    user = User(
                        username=name,
                        username_key=name.casefold(),
                        email=f"{name}@example.org",
                        email_key=f"{name}@example.org".casefold(),
                        password_hash="!",
                        **roles,
                    )
                    session.add(user)
                    await session.flush()
                    _, token = await start_session(session, user)
                cookies = {cookie_name(): token}
            transport = httpx2.ASGITransport(app=app)
            client = httpx2.AsyncClient(transport=transport, base_url="http://site.example", cookies=cookies)
            return await stack.enter_async_context(client)

        yield visitor

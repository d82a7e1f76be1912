"""The harness itself: a site answers, and knows its people."""

from __future__ import annotations

import pytest
from sqlalchemy import func, select

from encore.accounts.models import User
from encore.db import Database
from harness.site import Site

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_two_replicas_answer_when_the_site_is_started(shared_site: Site) -> None:
    ann = await shared_site.person("ann")
    for replica in (0, 1):
        assert (await ann.at(replica).get("/api/auth/me"))["username"] == "ann"
        await shared_site.guest(replica=replica).get("/api/auth/me", status=401)


@pytest.mark.asyncio(loop_scope="function")
async def test_a_database_is_migrated_and_empty_when_it_is_fresh(database: Database) -> None:
    async with database.reading() as session:
        assert (await session.execute(select(func.count()).select_from(User))).scalar_one() == 0

"""The harness itself: a site answers, and knows its people."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest
from sqlalchemy import func, select

from encore.accounts.models import User
from encore.db import Database
from harness import nursery
from harness.databases import Databases
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


async def test_a_replica_is_a_process_with_its_own_environment_and_exit_code_when_it_is_forked(tmp_path: Path) -> None:
    log = tmp_path / "log"
    says = "import os, sys; print(sys.argv[1], os.environ['PLACE'], 'HOME' in os.environ, 'encore' in sys.modules)"
    ends = nursery.start(f"{says}; sys.exit(3)", "here", environment={"PLACE": "x"}, log=log)
    assert ends.wait(timeout=60) == ends.poll() == 3
    assert log.read_text() == "here x False False\n"
    breaks = nursery.start("raise RuntimeError('broken')", environment=os.environ, log=log)
    assert breaks.wait(timeout=60) == 1
    assert "RuntimeError: broken" in log.read_text()
    stays = nursery.start("import time; time.sleep(600)", environment=os.environ, log=log)
    assert stays.pid not in (ends.pid, os.getpid())
    assert stays.poll() is None
    stays.send_signal(signal.SIGTERM)
    assert stays.wait(timeout=60) == -signal.SIGTERM
    stays.kill()  # does nothing any more


@pytest.mark.asyncio(loop_scope="function")
async def test_a_site_starts_on_another_port_when_the_chosen_one_was_taken_meanwhile(databases: Databases) -> None:
    site = Site(databases.fresh("sqlite"), replicas=1)
    with socket.create_server(("127.0.0.1", site.ports[0])) as taken:
        async with site:
            assert site.ports[0] != taken.getsockname()[1]
            await site.guest().get("/healthz")

"""`encore user`: the first admin, and roles."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import MakeSite
from sqlalchemy import select
from typer.testing import CliRunner

from encore.accounts.models import User
from encore.accounts.passwords import passwords
from encore.cli import main
from encore.db import Database
from encore.operation.start import Exit
from harness.databases import aside

PASSWORD = "correct horse battery"


def run(*arguments: str, typed: str = "") -> tuple[int, str]:
    """A command line in a thread of its own, beside the test's event loop."""
    results = []
    aside(lambda: results.append(CliRunner().invoke(main, ["user", *arguments], input=typed)))
    return results[0].exit_code, results[0].output


@pytest.fixture
def site(environment: pytest.MonkeyPatch, database_url: str) -> str:
    """An empty database that commands work on."""
    environment.setenv("DATABASE_URL", database_url)
    return database_url


async def found(url: str, username: str) -> User | None:
    database = Database(url)
    try:
        async with database.reading() as session:
            return (await session.scalars(select(User).where(User.username == username))).one_or_none()
    finally:
        await database.close()


async def test_the_first_admin_is_made_with_the_password_that_was_typed(site: str) -> None:
    code, said = run("create", "Root", "--email", "root@example.org", "--role", "admin", typed=f"{PASSWORD}\n")
    assert (code, said.strip()) == (Exit.OK, "encore: Root is there, with the role admin")
    user = await found(site, "Root")
    assert user is not None
    assert user.roles == {"admin"}
    assert (await passwords().check(PASSWORD, user.password_hash)).matches


async def test_roles_are_exactly_those_that_were_granted_last(site: str) -> None:
    run("create", "sam", "--email", "sam@example.org", typed=f"{PASSWORD}\n")
    for roles in (["team", "creator"], ["creator"], []):
        options = [part for role in roles for part in ("--role", role)]
        assert run("grant", "sam", *options)[0] == Exit.OK
        user = await found(site, "sam")
        assert user is not None
        assert user.roles == set(roles)


@pytest.mark.parametrize(
    ("arguments", "typed", "code", "said"),
    [
        (["create", "a", "--email", "a@example.org"], PASSWORD, Exit.FAILED, "name"),
        (["create", "sam", "--email", "sam@example.org"], "short", Exit.FAILED, "password"),
        (["create", "sam", "--email", "sam@example.org", "--role", "king"], PASSWORD, Exit.USAGE, "creator"),
        (["grant", "nobody", "--role", "admin"], "", Exit.FAILED, "nobody"),
    ],
)
async def test_what_makes_no_sense_is_refused_in_one_line(
    site: str, arguments: list[str], typed: str, code: Exit, said: str
) -> None:
    ended, output = run(*arguments, typed=f"{typed}\n")
    assert ended == code
    assert said in output
    assert "Traceback" not in output
    assert PASSWORD not in output


async def test_a_name_is_given_once(site: str) -> None:
    assert run("create", "sam", "--email", "sam@example.org", typed=f"{PASSWORD}\n")[0] == Exit.OK
    code, said = run("create", "SAM", "--email", "other@example.org", typed=f"{PASSWORD}\n")
    assert code == Exit.FAILED
    assert "Traceback" not in said


async def test_sockets_end_on_all_replicas_when_a_role_is_taken_away_by_the_command(make_site: MakeSite) -> None:
    site = await make_site(environment={"ENCORE_LOG_LEVEL": "warning"})
    assert site.broker is not None
    cleo = await site.person("cleo", roles=["creator"])
    async with cleo.socket("/ws/broadcasts") as here, cleo.at(1).socket("/ws/broadcasts") as there:
        await here.heard()
        await there.heard()
        variables = {**os.environ, "DATABASE_URL": site.database_url, "REDIS_URL": site.broker.url}
        command = [sys.executable, "-m", "encore", "user", "grant", "cleo"]
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stderr.strip()) == (Exit.OK, "encore: cleo has no role now")
        assert await here.closed() >= 4500
        assert await there.closed() >= 4500


async def test_seeding_is_refused_in_one_line_when_somebody_has_a_demo_persons_name(site: str) -> None:
    assert run("create", "ann", "--email", "ann@example.org", typed=f"{PASSWORD}\n")[0] == Exit.OK
    results = []
    aside(lambda: results.append(CliRunner().invoke(main, ["seed", "--demo"])))
    assert results[0].exit_code == Exit.DATABASE
    assert "somebody is called ann already" in results[0].output
    assert "Traceback" not in results[0].output

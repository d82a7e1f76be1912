"""The site does not start like this: settings that cannot be used, or are not safe in production, and databases."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError
from typer.testing import CliRunner

from encore.cli import main
from encore.db import Database
from encore.migration import head, revision_of
from encore.operation.start import Exit, StartRefused, check_database, check_settings, describe
from encore.settings import Settings, complaints, read_settings
from harness.databases import Databases

TOKEN = "a-token-that-is-long-enough"


@pytest.fixture
def fresh_url(tmp_path: Path) -> str:
    """A SQLite database that is not there yet."""
    return f"sqlite+aiosqlite:///{tmp_path / 'site.db'}"


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port that somebody listens on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        yield int(holder.getsockname()[1])


def run(*arguments: str) -> tuple[int, str]:
    """A command line in this process: its exit code and what it said to the person."""
    result = CliRunner().invoke(main, list(arguments))
    return result.exit_code, result.output


# -- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("ENCORE_MODE", "prod", "'production', 'development' or 'demo'"),
        ("ENCORE_ALLOWED_ORIGINS", "*", "every website"),
        ("ENCORE_ALLOWED_ORIGINS", "https://a.example,app.example", "'app.example' is no origin"),
        ("ENCORE_TRUSTED_PROXIES", "0.0.0.0/0", "everybody"),
        ("ENCORE_TRUSTED_PROXIES", "proxy.example", "no address and no network"),
        ("ENCORE_OPERATOR_TOKEN", "short", "16 characters or more"),
        ("ENCORE_SESSION_DAYS", "0", "greater than or equal to 1"),
        ("ENCORE_REPLICA", "a name", "match pattern"),
        ("DATABASE_URL", "mysql://user:geheim@host/name", "none of the databases"),
        ("DATABASE_URL", "geheim", "no address of a database"),
        ("DATABASE_URL", "sqlite://", "in memory"),
    ],
)
def test_a_setting_is_refused_with_its_name_when_it_cannot_be_used(
    environment: pytest.MonkeyPatch, variable: str, value: str, said: str
) -> None:
    environment.setenv(variable, value)
    with pytest.raises(ValidationError) as refused:
        read_settings()
    (line,) = complaints(refused.value)
    assert line.startswith(f"{variable}: ")
    assert said in line
    assert "geheim" not in f"{line}{refused.value}{refused.value!r}"


def test_settings_are_read_when_they_are_right(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("ENCORE_ALLOWED_ORIGINS", "https://a.example, http://localhost:5173")
    environment.setenv("ENCORE_TRUSTED_PROXIES", "10.0.0.0/8,unix,::1")
    environment.setenv("ENCORE_REPLICA", "")
    settings = read_settings()
    assert settings.allowed_origins == ("https://a.example", "http://localhost:5173")
    assert settings.trusted_proxies == ("10.0.0.0/8", "unix", "::1")
    assert settings.replica == ""


def test_a_setting_is_named_and_no_traceback_shown_when_a_command_cannot_use_it(
    environment: pytest.MonkeyPatch,
) -> None:
    environment.setenv("DATABASE_URL", "mysql://user:geheim@host/name")
    environment.setenv("ENCORE_MODE", "prod")
    for command in (["serve"], ["migrate"], ["seed", "--demo"], ["openapi"]):
        code, said = run(*command)
        assert code == Exit.USAGE
        assert "encore: DATABASE_URL: " in said
        assert "encore: ENCORE_MODE: " in said
        assert "geheim" not in said
        assert "Traceback" not in said


# -- production -------------------------------------------------------------------------------------------------------


def production(**changes: object) -> Settings:
    values: dict[str, object] = {"mode": "production", "operator_token": SecretStr(TOKEN)}
    return Settings(**(values | changes))  # type: ignore[arg-type]  # pydantic checks them


def test_production_starts_when_everything_is_safe(environment: pytest.MonkeyPatch) -> None:
    check_settings(production(allowed_origins=("https://a.example", "http://127.0.0.1:5173", "http://localhost:8000")))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"operator_token": None}, "ENCORE_OPERATOR_TOKEN is not set"),
        ({"debug": True}, "ENCORE_DEBUG is on"),
        ({"allowed_origins": ("http://a.example",)}, "ENCORE_ALLOWED_ORIGINS holds http://a.example"),
    ],
)
def test_production_is_refused_when_something_is_unsafe(
    environment: pytest.MonkeyPatch, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(StartRefused, match=said) as refused:
        check_settings(production(**changes))
    assert refused.value.code is Exit.USAGE


def test_the_same_is_allowed_when_it_is_no_production(environment: pytest.MonkeyPatch) -> None:
    check_settings(Settings(debug=True, allowed_origins=("http://a.example",)))


def test_sqlite_in_production_is_allowed_and_said_to_be_for_one_machine(
    environment: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check_settings(production())
    assert "all replicas have to run on this machine" in caplog.text
    caplog.clear()
    environment.setenv("DATABASE_URL", "postgresql://site@db.example/site")
    check_settings(production())
    assert caplog.text == ""


def test_serve_says_all_that_is_unsafe_at_once_and_starts_nothing(
    environment: pytest.MonkeyPatch, logs: None, fresh_url: str
) -> None:
    environment.setenv("DATABASE_URL", fresh_url)
    environment.setenv("ENCORE_MODE", "production")
    environment.setenv("ENCORE_DEBUG", "true")
    code, said = run("serve")
    assert code == Exit.USAGE
    assert "ENCORE_OPERATOR_TOKEN is not set" in said
    assert "ENCORE_DEBUG is on" in said


def test_seeding_demo_people_is_refused_when_it_is_production(environment: pytest.MonkeyPatch, fresh_url: str) -> None:
    environment.setenv("DATABASE_URL", fresh_url)
    environment.setenv("ENCORE_MODE", "production")
    code, said = run("seed", "--demo")
    assert code == Exit.USAGE
    assert "no place in production" in said


# -- the database -----------------------------------------------------------------------------------------------------


async def test_a_migrated_database_is_accepted(environment: pytest.MonkeyPatch, database: Database) -> None:
    assert await revision_of(database) == head()
    await check_database(Settings(), database)
    await check_database(production(), database)


async def test_a_database_without_tables_is_refused_with_the_command_that_makes_them(
    environment: pytest.MonkeyPatch, fresh_url: str
) -> None:
    database = Database(fresh_url)
    try:
        with pytest.raises(StartRefused, match="no tables yet: run `encore migrate`") as refused:
            await check_database(Settings(), database)
    finally:
        await database.close()
    assert refused.value.code is Exit.DATABASE


async def test_a_database_of_another_version_is_refused_with_both_revisions(
    environment: pytest.MonkeyPatch, databases: Databases
) -> None:
    url = databases.fresh("sqlite")
    connection = sqlite3.connect(url.removeprefix("sqlite+aiosqlite:///"))
    connection.execute("UPDATE alembic_version SET version_num = '0001_accounts'")
    connection.commit()
    connection.close()
    database = Database(url)
    try:
        with pytest.raises(StartRefused, match=f"at revision 0001_accounts, and this version needs {head()}"):
            await check_database(Settings(), database)
    finally:
        await database.close()


def test_serve_ends_with_3_and_one_line_when_the_database_is_not_migrated(
    environment: pytest.MonkeyPatch, logs: None, fresh_url: str
) -> None:
    environment.setenv("DATABASE_URL", fresh_url)
    code, said = run("serve")
    assert code == Exit.DATABASE
    assert said.strip().splitlines()[-1].startswith("encore: the database has no tables yet: run `encore migrate`")
    assert run("migrate")[0] == Exit.OK


@pytest.mark.parametrize("command", [["serve"], ["migrate"]])
def test_a_command_ends_with_3_and_without_the_password_when_the_database_is_away(
    environment: pytest.MonkeyPatch, logs: None, command: list[str]
) -> None:
    environment.setenv("DATABASE_URL", "postgresql://site:geheim@127.0.0.1:1/site")
    code, said = run(*command)
    assert code == Exit.DATABASE
    assert "127.0.0.1:1/site cannot be used" in said
    assert "geheim" not in said
    assert "Traceback" not in said


def test_a_failure_is_described_without_the_password_when_its_text_repeats_it() -> None:
    settings = Settings(DATABASE_URL=SecretStr("postgresql://site:geheim@db.example/site?options=geheim"))  # type: ignore[call-arg]  # by its alias
    text = describe(settings, OSError("cannot reach site:geheim@db.example"))
    assert "geheim" not in text
    assert "db.example" in text


def test_serve_ends_with_1_and_one_line_when_the_port_is_in_use(
    environment: pytest.MonkeyPatch, logs: None, databases: Databases, taken_port: int
) -> None:
    environment.setenv("DATABASE_URL", databases.fresh("sqlite"))
    code, said = run("serve", "--port", str(taken_port))
    assert code == Exit.FAILED
    assert f"cannot listen on 127.0.0.1 port {taken_port}" in said
    assert "--port" in said
    code, said = run("serve", "--host", "192.0.2.1")
    assert code == Exit.FAILED
    assert "cannot listen on 192.0.2.1" in said


def test_an_application_is_refused_too_when_another_server_than_ours_starts_it(
    environment: pytest.MonkeyPatch, fresh_url: str
) -> None:
    command = [sys.executable, "-m", "uvicorn", "encore.main:app", "--port", "0"]
    environment.setenv("DATABASE_URL", fresh_url)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "run `encore migrate`" in done.stderr


async def test_production_is_refused_when_there_are_demo_people(
    environment: pytest.MonkeyPatch, database: Database
) -> None:
    from encore.accounts.service_people import create_user

    async with database.writing() as session:
        await create_user(session, username="ann", email="ann@example.org", password="antiphon-demo", is_demo=True)
    await check_database(Settings(mode="demo"), database)
    with pytest.raises(StartRefused) as refused:
        await check_database(production(), database)
    assert refused.value.code is Exit.DATABASE


def test_migrating_twice_changes_nothing_the_second_time(environment: pytest.MonkeyPatch, fresh_url: str) -> None:
    environment.setenv("DATABASE_URL", fresh_url)
    for _ in range(2):
        code, said = run("migrate")
        assert code == Exit.OK
        assert "present schema" in said

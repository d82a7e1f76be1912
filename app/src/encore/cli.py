"""The command `encore`."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

import antiphon
from encore.accounts.service_people import create_user, grant_roles
from encore.db import Database, open_database
from encore.errors import SiteError
from encore.migration import upgrade
from encore.operation.logs import configure_logging
from encore.operation.ports import PortTaken, check_port
from encore.operation.start import Exit, StartRefused, check_database, check_settings, describe
from encore.settings import Settings, complaints, read_settings

__all__ = ["main"]

main = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Encore, the site. Settings come from the environment: DATABASE_URL, REDIS_URL and ENCORE_*.",
)
users = typer.Typer(no_args_is_help=True, help="People: the first admin is made here.")
main.add_typer(users, name="user")

ROLES = ("team", "creator", "admin")


def say(text: str) -> None:
    """Tell the person at the terminal something that is no output."""
    print(text, file=sys.stderr)


@contextmanager
def reported() -> Generator[Settings]:
    """The settings; what goes wrong becomes a text without a traceback, and an exit code."""
    try:
        settings = read_settings()
    except ValidationError as error:
        for line in complaints(error):
            say(f"encore: {line}")
        raise typer.Exit(Exit.USAGE) from error
    try:
        yield settings
    except (StartRefused, PortTaken) as error:
        say(f"encore: {error}")
        raise typer.Exit(error.code if isinstance(error, StartRefused) else Exit.FAILED) from error
    except antiphon.ConfigurationError as error:
        say(f"encore: {error}")
        raise typer.Exit(Exit.USAGE) from error
    except SiteError as error:
        say(f"encore: {error.detail}")
        raise typer.Exit(Exit.FAILED) from error
    except (SQLAlchemyError, ConnectionError, TimeoutError) as error:
        say(f"encore: {describe(settings, error)}")
        raise typer.Exit(Exit.DATABASE) from error


def with_database(settings: Settings, work: Callable[[Database], Any], *, migrated: bool = True) -> None:
    """Run this with the database open, which is looked at first."""

    async def run() -> None:
        database = open_database(settings.database_url.get_secret_value())
        try:
            if migrated:
                await check_database(settings, database)
            await work(database)
        finally:
            await database.close()

    asyncio.run(run())


async def _nothing(database: Database) -> None:
    """Looking was all."""


@main.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port to listen on.")] = 8000,
) -> None:
    """Serve the site: one replica. SIGTERM sends its clients away first, then it ends."""
    with reported() as settings:
        configure_logging(settings)
        check_settings(settings)
        with_database(settings, _nothing)
        check_port(host, port)
        from encore.main import app

        antiphon.run(
            app,
            host=host,
            port=port,
            log_config=None,
            server_header=False,
            # ENCORE_TRUSTED_PROXIES says whose X-Forwarded-For is believed, and nothing else.
            proxy_headers=False,
            timeout_graceful_shutdown=5,
        )


@main.command()
def migrate() -> None:
    """Bring the database to the present schema. Replicas may do it at the same time: they take turns."""
    with reported() as settings:
        upgrade(settings.database_url.get_secret_value())
        say("encore: the database is at the present schema")


@main.command()
def seed(
    demo: Annotated[
        bool, typer.Option("--demo", help="People, music, threads and requests of the demonstration.")
    ] = False,
) -> None:
    """Fill the database for a demonstration. Not in production: everybody knows the password of its people."""
    with reported() as settings:
        if not demo:
            say("encore: what to seed? --demo makes the people, the music and the rest of the demonstration")
            raise typer.Exit(Exit.USAGE)
        if settings.mode == "production":
            raise StartRefused("demo people have no place in production", code=Exit.USAGE)
        _seed(settings)
        say("encore: seeded")


def _seed(settings: Settings) -> None:
    from encore.seeding import CannotSeed, seed_demo

    try:
        with_database(settings, seed_demo)
    except CannotSeed as error:
        raise StartRefused(str(error), code=Exit.DATABASE) from error


@main.command()
def demo(
    replicas: Annotated[int, typer.Option("--replicas", "-n", min=1, max=9, help="How many processes.")] = 3,
    port: Annotated[int, typer.Option(min=0, max=65_525, help="The shared port; 0 for a free one.")] = 8000,
    folder: Annotated[Path, typer.Option(help="Where its database and files are, and stay.")] = Path("encore-demo"),
    redis: Annotated[
        str | None,
        typer.Option(help="A broker to use instead of an embedded Valkey; none for none.", show_default=False),
    ] = None,
    keys: Annotated[bool, typer.Option("--keys/--no-keys", help="Stop and start parts by single keys.")] = True,
) -> None:
    """Show everything: the seeded site on some replicas, with a Valkey server and a database of its own."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    os.environ |= {
        "DATABASE_URL": f"sqlite+aiosqlite:///{folder / 'encore.db'}",
        "ENCORE_STORAGE": str(folder / "files"),
        "ENCORE_MODE": "demo",
    }
    read_settings.cache_clear()
    with reported() as settings:
        say(f"encore: preparing the database in {folder}")
        upgrade(settings.database_url.get_secret_value())
        _seed(settings)
    command = [sys.executable, "-m", "antiphon.cli", "dev", "encore.main:app"]
    command += ["--replicas", str(replicas), "--port", str(port)]
    command += ["--broker-switch"] if redis is None else ["--redis", redis]
    command += [] if keys else ["--no-keys"]
    broker = SWITCH if redis is None else ""
    introduction = INTRODUCTION if port else INTRODUCTION_ANY_PORT
    print(introduction.format(port=port, next=port + 1, after=port + 2, broker=broker))
    sys.stdout.flush()
    os.execve(command[0], command, dict(os.environ))


PEOPLE = """
  People   ann, ben (listeners)   tom (team)   cleo (creator)   ada (admin)
           one click on the page signs in; everywhere else their password is antiphon-demo
"""
SWITCH = """           Stop the broker on the page, under Operations, and go on writing; start it again.
"""
INTRODUCTION = (
    PEOPLE
    + """
  Try      open http://127.0.0.1:{next}/ and http://localhost:{after}/ side by side: two people on two replicas
           (two names of this machine, so that each window has a session of its own). Write in one, watch the other.
{broker}           http://127.0.0.1:{port}/docs lists all routes and sockets.
"""
)
INTRODUCTION_ANY_PORT = (
    PEOPLE
    + """
  Try      open two of the replicas below side by side, one as 127.0.0.1 and one as localhost: two people, two replicas.
{broker}"""
)


@users.command()
def create(
    username: Annotated[str, typer.Argument(help="3 to 32 of A-Z a-z 0-9 _ . -")],
    email: Annotated[str, typer.Option(help="Where to write to them.")],
    role: Annotated[list[str] | None, typer.Option(help="team, creator or admin; may be given again.")] = None,
    display_name: Annotated[str, typer.Option(help="What others see; the username without it.")] = "",
) -> None:
    """Make an account. The password is asked for, or read from standard input when that is no terminal."""
    with reported() as settings:
        roles = _roles(role)
        password = _password()

        async def work(database: Database) -> None:
            async with database.writing() as session:
                await create_user(
                    session, username=username, email=email, password=password, display_name=display_name, roles=roles
                )

        with_database(settings, work)
        say(f"encore: {username} is there, with {_listed(roles)}")


@users.command()
def grant(
    username: Annotated[str, typer.Argument(help="Whose.")],
    role: Annotated[list[str] | None, typer.Option(help="team, creator or admin; may be given again.")] = None,
) -> None:
    """Give an account exactly these roles; without any it is a listener's."""
    with reported() as settings:
        roles = _roles(role)

        # All channels are there then, so that whoever loses a role loses their sockets at once, on all replicas.
        from encore.main import app

        async def work(database: Database) -> None:
            async with antiphon.lifespan(app), database.writing() as session:
                await grant_roles(session, username, roles=roles)

        with_database(settings, work)
        say(f"encore: {username} has {_listed(roles)} now")


def _roles(given: list[str] | None) -> set[str]:
    unknown = sorted(set(given or ()) - set(ROLES))
    if unknown:
        raise typer.BadParameter(f"{', '.join(unknown)}: there are {', '.join(ROLES)}", param_hint="--role")
    return set(given or ())


def _listed(roles: set[str]) -> str:
    return f"the role{'s' if len(roles) > 1 else ''} {', '.join(sorted(roles))}" if roles else "no role"


def _password() -> str:
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    return sys.stdin.readline().rstrip("\n")


@main.command()
def openapi() -> None:
    """Print the OpenAPI document of the REST routes."""
    with reported():
        from encore.main import app

        print(json.dumps(app.openapi(), indent=2, ensure_ascii=False))


@main.command()
def asyncapi() -> None:
    """Print the AsyncAPI document of the sockets and all their messages."""
    with reported():
        from encore.operation.asyncapi import asyncapi as document

        print(json.dumps(document(), indent=2, ensure_ascii=False))

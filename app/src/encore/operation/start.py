"""What must hold before the site serves anybody: safe settings, a database with the present schema, no demo people."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from enum import IntEnum
from urllib.parse import urlsplit

from sqlalchemy.exc import SQLAlchemyError

from encore.db import Database
from encore.migration import head, revision_of
from encore.settings import Settings

__all__ = ["Exit", "StartRefused", "check_database", "check_settings", "describe"]

log = logging.getLogger("encore.operation")

DATABASE_S = 10.0
"""How long the database may take to answer the first question."""


class Exit(IntEnum):
    """What a script that calls `encore` can rely on."""

    OK = 0
    """Done, or stopped by a signal after the clients were sent away."""
    FAILED = 1
    """It did not work, for a reason that is printed."""
    USAGE = 2
    """An argument or a setting cannot be used, or is not safe in production. Nothing was started."""
    DATABASE = 3
    """The database cannot be reached, is not migrated, or holds demo people in production. Nothing was started."""


class StartRefused(Exception):
    """The site does not start like this. The text says what to do; none of it is secret."""

    def __init__(self, text: str, *, code: Exit) -> None:
        super().__init__(text)
        self.code = code


def check_settings(settings: Settings) -> None:
    """Refuse what is unsafe in production. Raises StartRefused with every reason, one a line."""
    if settings.mode != "production":
        return
    problems = []
    if settings.operator_token is None:
        problems.append(
            "ENCORE_OPERATOR_TOKEN is not set: behind a proxy on this machine, everybody could look like an operator"
        )
    if settings.debug:
        problems.append("ENCORE_DEBUG is on: answers to errors would show the program's own lines")
    problems += [
        f"ENCORE_ALLOWED_ORIGINS holds {origin}: without https anybody on the way can act for whoever is signed in"
        for origin in settings.allowed_origins
        if urlsplit(origin).scheme != "https" and not _is_this_machine(origin)
    ]
    if problems:
        raise StartRefused("not in production:\n" + "\n".join(f"  {line}" for line in problems), code=Exit.USAGE)
    if settings.parsed_database_url.get_backend_name() == "sqlite":
        log.warning(
            "the database is a SQLite file: all replicas have to run on this machine. For several machines set "
            "DATABASE_URL=postgresql+asyncpg://…"
        )


async def check_database(settings: Settings, database: Database) -> None:
    """Refuse a database that cannot be reached or lacks the present schema, and demo people in production.

    Raises StartRefused. Takes at most about 10 s.
    """
    try:
        async with asyncio.timeout(DATABASE_S):
            found = await revision_of(database)
    except (OSError, SQLAlchemyError, TimeoutError) as error:
        raise StartRefused(describe(settings, error), code=Exit.DATABASE) from error
    if found != head():
        what = "has no tables yet" if found is None else f"is at revision {found}, and this version needs {head()}"
        raise StartRefused(f"the database {what}: run `encore migrate` with the same DATABASE_URL", code=Exit.DATABASE)
    if settings.mode == "production":
        # Making demo data takes packages for audio, which a replica that serves can do without.
        from encore import seeding

        try:
            await seeding.refuse_demo_people(database)
        except Exception as error:
            raise StartRefused(str(error), code=Exit.DATABASE) from error


def describe(settings: Settings, error: BaseException) -> str:
    """What a failure of the database means, in one line and without the password."""
    url = settings.parsed_database_url
    cause = getattr(error, "orig", None) or error
    text = str(cause).strip().split("\n", 1)[0] or type(cause).__name__
    if isinstance(cause, TimeoutError):
        text = f"no answer within {DATABASE_S:g} s"
    password = url.password
    if password:
        text = text.replace(str(password), "***")
    where = url.set(password=None, query={}).render_as_string()
    return f"the database {where} cannot be used: {text}. Is DATABASE_URL right, and does it run?"


def _is_this_machine(origin: str) -> bool:
    host = urlsplit(origin).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"

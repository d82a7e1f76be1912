"""Accounts: making them, and what admins do with them."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import AntiphonError
from encore.accounts.models import LoginSession, User
from encore.accounts.passwords import LONGEST, SHORTEST, passwords
from encore.accounts.schemas import EMAIL, USERNAME, Changes
from encore.db import after_commit
from encore.errors import BadRequest, Conflict, Forbidden, NotFound
from encore.live import channels, disconnect_user

__all__ = [
    "ROLES",
    "add_user",
    "change_user",
    "create_user",
    "find_user",
    "grant_roles",
    "is_name",
    "list_users",
    "name_key",
    "set_banned",
]

log = logging.getLogger("encore.accounts")

ROLES = frozenset({"team", "creator", "admin"})
RESERVED = frozenset({"all", "channel", "everyone", "here", "system"})
"""What @mentions and addresses mean something else by."""
TAKEN = "this username or this e-mail address is taken already"


def name_key(username: str) -> str:
    """What a username is found by."""
    return username.lower()


def is_name(text: str) -> bool:
    """Whether somebody could be called so."""
    return re.fullmatch(USERNAME, text, re.ASCII) is not None


async def create_user(
    session: AsyncSession,
    *,
    username: str,
    email: str,
    password: str,
    display_name: str = "",
    roles: Collection[str] = (),
    is_demo: bool = False,
) -> User:
    """A new account; for the command line and for demo data. Raises BadRequest for what cannot be one, and Conflict.

    The session must not have read or written yet: the password is hashed first, and SQLite has one writer at a time.
    """
    if not is_name(username):
        raise BadRequest("a username has 3 to 32 of A-Z a-z 0-9 _ . - and no dot at the end")
    if len(email) > 254 or not re.fullmatch(EMAIL, email, re.ASCII):
        raise BadRequest(f"{email!r} is no e-mail address")
    if not SHORTEST <= len(password) <= LONGEST:
        raise BadRequest(f"a password has {SHORTEST} to {LONGEST:,} characters")
    _check_roles(roles)
    hashed = await passwords().hash(password)
    user = await add_user(
        session, username=username, email=email, password_hash=hashed, display_name=display_name, is_demo=is_demo
    )
    for role in roles:
        setattr(user, f"is_{role}", True)
    await session.flush()
    return user


async def add_user(
    session: AsyncSession,
    *,
    username: str,
    email: str,
    password_hash: str,
    display_name: str = "",
    is_demo: bool = False,
) -> User:
    """Write a new account down. Raises Conflict when somebody has the name or the address, in whatever letter case.

    It does not say which of the two: who has an account here with which e-mail address is nobody's business.
    """
    if name_key(username) in RESERVED:
        raise Conflict(TAKEN, code="taken")
    user = User(
        username=username,
        username_key=name_key(username),
        email=email,
        email_key=email.lower(),
        display_name=display_name[:80],
        password_hash=password_hash,
        is_demo=is_demo,
    )
    session.add(user)
    try:
        await session.flush()
    except IntegrityError as error:
        raise Conflict(TAKEN, code="taken") from error
    return user


async def find_user(session: AsyncSession, username: str) -> User:
    """Somebody by name, in any letter case. Raises NotFound."""
    user = None
    if is_name(username):  # a database may choke on anything else
        found = await session.execute(select(User).where(User.username_key == name_key(username)))
        user = found.scalar_one_or_none()
    if user is None:
        raise NotFound("there is nobody of this name")
    return user


async def list_users(session: AsyncSession, *, prefix: str, after: str | None, limit: int) -> list[User]:
    """By name: those whose name begins so, behind the name `after`; one more than `limit`, if there is one."""
    query = select(User).order_by(User.username_key).limit(limit + 1)
    if prefix:
        start = name_key(prefix)
        query = query.where(User.username_key >= start, User.username_key < start + "\x7f")
    if after is not None:
        query = query.where(User.username_key > after)
    return list((await session.execute(query)).scalars())


async def change_user(session: AsyncSession, username: str, changes: Changes, *, actor_id: int) -> User:
    """Give and take roles, ban and unban, as this admin. Raises NotFound; Conflict when it is about oneself.

    Whoever loses a role or is banned is cut off everywhere at once; who gets one has it with the next request, and
    on open sockets with the next re-check.
    """
    wanted = {name: value for name, value in changes.model_dump().items() if value is not None}
    # Admins take turns, so that two who take the role from one another at the same time do not both succeed.
    admins = await session.execute(select(User.id).where(User.is_admin).order_by(User.id).with_for_update())
    if actor_id not in set(admins.scalars()):
        raise Forbidden("this is for admins")
    user = await find_user(session, username)
    if user.id == actor_id and (wanted.get("is_admin") is False or wanted.get("is_banned")):
        raise Conflict("another admin has to do this: nobody locks themselves out", code="oneself")
    await _apply(session, user, wanted)
    return user


async def grant_roles(session: AsyncSession, username: str, *, roles: Collection[str]) -> User:
    """Let somebody have exactly these roles; for the command line. Raises NotFound and BadRequest."""
    _check_roles(roles)
    user = await find_user(session, username)
    await _apply(session, user, {f"is_{role}": role in roles for role in ROLES})
    return user


async def set_banned(session: AsyncSession, username: str, *, is_banned: bool) -> User:
    """Ban somebody, or lift it; for the command line. Raises NotFound."""
    user = await find_user(session, username)
    await _apply(session, user, {"is_banned": is_banned})
    return user


async def _apply(session: AsyncSession, user: User, wanted: Mapping[str, bool]) -> None:
    roles_before, was_banned = user.roles, user.is_banned
    for name, value in wanted.items():
        setattr(user, name, value)
    await session.flush()
    if user.is_banned:
        await session.execute(delete(LoginSession).where(LoginSession.user_id == user.id))
    user_id = user.id
    if roles_before - user.roles or (user.is_banned and not was_banned):

        async def cut() -> None:
            await disconnect_user(user_id)

        after_commit(session, cut)
    elif user.roles - roles_before:
        after_commit(session, _recheck)


async def _recheck() -> None:
    """Sockets of this replica learn of new roles at once; those of others at their next re-check."""
    for name, manager in channels().items():
        try:
            manager.recheck()
        except AntiphonError as error:  # it closes at this moment: its sockets close too
            log.info("channel %s was not asked to look again: %s", name, error)


def _check_roles(roles: Collection[str]) -> None:
    unknown = set(roles) - ROLES
    if unknown:
        raise BadRequest(f"there is no role {', '.join(sorted(unknown))}: there are {', '.join(sorted(ROLES))}")

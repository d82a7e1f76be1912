"""Signing up, in and out."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

from limits import RateLimitItemPerHour, RateLimitItemPerMinute
from sqlalchemy import delete, exists, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from encore.accounts.models import LoginSession, User
from encore.accounts.passwords import passwords
from encore.accounts.service_people import add_user, is_name, name_key
from encore.accounts.sessions import SignedIn, digest, end_surplus, start_session
from encore.accounts.throttling import Patience, throttle
from encore.accounts.turns import Turns
from encore.db import after_commit, database, now
from encore.errors import BadRequest, Conflict, Forbidden, NotFound, NotSignedIn, TooManyRequests
from encore.live import disconnect_session, disconnect_user

__all__ = [
    "Entered",
    "Visitor",
    "change_password",
    "end_all_sessions",
    "end_session",
    "list_sessions",
    "log_in",
    "may_ask_for_a_ticket",
    "sign_up",
]

HERE = Patience(free=5, longest_s=300)
"""For one name from one address."""
ANYWHERE = Patience(free=20, longest_s=60)
"""For one name, wherever they come from. Who has a session from this address is not held back by it."""
ADDRESS = Patience(free=30, longest_s=60)
"""For all names from one address."""

SIGN_UPS = (RateLimitItemPerMinute(30), RateLimitItemPerHour(300))
"""For one address. Generous: behind a proxy that is not named everybody has the same."""
TICKETS = (RateLimitItemPerMinute(60),)
"""For one user: a page asks for one whenever it reconnects, on each of its sockets."""

turns = Turns()

WRONG = "the username or the password is wrong"


@dataclass(frozen=True, slots=True)
class Visitor:
    """Where somebody comes from."""

    address: str
    user_agent: str
    token: str = ""
    """The session cookie that came along; whoever signs in leaves that session."""


@dataclass(frozen=True, slots=True)
class Entered:
    """Somebody who has just signed in, and the new cookie's value."""

    user: User
    token: str


async def sign_up(session: AsyncSession, *, username: str, email: str, password: str, visitor: Visitor) -> Entered:
    """A new account, signed in. Raises Conflict when the name or the address is taken, and TooManyRequests."""
    await throttle().limit(f"sign-up {visitor.address}", *SIGN_UPS, detail="too many new accounts: try again later")
    hashed = await passwords().hash(password)
    user = await add_user(session, username=username, email=email, password_hash=hashed)
    return await _enter(session, user, visitor)


async def log_in(session: AsyncSession, *, username: str, password: str, visitor: Visitor) -> Entered:
    """Sign somebody in. Raises NotSignedIn, with one text whatever was wrong; TooManyRequests; Forbidden when banned.

    Wrong tries make the next ones wait, longer each time, by name and by address. Nobody is locked out for good, and a
    stranger's tries do not hold back who has a session from the same address.
    """
    key = name_key(username)
    async with turns.take(f"{key} {visitor.address}"):
        user, better_hash = await _prove(key, password, visitor)
        fresh = await _still(session, user)
        if better_hash is not None:
            fresh.password_hash = better_hash
        return await _enter(session, fresh, visitor)


async def change_password(session: AsyncSession, me: SignedIn, *, current: str, new: str) -> int:
    """A new password. All other sessions of the user end, with their sockets: how many.

    Raises BadRequest when the present one is wrong, TooManyRequests after many of those, and Conflict when somebody
    else was changing it.
    """
    name = f"password {me.user.id}"
    await _admit((name,))
    if not await throttle().count(name, patience=HERE):
        await _admit((name,), at_least_s=1.0)
    stored = me.user.password_hash
    if not (await passwords().check(current, stored)).matches:
        raise BadRequest("the present password is wrong", code="wrong_password")
    await throttle().forgive(name)
    hashed = await passwords().hash(new)
    changed = await session.execute(
        update(User).where(User.id == me.user.id, User.password_hash == stored).values(password_hash=hashed)
    )
    if not changed.rowcount:  # type: ignore[attr-defined]  # an UPDATE's result has it
        raise Conflict("the password was changed at this moment from elsewhere")
    return await _end(session, me.user.id, kept_id=me.session.id)


async def list_sessions(session: AsyncSession, user_id: int) -> list[LoginSession]:
    """The sessions of a user, newest first: at most fifty."""
    found = await session.execute(
        select(LoginSession)
        .where(LoginSession.user_id == user_id, LoginSession.expires_at > now())
        .order_by(LoginSession.created_at.desc(), LoginSession.id.desc())
    )
    return list(found.scalars())


async def end_session(session: AsyncSession, user_id: int, session_id: int) -> int:
    """End one of the user's sessions, and its sockets on all replicas. Raises NotFound, also for somebody else's."""
    ended = await session.execute(
        delete(LoginSession).where(LoginSession.id == session_id, LoginSession.user_id == user_id)
    )
    if not ended.rowcount:  # type: ignore[attr-defined]  # a DELETE's result has it
        raise NotFound("you have no such session")
    _cut_sessions(session, [session_id])
    return 1


async def end_all_sessions(session: AsyncSession, user_id: int) -> int:
    """End all of the user's sessions, this one as well: how many."""
    return await _end(session, user_id, kept_id=None)


async def may_ask_for_a_ticket(user_id: int) -> None:
    """Raises TooManyRequests for somebody who asks for tickets all the time."""
    await throttle().limit(f"ticket {user_id}", *TICKETS, detail="too many tickets: connect with those you have")


async def _prove(key: str, password: str, visitor: Visitor) -> tuple[User, str | None]:
    """Whose name and password these are, and what to store instead of the hash, if anything."""
    user, is_known = await _look_up(key, visitor)
    here, anywhere, address = f"{key} {visitor.address}", f"name {key}", f"address {visitor.address}"
    await _admit((here,) if is_known else (here, anywhere, address))
    is_free = await throttle().count(here, patience=HERE)
    is_free = (is_known or await throttle().count(anywhere, patience=ANYWHERE)) and is_free
    if not is_free:
        await _admit((here, anywhere), at_least_s=1.0)
    checked = await passwords().check(password, None if user is None else user.password_hash)
    if user is None or not checked.matches:
        if not is_known:
            await throttle().count(address, patience=ADDRESS)
        raise NotSignedIn(WRONG, code="wrong_credentials")
    await throttle().forgive(here, anywhere)
    return user, checked.better_hash


async def _look_up(key: str, visitor: Visitor) -> tuple[User | None, bool]:
    """Whom the name belongs to, and whether they have a session from this address. As much work for nobody's name."""
    name = key if is_name(key) else ""  # a database may choke on anything else
    async with database().reading() as session:
        user = (await session.execute(select(User).where(User.username_key == name))).scalar_one_or_none()
        owner_id = 0 if user is None else user.id
        is_known = select(
            exists().where(
                LoginSession.user_id == owner_id,
                LoginSession.address == visitor.address,
                LoginSession.expires_at > now(),
            )
        )
        return user, bool((await session.execute(is_known)).scalar_one())


async def _admit(names: Collection[str], *, at_least_s: float = 0.0) -> None:
    wait_s = max(at_least_s, await throttle().wait_s(*names))
    if wait_s:
        raise TooManyRequests("too many wrong tries: wait before the next one", retry_after_s=math.ceil(wait_s))


async def _still(session: AsyncSession, proved: User) -> User:
    """The account, locked, if nothing has changed while the password was compared."""
    query = select(User).where(User.id == proved.id).with_for_update()
    user = (await session.execute(query)).scalar_one_or_none()
    if user is None:
        raise NotSignedIn(WRONG, code="wrong_credentials")
    if user.is_banned:
        raise Forbidden("this account was closed by an admin", code="banned")
    if user.password_hash != proved.password_hash:
        raise Conflict("the password was changed at this moment: sign in again")
    return user


async def _enter(session: AsyncSession, user: User, visitor: Visitor) -> Entered:
    """A new session, never one that came along: whoever planted a cookie gains nothing by this sign-in."""
    ended: list[int] = []
    if visitor.token:
        left = await session.execute(
            delete(LoginSession).where(LoginSession.token_sha256 == digest(visitor.token)).returning(LoginSession.id)
        )
        ended.extend(left.scalars())
    _, token = await start_session(session, user, user_agent=visitor.user_agent, address=visitor.address)
    ended.extend(await end_surplus(session, user.id))
    _cut_sessions(session, ended)
    return Entered(user, token)


async def _end(session: AsyncSession, user_id: int, *, kept_id: int | None) -> int:
    query = delete(LoginSession).where(LoginSession.user_id == user_id)
    if kept_id is not None:
        query = query.where(LoginSession.id != kept_id)
    ended = await session.execute(query)

    async def cut() -> None:
        await disconnect_user(user_id, except_session_id=kept_id)

    after_commit(session, cut)
    return int(ended.rowcount)  # type: ignore[attr-defined]  # a DELETE's result has it


def _cut_sessions(session: AsyncSession, session_ids: Collection[int]) -> None:
    async def cut() -> None:
        for session_id in session_ids:
            await disconnect_session(session_id)

    if session_ids:
        after_commit(session, cut)

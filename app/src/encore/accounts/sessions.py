"""Sessions: an opaque random token in a cookie, its SHA-256 in the database, and nothing else to forge."""

from __future__ import annotations

import datetime
import hashlib
import secrets
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import joinedload

from encore.accounts.models import LoginSession, User
from encore.db import now
from encore.settings import read_settings

__all__ = ["SignedIn", "cookie_name", "end_surplus", "find_session", "session_by_id", "start_session"]

TOKEN_BYTES = 32
SESSIONS_PER_USER = 50
"""Who signs in once more ends the oldest one."""


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Somebody, and the session that proves it."""

    user: User
    session: LoginSession


def cookie_name() -> str:
    """With TLS the prefix keeps other hosts of the domain, and plain http, from setting it."""
    return "__Host-encore_session" if read_settings().uses_tls else "encore_session"


def digest(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


async def start_session(
    session: AsyncSession, user: User, *, user_agent: str = "", address: str = ""
) -> tuple[LoginSession, str]:
    """A new session for this user, and the token for the cookie, which is kept nowhere here."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = now() + datetime.timedelta(days=read_settings().session_days)
    row = LoginSession(
        user_id=user.id,
        token_sha256=digest(token),
        expires_at=expires_at,
        user_agent=user_agent[:200],
        address=address[:64],
    )
    session.add(row)
    await session.flush()
    return row, token


async def find_session(session: AsyncSession, token: str) -> SignedIn | None:
    """Whom this cookie belongs to; None when it is unknown, ended or too old, or the user is banned."""
    if not 20 <= len(token) <= 200:
        return None
    return await _find(session, LoginSession.token_sha256 == digest(token))


async def session_by_id(session: AsyncSession, session_id: int) -> SignedIn | None:
    """The same for one that was proved before, as by a ticket."""
    return await _find(session, LoginSession.id == session_id)


async def _find(session: AsyncSession, condition: object) -> SignedIn | None:
    query = select(LoginSession).options(joinedload(LoginSession.user)).where(condition)  # type: ignore[arg-type]  # a column's comparison
    row = (await session.execute(query)).scalar_one_or_none()
    if row is None or row.expires_at <= now() or row.user.is_banned:
        return None
    return SignedIn(row.user, row)


async def end_surplus(session: AsyncSession, user_id: int) -> list[int]:
    """Remove what a user has too many, oldest first: the ids. Call it with the user's row locked."""
    surplus = await session.execute(
        select(LoginSession.id)
        .where(LoginSession.user_id == user_id)
        .order_by(LoginSession.created_at.desc(), LoginSession.id.desc())
        .offset(SESSIONS_PER_USER)
    )
    ids = list(surplus.scalars())
    if ids:
        await session.execute(delete(LoginSession).where(LoginSession.id.in_(ids)))
    return ids

"""Dependencies: who asks, and whether that is enough. For REST routes and for sockets."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request

from antiphon import Identity
from encore.accounts.models import User
from encore.accounts.sessions import SignedIn, cookie_name, find_session
from encore.accounts.sightings import sightings
from encore.db import database
from encore.errors import Forbidden, NotSignedIn
from encore.web import set_user

__all__ = ["Admin", "CurrentSession", "CurrentUser", "MaybeUser", "Staff", "identity_of"]


async def _maybe_signed_in(request: Request) -> SignedIn | None:
    token = request.cookies.get(cookie_name())
    if not token:
        return None
    async with database().reading() as session:
        found = await find_session(session, token)
    if found is not None:
        sightings.note(found.session)
        set_user(found.user.id)
    return found


async def _signed_in(found: Annotated[SignedIn | None, Depends(_maybe_signed_in)]) -> SignedIn:
    if found is None:
        raise NotSignedIn("sign in first: POST /api/auth/login")
    return found


async def _maybe_user(found: Annotated[SignedIn | None, Depends(_maybe_signed_in)]) -> User | None:
    return None if found is None else found.user


async def _user(found: Annotated[SignedIn, Depends(_signed_in)]) -> User:
    return found.user


async def _staff(user: Annotated[User, Depends(_user)]) -> User:
    if not user.is_staff:
        raise Forbidden("this is for creators, the team and admins")
    return user


async def _admin(user: Annotated[User, Depends(_user)]) -> User:
    if not user.is_admin:
        raise Forbidden("this is for admins")
    return user


CurrentSession = Annotated[SignedIn, Depends(_signed_in)]
"""Who is signed in, and by which session; else 401."""
CurrentUser = Annotated[User, Depends(_user)]
"""Who is signed in; else 401. The row belongs to no open session: read it, do not change it."""
MaybeUser = Annotated[User | None, Depends(_maybe_user)]
"""The same, and None for guests."""
Staff = Annotated[User, Depends(_staff)]
"""A creator, one of the team or an admin; else 403."""
Admin = Annotated[User, Depends(_admin)]
"""An admin; else 403."""


def identity_of(found: SignedIn) -> Identity:
    """What the sockets know of somebody: ids as texts, and the roles."""
    return Identity(
        user_id=str(found.user.id),
        session_id=str(found.session.id),
        roles=found.user.roles,
        expires_at_s=found.session.expires_at.timestamp(),
        claims={"username": found.user.username},
    )

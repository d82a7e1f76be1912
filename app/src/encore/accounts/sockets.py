"""Who is at the other end of a socket: the session's cookie or a ticket, and never what the address claims."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the functions made here.

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, WebSocket

from antiphon import CookieSession, Forbidden, Identity, Security, Tickets, refuse
from encore.accounts.access import identity_of
from encore.accounts.sessions import cookie_name, find_session, session_by_id
from encore.accounts.sightings import sightings
from encore.db import database
from encore.settings import read_settings

__all__ = ["Authorize", "claimed_rightly", "site_security", "tickets"]

Authorize = Callable[[Identity | None, str], Awaitable[bool]]

RECHECK_S = 60.0

tickets = Tickets()
"""Single-use sign-ins for sockets, of 30 s; shared by all channels and replicas."""


async def _find_identity(token: str) -> Identity | None:
    async with database().reading() as session:
        found = await find_session(session, token)
    if found is None:
        return None
    sightings.note(found.session)
    return identity_of(found)


class _StillTheSame:
    """The truth about those who are connected, by cookie or ticket: is their session there, and every role they had?"""

    async def authenticate(self, connection: object) -> Identity | None:
        return None

    async def is_valid(self, identity: Identity) -> bool:
        if identity.session_id is None:
            return False
        async with database().reading() as session:
            found = await session_by_id(session, int(identity.session_id))
        if found is None or str(found.user.id) != identity.user_id:
            return False
        if identity.roles - found.user.roles:
            return False  # whoever loses a role is cut off at once; here it was not heard, as while the broker was away
        sightings.note(found.session)
        return True


def site_security(authorize: Authorize | None = None, *, recheck_s: float = RECHECK_S) -> Security:
    """The site's rules for a channel: from its own pages, signed in, and only to the topics that `authorize` allows.

    Every `recheck_s` everybody connected is looked up again, for those who could not be cut off at once.
    """
    settings = read_settings()
    return Security(
        authenticators=[CookieSession(cookie_name(), _find_identity), tickets, _StillTheSame()],
        allowed_origins=list(settings.allowed_origins),
        trusted_proxies=list(settings.trusted_proxies),
        authorize=authorize,
        recheck_s=recheck_s,
    )


def claimed_rightly(security: Security) -> Callable[..., Awaitable[Identity]]:
    """A dependency for socket endpoints: who it is; refused with 4503 when `?user_id=` says that it is somebody else.

    Earlier clients put it there. It is accepted, and never believed.
    """

    async def identify(websocket: WebSocket, identity: Annotated[Identity, Depends(security)]) -> Identity:
        claimed = websocket.query_params.getlist("user_id")
        if any(claim != identity.user_id for claim in claimed):
            await refuse(websocket, Forbidden("user_id= is not the one who is signed in"))
        return identity

    return identify

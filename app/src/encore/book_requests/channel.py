"""The two channels of book requests: of those who ask, each addressed by name, and of those who decide."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, WebSocket

from antiphon import Forbidden, Identity, refuse
from encore.accounts.sockets import claimed_rightly, site_security
from encore.live import channel

__all__ = ["DECIDERS", "Decider", "SignedIn", "admins", "requesters"]

DECIDERS = frozenset({"creator", "admin"})
"""The roles of those who decide."""

_security = site_security()
requesters = channel("book_requests", security=_security)
admins = channel("book_requests_admin", security=_security)
SignedIn = Annotated[Identity, Depends(claimed_rightly(_security))]


async def _decider(websocket: WebSocket, identity: SignedIn) -> Identity:
    if not identity.roles & DECIDERS:
        await refuse(websocket, Forbidden("this is for creators and admins"))
    return identity


Decider = Annotated[Identity, Depends(_decider)]
"""A creator or an admin; others are refused with 4503. Who loses the role is disconnected."""

"""Who may look into a replica: whoever has the operator's token, and without one only this machine itself."""

from __future__ import annotations

import hmac
import ipaddress

from fastapi import Depends, Request

from encore.accounts.access import MaybeUser
from encore.errors import Forbidden, NotFound, NotSignedIn
from encore.settings import read_settings

__all__ = ["Insider", "Operator", "Reader", "is_operator"]

FOREIGN = frozenset(
    {"forwarded", "origin", "sec-fetch-site", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"}
)
"""Headers that only proxies and browsers send: with one of them a loopback address says nothing about who asks."""


def is_operator(request: Request) -> bool:
    """Whether this request comes from whoever runs the site. The token is compared in constant time."""
    token = read_settings().operator_token
    if token is None:
        return FOREIGN.isdisjoint(request.headers.keys()) and _is_loopback(request)
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    expected = token.get_secret_value().strip().encode()
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"), expected) and scheme.lower() == "bearer"


def _is_loopback(request: Request) -> bool:
    try:
        address = ipaddress.ip_address(request.client.host if request.client is not None else "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


async def _operator(request: Request) -> None:
    if not is_operator(request):
        if read_settings().operator_token is not None:
            raise NotSignedIn("this needs the header `Authorization: Bearer TOKEN` with ENCORE_OPERATOR_TOKEN")
        raise Forbidden("only this machine itself may ask, without a proxy: set ENCORE_OPERATOR_TOKEN for others")


async def _insider(request: Request, user: MaybeUser) -> None:
    """Staff, or in the demonstration everybody who is signed in; operators without a session."""
    if is_operator(request):
        return
    if user is None:
        raise NotSignedIn("sign in first: POST /api/auth/login")
    if not user.is_staff and read_settings().mode != "demo":
        raise Forbidden("this is for creators, the team and admins")


async def _reader(request: Request, user: MaybeUser) -> None:
    """For what production shows to admins and operators alone; to others it is not there."""
    if read_settings().mode != "production" or is_operator(request) or (user is not None and user.is_admin):
        return
    raise NotFound("there is nothing here")


Operator = Depends(_operator)
"""The operator's token, or this machine itself; else 401 or 403."""
Insider = Depends(_insider)
"""The same, or staff."""
Reader = Depends(_reader)
"""Everybody in development; in production operators and admins, 404 for others."""

"""Who may look into a replica and end it: whoever knows the token, and without one only this machine itself."""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Iterable

from antiphon.errors import ConfigurationError

__all__ = ["TOKEN_CHARACTERS", "Operators"]

TOKEN_CHARACTERS = 16
"""A shorter token could be found by trying."""

_FOREIGN = frozenset(
    {"forwarded", "origin", "sec-fetch-site", "via", "x-forwarded-for", "x-forwarded-host", "x-real-ip"}
)
"""Headers that only proxies and browsers send: behind them a loopback address says nothing about who asks."""


class Operators:
    """Decides about one endpoint. Pure: header values in, a refusal out."""

    __slots__ = ("_setting", "_token")

    def __init__(self, token: str | None, *, setting: str) -> None:
        """`setting` is what to set when there is no token: its name is part of the refusal.

        Raises ConfigurationError for a token that is too short. No text holds the token.
        """
        token = token.strip() if token is not None else None
        if token and len(token) < TOKEN_CHARACTERS:
            raise ConfigurationError(
                f"the token of {setting} has {len(token)} characters: use {TOKEN_CHARACTERS} or more, for example "
                "those that `python3 -c 'import secrets; print(secrets.token_urlsafe(32))'` prints"
            )
        self._token = token.encode() if token else None
        self._setting = setting

    def __repr__(self) -> str:
        return f"Operators({'token' if self._token else 'loopback only'})"

    def refusal(self, *, peer: str | None, headers: Iterable[tuple[str, str]]) -> tuple[int, str] | None:
        """Why this request is refused, as (HTTP status, text); None when it is not.

        The token is compared in constant time. It is wanted from everybody once it is set, loopback included.
        """
        found = {name.lower(): value for name, value in headers}
        if self._token is not None:
            scheme, _, given = found.get("authorization", "").partition(" ")
            given_bytes = given.strip().encode("utf-8", "replace")
            if hmac.compare_digest(given_bytes, self._token) and scheme.lower() == "bearer":
                return None
            return 401, "this needs the header `Authorization: Bearer TOKEN`"
        if _is_loopback(peer) and _FOREIGN.isdisjoint(found):
            return None
        return 403, f"only this machine itself may ask, without a proxy: set {self._setting} for everybody else"


def _is_loopback(peer: str | None) -> bool:
    try:
        address = ipaddress.ip_address(peer or "")
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback

"""What proves who somebody is in the application under attack. Every secret says so: it must never be seen in a log."""

from __future__ import annotations

import hashlib
import hmac
import time

__all__ = [
    "BEARER",
    "BROKER_PASSWORD",
    "CANARY",
    "METRICS_TOKEN",
    "SIGNING_KEY",
    "cookie",
    "reads",
    "signature",
]

CANARY = "canary"
"""A part of every secret here."""
_COOKIE_KEY = b"canary-cookie-key-of-32-bytes-or-more"
BROKER_PASSWORD = "canary-broker-password"
SIGNING_KEY = "canary-signing-key-of-32-bytes-or-more"
METRICS_TOKEN = "canary-metrics-token"
BEARER = "canary-token-of-the-nightly-report"
LIFETIME_S = 3600


def signature(text: str, key: bytes = _COOKIE_KEY) -> str:
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def cookie(
    user: str, *, session: str = "s1", lifetime_s: float = LIFETIME_S, key: bytes = _COOKIE_KEY, as_user: str = ""
) -> str:
    """The value of a session cookie; `as_user` puts another user's id before a signature made for `user`."""
    ends = int(time.time() + lifetime_s)
    signed = signature(f"{user}.{session}.{ends}", key)
    return f"{as_user or user}.{session}.{ends}.{CANARY}{signed}"


def reads(value: str) -> tuple[str, str, int] | None:
    """User, session and end of a cookie whose signature is right."""
    parts = value.split(".")
    if len(parts) != 4 or not parts[2].isdigit():
        return None
    user, session, ends, signed = parts
    if not hmac.compare_digest(signed.encode(), f"{CANARY}{signature(f'{user}.{session}.{ends}')}".encode()):
        return None
    return user, session, int(ends)

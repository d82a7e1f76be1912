"""A `Security` over a few sessions, and the headers that those who ask it send."""

from __future__ import annotations

import asyncio
from typing import Any

from antiphon.auth import BearerToken, CookieSession, Identity
from antiphon.security import Security
from tests.unit.handshakes import Handshake, Headers

TOM = Identity(user_id="tom", session_id="s-1", roles=frozenset({"team"}))
SITE = {"Host": "good.example", "Origin": "https://good.example"}
EVIL = {"Host": "good.example", "Origin": "https://evil.example"}
COOKIE = {"Cookie": "session=good"}
BEARER = {"Authorization": "Bearer good"}


class Store:
    """Sessions by token, and the tokens that were asked for."""

    def __init__(self, **sessions: Identity) -> None:
        self.sessions = sessions
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.delay_s = 0.0

    async def lookup(self, token: str) -> Identity | None:
        self.asked.append(token)
        if self.error is not None:
            raise self.error
        identity = self.sessions.get(token)
        if identity is not None or token == "expired":
            await asyncio.sleep(self.delay_s)
        return identity


def security(store: Store | None = None, **options: Any) -> Security:
    """One that asks for a cookie or a bearer token, and refuses at once."""
    store = store or Store(good=TOM)
    kinds = [CookieSession("session", store.lookup), BearerToken(store.lookup)]
    return Security(**{"authenticators": kinds, "refusal_s": 0, **options})


async def admitted(guard: Security, headers: Headers, **options: Any) -> Identity | None:
    return await guard.admit(Handshake(headers, **options).websocket)

"""Tickets: a sign-in that is good for one WebSocket handshake within seconds, and may therefore stand in its URL."""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Callable
from typing import Any, Final, cast

from starlette.requests import HTTPConnection

from antiphon.auth import Identity, NotSignedIn, SignInUnavailable
from antiphon.brokers import store_for
from antiphon.brokers.store import Store
from antiphon.errors import BrokerError, ConfigurationError, EnvelopeError, MessageNotSerializable
from antiphon.settings import read_settings
from antiphon.wire import codec

__all__ = ["Tickets"]

TTL_LIMIT_S: Final = 30.0
IDENTITY_LIMIT_BYTES: Final = 16 * 1024

_TICKET_BYTES: Final = 32
_ticket = re.compile(r"[A-Za-z0-9_-]{43}", re.ASCII)
_BAD: Final = "the ticket is unknown, expired, or was used before"
_SECOND_TRIES: Final = 2


class Tickets:
    """Issues tickets and takes them: an authenticator for browsers, which can send no header with a WebSocket.

    A page asks for one by a signed-in request, and connects with `?ticket=…` at once. A ticket is 256 random bits; it
    works once, on whichever replica, however many try at the same time, and for `ttl_s` by the clock of the store.
    The store has its SHA-256 alone, and the identity as JSON. While the broker is away none is issued and none taken.
    How often a user may ask for one is the application's decision. One that was issued before `disconnect_user` or
    `disconnect_session` lets nobody in after it, as far as the clocks of the replicas agree.

    Args:
        store: A broker's URL, or a store. By default the address that the managers use; without one, tickets stay in
            this process' memory, and work where there is one replica.
        ttl_s: How long a ticket may wait for its use: at most 30 s.
        parameter: The name in the query.
        scope: Tickets of one scope do not work in another: for applications that share a database of the broker.

    Raises InvalidBrokerURL and ConfigurationError at once, and connects with the first use.
    """

    def __init__(
        self,
        store: Store | str | None = None,
        *,
        ttl_s: float = TTL_LIMIT_S,
        parameter: str = "ticket",
        scope: str = "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        given: object = ttl_s
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 < given <= TTL_LIMIT_S:
            raise ConfigurationError(f"Tickets(ttl_s={ttl_s!r}): it must be above 0, and at most {TTL_LIMIT_S:g} s")
        if not parameter:
            raise ConfigurationError("Tickets(parameter=''): name the parameter of the query, as in 'ticket'")
        self._is_own = store is None or isinstance(store, str)
        if store is None:
            store = read_settings(None).broker_url
        self._store = store_for(store) if store is None or isinstance(store, str) else store
        self.ttl_s = float(ttl_s)
        self.parameter = parameter
        self._scope = scope
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Tickets store={self._store.address} ttl_s={self.ttl_s:g}>"

    async def issue(self, identity: Identity, *, origin: str | None = None) -> str:
        """A ticket for this identity. With `origin`, the Origin header of the page's request, it works from that page's
        website alone.

        Raises SignInUnavailable when the broker is away; NotSignedIn for an identity that has expired; and
        ConfigurationError for one with claims that are not JSON, or larger than 16 KiB.
        """
        ttl_s = self.ttl_s
        if identity.expires_at_s is not None:
            ttl_s = min(ttl_s, identity.expires_at_s - self._clock())
            if ttl_s <= 0:
                raise NotSignedIn("the identity has expired")
        # No younger than its proof: who was revoked between the two must not get in by it.
        known_s = identity.proved_at_s
        issued_at_s = self._clock() if known_s is None else min(known_s, self._clock())
        value = _encode(identity, origin, issued_at_s=issued_at_s)
        try:
            for _ in range(_SECOND_TRIES):
                ticket = secrets.token_urlsafe(_TICKET_BYTES)
                if await self._store.put_once(self._key(ticket), value, ttl_s=ttl_s):
                    return ticket
        except BrokerError as error:
            raise SignInUnavailable(f"no ticket can be issued: {error}") from error
        raise SignInUnavailable("no ticket can be issued: the store has all of them already, which it cannot have")

    async def authenticate(self, connection: HTTPConnection) -> Identity | None:
        """Take the ticket of a handshake: its identity, or None where there is none.

        Raises NotSignedIn, and tells nobody whether the ticket was unknown, expired or used; SignInUnavailable when the
        broker is away. A ticket is used up by a handshake that fails for another reason.
        """
        tickets = connection.query_params.getlist(self.parameter)
        if not tickets:
            return None
        if len(tickets) > 1 or not _ticket.fullmatch(tickets[0]):
            raise NotSignedIn(_BAD)
        try:
            value = await self._store.take(self._key(tickets[0]))
        except BrokerError as error:
            raise SignInUnavailable(f"no ticket can be taken: {error}") from error
        if value is None:
            raise NotSignedIn(_BAD)
        identity, origin = _decode(value)
        if origin is not None and origin != _plain(connection.headers.get("origin")):
            raise NotSignedIn("the ticket was issued to a page of another website")
        if identity.expires_at_s is not None and identity.expires_at_s <= self._clock():
            raise NotSignedIn(_BAD)
        return identity

    async def close(self) -> None:
        """Give the connection to the broker back, unless the store was given. Idempotent."""
        if self._is_own:
            await self._store.close()

    def _key(self, ticket: str) -> str:
        content = f"{self._scope}\0{ticket}".encode(errors="surrogatepass")
        return f"ticket-{hashlib.sha256(content).hexdigest()}"


def _plain(origin: str | None) -> str | None:
    return origin if origin is None else origin.strip().lower()


def _encode(identity: Identity, origin: str | None, *, issued_at_s: float) -> bytes:
    content = {
        "ticket": 1,
        "user_id": identity.user_id,
        "session_id": identity.session_id,
        "roles": sorted(identity.roles),
        "expires_at_s": identity.expires_at_s,
        "claims": dict(identity.claims),
        "origin": _plain(origin),
        "issued_at_s": issued_at_s,
    }
    try:
        value = codec.encode(content)
    except MessageNotSerializable as error:
        raise ConfigurationError(f"this identity cannot go into a ticket, since it is not JSON: {error}") from error
    if len(value) > IDENTITY_LIMIT_BYTES:
        raise ConfigurationError(
            f"this identity has {len(value):,} bytes, a ticket takes {IDENTITY_LIMIT_BYTES:,}: keep what is large in "
            "the session store"
        )
    return value


def _decode(value: bytes) -> tuple[Identity, str | None]:
    """What `_encode` wrote. Raises NotSignedIn for anything else: somebody who writes to the broker made it up."""
    try:
        content = cast("dict[str, Any]", codec.decode(value))  # anything else raises below
        if content["ticket"] != 1 or not isinstance(content["claims"], dict):
            raise NotSignedIn(_BAD)
        identity = Identity(
            user_id=content["user_id"],
            session_id=content["session_id"],
            roles=frozenset(map(str, content["roles"])),
            expires_at_s=content["expires_at_s"],
            claims=content["claims"],
        )
        origin = content["origin"]
        # An earlier release did not say when: before any revocation that is remembered.
        issued_at_s = content.get("issued_at_s", 0.0)
        if isinstance(issued_at_s, bool) or not isinstance(issued_at_s, (int, float)):
            raise NotSignedIn(_BAD)
    except (ConfigurationError, EnvelopeError, KeyError, TypeError) as error:
        raise NotSignedIn(_BAD) from error
    return identity._proved_by(None, at_s=issued_at_s), None if origin is None else str(origin)

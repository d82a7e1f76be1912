"""Who may connect, from where, and what they may hear: one `Security` for managers, dependencies and endpoints."""

# No `from __future__ import annotations` here: FastAPI reads the annotations of `Security.__call__`, and cannot resolve
# texts on a callable object.

import asyncio
import inspect
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn, TypeAlias

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketState

from antiphon.auth import (
    SPOKEN,
    Authenticator,
    BearerToken,
    CookieSession,
    FirstMessage,
    Identity,
    NotSignedIn,
    OriginRefused,
    Rechecking,
    Refused,
    Revoked,
    SessionExpired,
    SignInUnavailable,
    accept_offered,
    close_quietly,
)
from antiphon.errors import AntiphonError, ConfigurationError
from antiphon.false_alarms import refused_with_status
from antiphon.journal import Journal
from antiphon.origins import OriginRule, TrustedProxies, Verdict, Why, address_block
from antiphon.redaction import hide_secrets

__all__ = ["Authorize", "RecheckFailed", "RequestRefused", "Security", "SecurityCounters", "asked_before", "refuse"]

Authorize: TypeAlias = Callable[[Identity | None, str], Awaitable[bool] | bool]
"""Tells whether somebody may hear a topic. A coroutine function, or a quick plain one."""

_KNOWN: Final = "antiphon.identity"
_plain_host = re.compile(rb"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?(?::[0-9]{1,5})?")
_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_NAMING_S: Final = 1.0

_PROXY_LINE: Final = "; behind a proxy, let it pass the Host header on, or name it in trusted_proxies"
_ADVICE: Final[dict[Why, str]] = {
    "cookie_without_origin": "browsers always send an Origin header; a program should send one too, as in "
    'TestClient(app, headers={"origin": "http://testserver"}), or write Security(cookies_without_origin=True)',
    "several": "only one Origin header may be sent: look what adds the other one",
    "null": "files, sandboxed frames and redirected pages have no origin: use a ticket, and a page of a website",
    "malformed": "this is not what a browser sends",
    "no_host": "there is no usable Host header to compare it with" + _PROXY_LINE,
    "other_host": "if that is a website of yours, write Security(%s)" + _PROXY_LINE,
    "other_scheme": "this host is listed with another scheme: if this one is meant too, write Security(%s)",
}


class RequestRefused(AntiphonError, HTTPException):
    """A refusal as the answer to a plain request, or to a handshake: Starlette answers with `status_code`."""

    def __init__(self, refusal: Refused) -> None:
        self.refusal = refusal
        headers = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": "5"}}.get(refusal.http_status)
        HTTPException.__init__(self, refusal.http_status, refusal.close_reason, headers)


class RecheckFailed(AntiphonError):
    """Whether an identity still holds could not be found out. The cause has the details."""


async def refuse(connection: HTTPConnection, refusal: Refused) -> NoReturn:
    """Raise the refusal in the way that lets this client see it; Starlette does the rest.

    A plain request gets `http_status`. A socket is accepted first, so that the browser sees the close code, unless the
    refusal comes `before_upgrade`: that handshake gets `http_status`, or 403 from servers that can say nothing else.
    Raises ClientGone instead when nobody is there any more.
    """
    if not isinstance(connection, WebSocket):
        raise RequestRefused(refusal) from refusal
    if refusal.before_upgrade and connection.application_state is WebSocketState.CONNECTING:
        # The plain way of ASGI is 403 already; other answers need an extension of it.
        if refusal.http_status != 403 and "websocket.http.response" in (connection.scope.get("extensions") or {}):
            refused_with_status()
            raise RequestRefused(refusal) from refusal
        raise refusal
    close_quietly(connection)
    await accept_offered(connection)
    raise refusal


@dataclass(slots=True)
class SecurityCounters:
    """What happened since the start; all only grow."""

    refused: Counter[str] = field(default_factory=Counter)
    """Refusals by `Refused.kind`."""
    origins: Counter[str] = field(default_factory=Counter)
    """Refused origins by what was wrong with them."""
    topics_denied: int = 0
    """Topics that `authorize` said no to, or raised for."""
    authorize_errors: int = 0
    authenticator_errors: int = 0
    timeouts: int = 0
    """Questions at a handshake that took longer than `answer_s`; they count among the errors of whom was asked too."""
    recheck_errors: int = 0
    """Re-checks that nobody could answer."""


class Security:
    """What a client must show before it is let in. `Security()` checks the Origin header and nothing else.

    Give it to `WebSocketManager(security=…)`; use it as a dependency, `Annotated[Identity, Depends(security)]`, in
    FastAPI's WebSocket and HTTP routes; or call `await security(connection)` in plain Starlette. One object may serve
    many managers; sockets and requests that it has identified once are not asked again.

    Args:
        authenticators: Asked in turn; the first that knows the client decides. `FirstMessage` goes last.
        allowed_origins: Other websites whose pages may connect, as `"https://app.example"`; `"*"` for all.
        trusted_proxies: Addresses and networks whose `X-Forwarded-For` and `X-Forwarded-Host` are believed.
        authorize: `(identity, topic) -> bool`, asked before every subscription. None: everybody who is let in may hear
            every topic.
        recheck_s: How often connections are checked again, in seconds.
        require_identity: Whether guests are refused; None: exactly if there are authenticators. With False, a session
            cookie that is not valid makes a guest; other bad credentials are still refused.
        connections_per_address: How many sockets one address (of IPv6: one /64 network) may hold. Only effective with
            trusted_proxies, since behind an unnamed proxy all clients have one address. None: no limit.
        refusal_s: Refusals leave at a multiple of so many seconds after the handshake came, so that their time does not
            tell what was wrong; 0: at once.
        answer_s: How long an authenticator or `authorize` may take to answer, in seconds, beside the time for which
            `FirstMessage` waits. An authenticator that takes longer counts as away, an `authorize` as a no.
        cookies_without_origin: Whether cookies count in a handshake without an Origin header, as programs and
            Starlette's `TestClient` send it; browsers always send one.

    Making one also calls `hide_secrets`. Raises ConfigurationError, naming the fix.
    """

    def __init__(
        self,
        *,
        authenticators: Iterable[Authenticator] = (),
        allowed_origins: Sequence[str] = (),
        trusted_proxies: Iterable[str] = (),
        authorize: Authorize | None = None,
        recheck_s: float = 60.0,
        require_identity: bool | None = None,
        connections_per_address: int | None = 256,
        refusal_s: float = 0.1,
        answer_s: float = 5.0,
        cookies_without_origin: bool = False,
    ) -> None:
        self._authenticators = tuple(authenticators)
        trusted_proxies = tuple(trusted_proxies)
        self._proxies = TrustedProxies(trusted_proxies)
        self._rule = OriginRule(allowed=allowed_origins, trusted_proxies=self._proxies)
        self._authorize = authorize
        self.recheck_s = recheck_s
        self.requires_identity = bool(self._authenticators) if require_identity is None else require_identity
        self.connections_per_address = connections_per_address
        self._refusal_s = refusal_s
        self._answer_s = answer_s
        self._cookies_without_origin = cookies_without_origin
        self._check_options()
        self._reads_bearer = any(isinstance(entry, BearerToken) for entry in self._authenticators)
        self._is_plain = not self._authenticators and not self._rule.allowed
        self._has_proxies = bool(trusted_proxies)
        self._is_bare = self._is_plain and not self._has_proxies
        self._journal = Journal()
        self.counters = SecurityCounters()
        named = (getattr(entry, "parameter", None) for entry in self._authenticators)
        hide_secrets(parameters=[name for name in named if isinstance(name, str)])

    def _check_options(self) -> None:
        for entry in self._authenticators:
            if isinstance(entry, type) or not callable(getattr(entry, "authenticate", None)):
                raise ConfigurationError(f"authenticators: {entry!r} is no authenticator: it has no authenticate()")
        if any(isinstance(entry, FirstMessage) for entry in self._authenticators[:-1]):
            raise ConfigurationError("authenticators: FirstMessage goes last, it refuses who does not use it")
        if self.requires_identity and not self._authenticators:
            raise ConfigurationError("require_identity=True needs authenticators that could identify anybody")
        if not self.requires_identity and any(isinstance(entry, FirstMessage) for entry in self._authenticators):
            raise ConfigurationError("require_identity=False: FirstMessage lets no guests in, leave one of them out")
        if not self.recheck_s > 0 or not self._refusal_s >= 0 or not self._answer_s > 0:
            raise ConfigurationError("recheck_s and answer_s must be above 0, refusal_s 0 or above")
        if self.connections_per_address is not None and not self.connections_per_address > 0:
            raise ConfigurationError("connections_per_address must be above 0, or None for no limit")

    # -- letting in --------------------------------------------------------------------------------------------------

    async def __call__(self, connection: HTTPConnection) -> Identity | None:
        """The client's identity, for a dependency or an endpoint; None for a guest, where guests are let in.

        Whoever is not let in is refused by the exception that this raises: see `admit`.
        """
        return await self.admit(connection)

    async def admit(
        self, connection: HTTPConnection, *, user_id: str | None = None, subprotocol: str | None = ""
    ) -> Identity | None:
        """Check origin and credentials, and refuse in the way that the client can see.

        Raises OriginRefused before the socket is accepted (the client gets HTTP 403); NotSignedIn and SignInUnavailable
        after it was accepted for that purpose (close codes 4501 and 1013); for plain requests RequestRefused with 401,
        403 or 503. `user_id` is what the client claims to be, as earlier clients do in the URL: another than the
        identity's is NotSignedIn too. `subprotocol` is what the socket will be spoken to in, which FirstMessage then
        accepts it with; an empty one leaves that to it. Raises ClientGone when the client goes while it signs in.
        """
        if self._is_bare and _KNOWN not in connection.scope and _is_of_this_host(connection.scope["headers"]):
            return None  # nearly every handshake of an application without authenticators
        loop = asyncio.get_running_loop()
        started = loop.time()
        if subprotocol != "":
            connection.scope[SPOKEN] = subprotocol
        try:
            identity = await self.identify(connection)
            is_known = identity is not None or bool(self._authenticators)
            if is_known and user_id is not None and (identity is None or identity.user_id != user_id):
                raise NotSignedIn("the client claims to be another user")
        except Refused as refusal:
            if isinstance(refusal, (NotSignedIn, OriginRefused)) and self._refusal_s:
                await asyncio.sleep(self._refusal_s - (loop.time() - started) % self._refusal_s)
            self.count(refusal)
            await refuse(connection, refusal)
        return identity

    async def admit_origin(self, connection: HTTPConnection) -> None:
        """Check the origin alone, for a client whom the application has identified; refuse as `admit` does."""
        if _KNOWN in connection.scope:
            return  # another Security, which the application asked, has looked at it
        try:
            self.check_origin(connection)
        except OriginRefused as refusal:
            self.count(refusal)
            await refuse(connection, refusal)

    async def identify(self, connection: HTTPConnection) -> Identity | None:
        """Who it is, by origin and credentials; the same answer when it is asked again for one connection.

        Raises bare refusals, at once, and counts none but those of the origin: `admit` is what endpoints want.
        """
        known = connection.scope.get(_KNOWN)
        if known is not None and (known[0] is self or self._is_plain):
            return known[1]  # type: ignore[no-any-return] # written below
        verdict = self._verdict(connection)
        if not verdict.allowed:
            raise self._origin_refused(connection, verdict, user=await self._user_of(connection))
        cookies_count = verdict.why != "no_origin" or self._cookies_without_origin
        identity = await self._authenticate(connection, cookies_count=cookies_count)
        connection.scope[_KNOWN] = (self, identity)
        return identity

    async def _authenticate(self, connection: HTTPConnection, *, cookies_count: bool) -> Identity | None:
        refusal: NotSignedIn | SignInUnavailable | None = None
        for authenticator in self._authenticators:
            is_cookie = isinstance(authenticator, CookieSession)
            if is_cookie and not cookies_count:
                continue
            try:
                identity = await self._ask(authenticator, connection)
            except NotSignedIn as error:
                # A browser sends an old cookie whether the page wants it or not: it makes a guest where guests may be.
                if self.requires_identity or not is_cookie:
                    refusal = refusal or error
            except SignInUnavailable as error:
                refusal = error
            else:
                if identity is not None:
                    return identity
        if refusal is None and self.requires_identity:
            refusal = NotSignedIn("there are no credentials")
        if refusal is not None:
            raise refusal
        return None

    async def _ask(self, authenticator: Authenticator, connection: HTTPConnection) -> Identity | None:
        limit_s = self._answer_s + (authenticator.timeout_s if isinstance(authenticator, FirstMessage) else 0.0)
        timer = asyncio.timeout(limit_s)
        try:
            async with timer:
                identity = await authenticator.authenticate(connection)
        except Refused:
            raise
        except Exception as error:
            self.counters.authenticator_errors += 1
            name, what = type(authenticator).__name__, self._what_happened(timer, error)
            self._journal.warning("authenticator", "%s %s: nobody can tell who it is", name, what, error=error)
            raise SignInUnavailable(f"{name} {what}") from error
        if identity is not None and _is_over(identity):
            raise NotSignedIn("the identity has expired")
        return identity

    def _what_happened(self, timer: asyncio.Timeout, error: Exception) -> str:
        """For a log line; counts a question that was given up."""
        if timer.expired():
            self.counters.timeouts += 1
            return f"gave no answer within answer_s={self._answer_s:g}"
        return f"raised {type(error).__name__}"

    @property
    def asks_about_topics(self) -> bool:
        """Whether the application says who may hear what."""
        return self._authorize is not None

    def count(self, refusal: Refused) -> None:
        """Count a refusal; `admit` does so itself."""
        self.counters.refused[refusal.kind] += 1

    # -- where from --------------------------------------------------------------------------------------------------

    def check_origin(self, connection: HTTPConnection) -> None:
        """Raise OriginRefused, log what to add, and count it, if a page of another website opened this connection.

        Of plain requests only those that change something and carry a cookie and an Origin header are looked at.
        """
        verdict = self._verdict(connection)
        if not verdict.allowed:
            raise self._origin_refused(connection, verdict, user=None)

    def address_of(self, connection: HTTPConnection) -> str | None:
        """What `connections_per_address` counts by; None where the address of the client cannot be known."""
        if not self._has_proxies or self.connections_per_address is None:
            return None
        address = self._proxies.client_address(_peer(connection), connection.headers.getlist("x-forwarded-for"))
        return None if address is None else address_block(address)

    def _verdict(self, connection: HTTPConnection) -> Verdict:
        headers = connection.headers
        origins, hosts = headers.getlist("origin"), headers.getlist("host")
        has_cookie = any(headers.getlist("cookie"))
        if connection.scope["type"] == "http":
            if connection.scope["method"] in _SAFE_METHODS or not has_cookie or not origins:
                return Verdict(True, "any")
        elif self._cookies_without_origin:
            has_cookie = False
        elif not origins and self._reads_bearer and "authorization" in headers:
            # No browser can send this header on a WebSocket. The cookie is not looked at then, see `identify`.
            has_cookie = not headers["authorization"].lower().startswith("bearer ")
        peer, forwarded_for = _peer(connection), headers.getlist("x-forwarded-for")
        return self._rule.decide(
            origins,
            hosts[0] if len(hosts) == 1 else "",
            has_cookie=has_cookie,
            peer=peer,
            forwarded_host=headers.getlist("x-forwarded-host"),
            forwarded_for=forwarded_for,
            # No peer has port 0: uvicorn writes it when it takes the address from a proxy that it was told to believe.
            peer_is_client=bool(peer and connection.scope["client"][1] == 0 and forwarded_for),
        )

    def _origin_refused(self, connection: HTTPConnection, verdict: Verdict, *, user: str | None) -> OriginRefused:
        self.counters.origins[verdict.why] += 1
        advice = _ADVICE[verdict.why]
        self._journal.warning(
            f"origin_{verdict.why}",
            "refused a connection from origin %s to host %a, user %s: %s",
            verdict.origin or "(none)",
            connection.headers.get("host", "")[:100],
            "unknown" if user is None else ascii(user[:100]),
            advice % verdict.hint if "%s" in advice else advice,
        )
        return OriginRefused(f"{verdict.why}: {verdict.origin}")

    async def _user_of(self, connection: HTTPConnection) -> str | None:
        """Whose credentials a refused origin came with, as far as that can be told without using them up."""
        for authenticator in self._authenticators:
            if isinstance(authenticator, (CookieSession, BearerToken)):
                try:
                    async with asyncio.timeout(_NAMING_S):
                        identity = await authenticator.authenticate(connection)
                except Exception:  # It is refused in any case; only the log line would have named the user.
                    continue
                if identity is not None and identity.user_id is not None:
                    return identity.user_id
        return None

    # -- what, and for how long --------------------------------------------------------------------------------------

    async def may_hear(self, identity: Identity | None, topic: str) -> bool:
        """Whether somebody may hear a topic, whose name was checked before.

        An `authorize` that raises, or takes longer than `answer_s`, says no.
        """
        if self._authorize is None:
            return True
        timer = asyncio.timeout(self._answer_s)
        try:
            async with timer:
                allowed = await self.may_still_hear(identity, topic)
        except Exception as error:
            self.counters.authorize_errors += 1
            what = self._what_happened(timer, error)
            self._journal.warning("authorize", "authorize %s: that is a no", what, error=error)
            allowed = False
        self.counters.topics_denied += not allowed
        return allowed

    async def may_still_hear(self, identity: Identity | None, topic: str) -> bool:
        """The same for somebody who hears it already. Raises what `authorize` raises: then nobody can tell."""
        if self._authorize is None:
            return True
        answer = self._authorize(identity, topic)
        return bool(await answer if inspect.isawaitable(answer) else answer)

    async def recheck(self, identity: Identity) -> Identity:
        """The identity as it is now, with the roles that it has now.

        Raises Revoked when the session was ended, and SessionExpired when it has run out. Raises RecheckFailed, and
        counts it, when nobody can tell, because the database is away: that is no reason to cut anybody off.
        """
        if _is_over(identity):
            raise SessionExpired("the identity has expired")
        try:
            fresh = await self._proved_again(identity)
        except Exception as error:
            if isinstance(error, Refused) and not isinstance(error, SignInUnavailable):
                raise
            self.counters.recheck_errors += 1
            raise RecheckFailed(f"{type(error).__name__} was raised") from error
        if (fresh.user_id, fresh.session_id) != (identity.user_id, identity.session_id):
            raise Revoked("the credentials belong to somebody else by now")
        if _is_over(fresh):
            raise SessionExpired("the identity has expired")
        return fresh

    async def _proved_again(self, identity: Identity) -> Identity:
        for authenticator in self._authenticators:
            if isinstance(authenticator, Rechecking) and not await authenticator.is_valid(identity):
                raise Revoked(f"{type(authenticator).__name__}.is_valid said no")
        return identity if identity.proved_again is None else await identity.proved_again()

    async def is_valid(self, identity: Identity) -> bool:
        """Whether the identity still holds, as far as anybody can tell now: `recheck` without its details."""
        try:
            await self.recheck(identity)
        except Refused:
            return False
        except RecheckFailed:
            return True
        return True


def _is_over(identity: Identity) -> bool:
    return identity.expires_at_s is not None and identity.expires_at_s <= time.time()


def _peer(connection: HTTPConnection) -> str | None:
    client = connection.scope.get("client")
    return client[0] if client else None


def _is_of_this_host(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether the usual handshake of a page of this very host, or of a program, has come: most need no closer look."""
    origin = host = cookie = None
    for name, value in headers:
        if name == b"origin":
            if origin is not None:
                return False
            origin = value
        elif name == b"host":
            if host is not None:
                return False
            host = value
        elif name == b"cookie":
            cookie = value
    if origin is None:
        return cookie is None
    return (
        host is not None
        and _plain_host.fullmatch(host) is not None
        and origin in (b"http://" + host, b"https://" + host)
    )


def asked_before(connection: HTTPConnection) -> "Security | None":
    """The `Security` that an endpoint or a dependency has asked about this connection."""
    known = connection.scope.get(_KNOWN)
    return known[0] if known is not None else None

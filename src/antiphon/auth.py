"""Who is at the other end: `Identity`, the ways to prove it, and the refusals that a client gets.

An authenticator looks at a handshake, or at a plain request, for credentials of one kind. `antiphon.security.Security`
asks several of them in turn.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import time
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, Protocol, TypeAlias, runtime_checkable

from starlette.exceptions import WebSocketException
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from antiphon.codes import CloseCode
from antiphon.errors import AntiphonError, ConfigurationError, EnvelopeError
from antiphon.identity import Identity
from antiphon.wire import codec

__all__ = [
    "Authenticator",
    "BadRequest",
    "BearerToken",
    "ClientGone",
    "CookieSession",
    "FirstMessage",
    "FirstMessageTooBig",
    "Forbidden",
    "Identity",
    "NotSignedIn",
    "OriginRefused",
    "Rechecking",
    "Refused",
    "Revoked",
    "SessionExpired",
    "SignInUnavailable",
    "TooManyConnections",
    "UnsupportedVersion",
    "Verify",
    "accept_offered",
    "close_quietly",
    "read_first_message",
]

SPOKEN: Final = "antiphon.subprotocol"
"""Where the scope of a socket says in what subprotocol it will be spoken to, if that is known before it is accepted."""

_TOKEN_CHARACTERS = 8192
_token = re.compile(r"[\x21-\x7e]+")
_bearer = re.compile(r"(?i)bearer(?: +(.*))?")


# -- refusals --------------------------------------------------------------------------------------------------------


class Refused(AntiphonError, WebSocketException):
    """This client is not let in. Raised in an endpoint or a dependency, it ends the socket with `code` by itself.

    What the client gets is the same for every refusal of one class; `detail` is for the application's own log.
    """

    close_code: ClassVar[CloseCode] = CloseCode.POLICY
    close_reason: ClassVar[str] = "refused"
    http_status: ClassVar[int] = 403
    """The answer to a plain request, and to a handshake that is refused before the upgrade."""
    kind: ClassVar[str] = "refused"
    """What counters call it."""

    def __init__(self, detail: str = "", *, before_upgrade: bool = False) -> None:
        self.detail = detail
        self.before_upgrade = before_upgrade
        """Whether the handshake is answered with `http_status`; otherwise it is accepted, and closed with `code`, since
        a browser does not see the status of a handshake.
        """
        WebSocketException.__init__(self, self.close_code, self.close_reason)

    def __str__(self) -> str:
        return f"{self.close_reason}: {self.detail}" if self.detail else self.close_reason


class NotSignedIn(Refused):
    """No credentials where some are needed, or bad ones: missing, expired, forged. The client cannot tell which."""

    close_code = CloseCode.NOT_SIGNED_IN
    close_reason = "not signed in"
    http_status = 401
    kind = "not_signed_in"


class SessionExpired(Refused):
    """What proved the identity has run out: the client may come back with fresh credentials."""

    close_code = CloseCode.REFRESH_SESSION
    close_reason = "refresh the session"
    http_status = 401
    kind = "session_expired"


class Revoked(Refused):
    """The session was ended: signed out, banned, or signed out everywhere."""

    close_code = CloseCode.REVOKED
    close_reason = "the session was ended"
    http_status = 401
    kind = "revoked"


class Forbidden(Refused):
    """Signed in, and still not allowed to have this."""

    close_code = CloseCode.FORBIDDEN
    close_reason = "forbidden"
    http_status = 403
    kind = "forbidden"


class TooManyConnections(Refused):
    """The user has too many connections, or, with `before_upgrade`, the address has."""

    close_code = CloseCode.TOO_MANY_CONNECTIONS
    close_reason = "too many connections"
    http_status = 429
    kind = "too_many_connections"


class BadRequest(Refused):
    """What the client asks for cannot be meant: an empty user id, a name that no topic has, too many topics."""

    close_code = CloseCode.BAD_REQUEST
    close_reason = "bad request"
    http_status = 400
    kind = "bad_request"


class UnsupportedVersion(Refused):
    """The client speaks only versions of the protocol that this server does not."""

    close_code = CloseCode.UNSUPPORTED_VERSION
    close_reason = "this server speaks antiphon.v1"
    http_status = 400
    kind = "version"


class FirstMessageTooBig(Refused):
    """The message by which the client was to sign in is larger than that takes."""

    close_code = CloseCode.TOO_BIG
    close_reason = "message too big"
    http_status = 413
    kind = "too_big"


class OriginRefused(Refused):
    """The page that opened the socket belongs to another website: HTTP 403 before the upgrade."""

    close_code = CloseCode.FORBIDDEN
    close_reason = "origin not allowed"
    http_status = 403
    kind = "origin"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, before_upgrade=True)


class Draining(Refused):
    """This replica is about to end: the client should come back, to another one."""

    close_code = CloseCode.DRAINING
    close_reason = "the server restarts: come back"
    http_status = 503
    kind = "draining"


class SignInUnavailable(Refused):
    """Nobody can tell at the moment whether the credentials are good: the client should come back later."""

    close_code = CloseCode.OVERLOADED
    close_reason = "try again later"
    http_status = 503
    kind = "sign_in_unavailable"


class ClientGone(Refused, WebSocketDisconnect):
    """The client went before it was let in. There is nobody left to tell, and nothing to log."""

    close_code = CloseCode.GOING_AWAY
    close_reason = "the client has gone"
    kind = "client_gone"


async def accept_offered(websocket: WebSocket, *, subprotocol: str | None = "") -> None:
    """Accept a socket, if it is not accepted yet, to close it with a code or to read its first message.

    A browser that offered subprotocols drops a connection that names none of them, and then sees no code: so
    `antiphon.v1` is named if it is among those offered, else the first; or `subprotocol`, if that is not empty (with
    None, none). Raises ClientGone.
    """
    if websocket.application_state is not WebSocketState.CONNECTING:
        return
    offered: list[str] = websocket.scope.get("subprotocols") or []
    if subprotocol == "":
        subprotocol = "antiphon.v1" if "antiphon.v1" in offered else next(iter(offered), None)
    try:
        await websocket.accept(subprotocol=subprotocol)
    except (OSError, RuntimeError) as error:
        close_quietly(websocket)
        raise ClientGone from error


def close_quietly(websocket: WebSocket) -> None:
    """Let Starlette, which closes the socket of a refusal, find nothing wrong with a client that has gone by then.

    Otherwise the server would log a traceback for each, and so as many as somebody likes to cause.
    """
    close = websocket.close

    async def quietly(code: int = 1000, reason: str | None = None) -> None:
        try:
            await close(code=code, reason=reason)
        except (OSError, RuntimeError, WebSocketDisconnect):
            pass

    websocket.close = quietly  # type: ignore[method-assign] # for this one object: Starlette offers no other way


# -- authenticators --------------------------------------------------------------------------------------------------


class Authenticator(Protocol):
    """Looks for credentials of one kind."""

    async def authenticate(self, connection: HTTPConnection) -> Identity | None:
        """Return who it is, or None when there are no credentials of this kind.

        Raises NotSignedIn when there are some and they are bad, and SignInUnavailable when nobody can tell now.
        """
        ...


@runtime_checkable
class Rechecking(Protocol):
    """An authenticator that can also tell later whether an identity still holds: the truth is in the database."""

    async def is_valid(self, identity: Identity) -> bool:
        """Whether it still holds. Asked about every identity of a socket, whichever authenticator it came from."""
        ...


Verify: TypeAlias = Callable[[str], Awaitable[Identity | None] | Identity | None]
"""Tells whose token it is; None for one that is not valid (any more). A coroutine function, or a quick plain one.

It is asked only about printable ASCII without spaces, of at most 8,192 characters; anything else is not valid.
"""


async def _ask(verify: Verify, token: str, *, again: _Again | None) -> Identity:
    """The identity of a token, proved now. Raises NotSignedIn; what could never be a token does not get to `verify`."""
    if len(token) > _TOKEN_CHARACTERS or not _token.fullmatch(token):
        raise NotSignedIn("the credentials hold characters that no token has, or are too long")
    # Before the question: what is revoked while it is answered may not be in the answer.
    asked_s = time.time()
    answer = verify(token)
    identity = await answer if inspect.isawaitable(answer) else answer
    if identity is None:
        raise NotSignedIn("the credentials are not valid")
    if not isinstance(identity, Identity):
        raise ConfigurationError(
            f"{getattr(verify, '__qualname__', verify)!s} returned {type(identity).__name__}: "
            "return an Identity, or None for a token that is not valid"
        )
    return identity._proved_by(again, at_s=asked_s)


class _Again:
    """Asks about a token again. Equal for one token of one authenticator, so that it is asked about once for all."""

    __slots__ = ("_authenticator", "_token")

    def __init__(self, authenticator: CookieSession | BearerToken, token: str) -> None:
        self._authenticator = authenticator
        self._token = token

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Again) and self._authenticator is other._authenticator and self._token == other._token

    def __hash__(self) -> int:
        return hash((id(self._authenticator), self._token))

    async def __call__(self) -> Identity:
        try:
            return await self._authenticator._proved(self._token)
        except NotSignedIn as error:
            raise self._authenticator._ended() from error


class CookieSession:
    """Sign-in by a session cookie: the cookie `name`, whose value `lookup` finds in the application's session store.

    The same cookie that the application's pages use, read as Starlette reads it; its value must be random (128 bits or
    more) or signed. `lookup` is asked again at every re-check (with `rechecks=False` it is not), so that a session that
    was ended in the database ends its sockets with code 4502.
    """

    def __init__(self, name: str, lookup: Verify, *, rechecks: bool = True) -> None:
        if not name or not isinstance(name, str):
            raise ConfigurationError(f"CookieSession({name!r}): name the cookie that holds the session")
        self.name = name
        self._lookup = lookup
        self._rechecks = rechecks

    async def authenticate(self, connection: HTTPConnection) -> Identity | None:
        """The session's identity; None without the cookie, or with an empty one. Raises NotSignedIn."""
        token = connection.cookies.get(self.name)
        return await self._proved(token) if token else None

    async def _proved(self, token: str) -> Identity:
        return await _ask(self._lookup, token, again=_Again(self, token) if self._rechecks else None)

    def _ended(self) -> Refused:
        return Revoked("the session is not valid any more")


class BearerToken:
    """Sign-in by `Authorization: Bearer …`, for programs; a browser cannot send that header on a WebSocket.

    `verify` is asked again at every re-check (with `rechecks=False` it is not); a token that is not valid any more then
    ends the socket with code 4004, which asks the client to come back with a new one.
    """

    def __init__(self, verify: Verify, *, rechecks: bool = True) -> None:
        self._verify = verify
        self._rechecks = rechecks

    async def authenticate(self, connection: HTTPConnection) -> Identity | None:
        """The token's identity; None without a bearer header. Raises NotSignedIn, also for more than one header."""
        headers = connection.headers.getlist("authorization")
        matches = [match for header in headers if (match := _bearer.fullmatch(header.strip()))]
        if not matches:
            return None
        if len(headers) > 1:
            raise NotSignedIn("there is more than one Authorization header")
        return await self._proved(matches[0][1] or "")

    async def _proved(self, token: str) -> Identity:
        return await _ask(self._verify, token, again=_Again(self, token) if self._rechecks else None)

    def _ended(self) -> Refused:
        return SessionExpired("the token is not valid any more")


class FirstMessage:
    """Sign-in by the first message on the socket, `{"type":"auth","token":"…"}`, for clients that can send no header.

    Accepts the socket itself. It has to be the last authenticator, since it refuses a client whose first message is
    anything else, or not complete within `timeout_s` seconds, with 4501, and with 1009 when it is larger than
    `limit_bytes`. Where the library has a say in uvicorn (`run`, `install`, or its protocol class) a larger one is not
    even received as a whole; other servers keep it until it is complete, or reaches a limit of their own
    (`uvicorn --ws-max-size`).
    The token is not asked about again at re-checks; give the identity an `expires_at_s`, or another authenticator that
    is `Rechecking`.
    """

    def __init__(self, verify: Verify, *, timeout_s: float = 5.0, limit_bytes: int = 16 * 1024) -> None:
        if not timeout_s > 0 or not limit_bytes > 0:
            raise ConfigurationError("FirstMessage: timeout_s and limit_bytes must be above 0")
        self._verify = verify
        self.timeout_s = timeout_s
        self.limit_bytes = limit_bytes

    async def authenticate(self, connection: HTTPConnection) -> Identity | None:
        """The identity of the first message's token; None for a plain request, which has no messages.

        Raises NotSignedIn, FirstMessageTooBig, and ClientGone when there is nobody any more.
        """
        if not isinstance(connection, WebSocket):
            return None
        _limit_messages(connection, self.limit_bytes)
        await accept_offered(connection, subprotocol=connection.scope.get(SPOKEN, ""))
        token = await read_first_message(connection, timeout_s=self.timeout_s, limit_bytes=self.limit_bytes)
        identity = await _ask(self._verify, token, again=None)
        _limit_messages(connection, None)
        return identity


def _limit_messages(websocket: WebSocket, limit_bytes: int | None) -> None:
    """Say how much of one message the server may keep, where it offers the library a door; None: as it was told."""
    offer = (websocket.scope.get("extensions") or {}).get("antiphon")
    limit = getattr(offer.get("door"), "limit_messages", None) if isinstance(offer, dict) else None
    if limit is not None:
        limit(limit_bytes)


async def read_first_message(websocket: WebSocket, *, timeout_s: float, limit_bytes: int) -> str:
    """Return the token of `{"type":"auth","token":"…"}`, which must be the first message of an accepted socket.

    Raises NotSignedIn when it is anything else, or is not there completely after `timeout_s` seconds;
    FirstMessageTooBig when it has more than `limit_bytes`; ClientGone when the client goes. How much of a message is
    held until it is complete is the server's limit, as `uvicorn --ws-max-size`; `FirstMessage` makes it smaller where
    it can.
    """
    try:
        async with asyncio.timeout(timeout_s):
            event = await websocket.receive()
    except TimeoutError as error:
        raise NotSignedIn(f"no first message within {timeout_s:g} s") from error
    if event["type"] == "websocket.disconnect":
        close_quietly(websocket)
        raise ClientGone
    text, binary = event.get("text"), event.get("bytes")
    too_big = FirstMessageTooBig(f"the first message has more than {limit_bytes} bytes")
    if len(text or binary or b"") > limit_bytes:
        raise too_big
    try:
        content = text.encode() if text is not None else bytes(binary or b"")
        if len(content) > limit_bytes:  # a character of text may be four bytes
            raise too_big
        message = codec.decode(content)
    except (EnvelopeError, UnicodeEncodeError) as error:
        raise NotSignedIn("the first message is not JSON") from error
    if not isinstance(message, dict) or message.get("type") != "auth" or not isinstance(message.get("token"), str):
        raise NotSignedIn('the first message is not {"type":"auth","token":"…"}')
    return str(message["token"])

"""Letting in: what a client sees of every refusal, over plain Starlette, FastAPI and real servers."""

# No `from __future__ import annotations` here: FastAPI could not resolve `Depends(guard)`, local to a function.

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from antiphon import redaction
from antiphon.auth import (
    Authenticator,
    BearerToken,
    ClientGone,
    CookieSession,
    FirstMessage,
    Forbidden,
    Identity,
    NotSignedIn,
    OriginRefused,
    Refused,
    Revoked,
    SessionExpired,
    SignInUnavailable,
    TooManyConnections,
)
from antiphon.brokers.memory_store import MemoryStore
from antiphon.errors import ConfigurationError
from antiphon.redaction import hide_secrets
from antiphon.security import RecheckFailed, RequestRefused, Security, refuse
from antiphon.tickets import Tickets
from tests.transports.servers import HANDSHAKE, WAIT_S, Way, serving
from tests.unit.handshakes import Handshake, Headers, request

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


# -- origin and credentials together ----------------------------------------------------------------------------------


async def test_a_default_security_looks_at_the_origin_and_at_nothing_else() -> None:
    guard = Security()
    for headers in ({}, SITE, {**SITE, **COOKIE}, BEARER, {"Host": "good.example", **BEARER}):
        assert await admitted(guard, headers) is None
    for headers in (EVIL, {**EVIL, **COOKIE}, {**SITE, "Origin": "null"}, COOKIE, {"Host": "good.example", **COOKIE}):
        with pytest.raises(OriginRefused):
            await admitted(guard, headers)
    assert guard.counters.refused == {"origin": 5}
    assert guard.counters.origins == {"other_host": 2, "null": 1, "cookie_without_origin": 2}


async def test_two_origin_headers_and_two_host_headers_are_refused() -> None:
    guard = Security()
    with pytest.raises(OriginRefused):
        await admitted(guard, [("Host", "good.example"), ("Origin", SITE["Origin"]), ("Origin", SITE["Origin"])])
    for second in ("good.example", "evil.example"):
        with pytest.raises(OriginRefused):
            await admitted(guard, [("Host", "good.example"), ("Host", second), ("Origin", SITE["Origin"])])
    assert guard.counters.origins == {"several": 1, "no_host": 2}


async def test_a_foreign_origin_is_refused_whatever_else_is_good() -> None:
    store = Store(good=TOM)
    for more in ({}, COOKIE, BEARER, {**COOKIE, **BEARER}):
        with pytest.raises(OriginRefused):
            await admitted(security(store), {**EVIL, **more})


async def test_a_cookie_without_an_origin_is_not_believed() -> None:
    store = Store(good=TOM)
    with pytest.raises(OriginRefused):
        await admitted(security(store), {"Host": "good.example", **COOKIE})


async def test_a_bearer_header_needs_no_origin_and_no_cookie_counts_beside_it() -> None:
    store = Store(good=TOM, other=Identity(user_id="other"))
    assert await admitted(security(store), {"Host": "good.example", **BEARER}) == TOM
    both = {"Cookie": "session=other", **BEARER}
    assert await admitted(security(store), both) == TOM
    assert await admitted(security(store), {**SITE, **both}) == Identity(user_id="other")


@pytest.mark.parametrize("header", ["Bearer bad", "Bearer ", "Basic good"])
async def test_a_bad_bearer_header_does_not_let_a_cookie_in_without_an_origin(header: str) -> None:
    with pytest.raises((NotSignedIn, OriginRefused)):
        await admitted(security(), {**COOKIE, "Authorization": header})


async def test_a_bearer_header_that_nobody_reads_does_not_excuse_a_cookie_without_origin() -> None:
    for guard in (Security(), Security(authenticators=[CookieSession("session", Store(good=TOM).lookup)])):
        with pytest.raises(OriginRefused):
            await admitted(guard, {**COOKIE, **BEARER})


async def test_the_first_good_credentials_decide_and_bad_ones_beside_them_do_not_matter() -> None:
    store = Store(good=TOM)
    assert await admitted(security(store), {**SITE, "Cookie": "session=old", **BEARER}) == TOM
    assert store.asked == ["old", "good"]


async def test_an_identity_that_has_expired_is_not_signed_in() -> None:
    over = dataclasses.replace(TOM, expires_at_s=time.time() - 1)
    later = dataclasses.replace(TOM, expires_at_s=time.time() + 1000)
    with pytest.raises(NotSignedIn):
        await admitted(security(Store(good=over)), {**SITE, **COOKIE})
    assert await admitted(security(Store(good=later)), {**SITE, **COOKIE}) == later


async def test_guests_are_refused_exactly_if_somebody_could_be_signed_in() -> None:
    with pytest.raises(NotSignedIn):
        await admitted(security(), SITE)
    assert await admitted(Security(), SITE) is None
    assert await admitted(security(require_identity=False), SITE) is None


async def test_where_guests_are_let_in_an_old_cookie_makes_a_guest_and_a_bad_token_does_not() -> None:
    guard = security(require_identity=False)
    assert await admitted(guard, {**SITE, "Cookie": "session=old"}) is None
    assert await admitted(guard, {**SITE, **COOKIE}) == TOM
    with pytest.raises(NotSignedIn):
        await admitted(guard, {"Authorization": "Bearer bad"})


async def test_who_claims_to_be_somebody_else_is_not_signed_in() -> None:
    guard = security()
    handshake = Handshake({**SITE, **COOKIE})
    assert await guard.admit(handshake.websocket, user_id="tom") == TOM
    assert await guard.admit(handshake.websocket) == TOM
    with pytest.raises(NotSignedIn):
        await guard.admit(handshake.websocket, user_id="ada")
    with pytest.raises(NotSignedIn):
        await security(require_identity=False).admit(Handshake(SITE).websocket, user_id="tom")
    assert await Security().admit(Handshake(SITE).websocket, user_id="tom") is None


# -- errors of what it asks -------------------------------------------------------------------------------------------


async def test_a_database_that_is_away_lets_nobody_in_and_sends_nobody_away_for_good(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = Store(good=TOM)
    store.error = ConnectionError("postgres://app:SECRET@db is away")
    guard = security(store)
    with pytest.raises(SignInUnavailable) as refused:
        await admitted(guard, {**SITE, **COOKIE})
    assert refused.value.code == 1013
    assert guard.counters.authenticator_errors == 1
    assert "CookieSession raised ConnectionError" in caplog.text
    assert "SECRET" not in caplog.text


async def test_one_that_is_away_does_not_keep_another_from_knowing() -> None:
    class Away:
        async def authenticate(self, connection: HTTPConnection) -> Identity | None:
            raise SignInUnavailable("the broker is away")

    kinds: list[Authenticator] = [Away(), CookieSession("session", Store(good=TOM).lookup)]
    guard = Security(authenticators=kinds, refusal_s=0)
    assert await admitted(guard, {**SITE, **COOKIE}) == TOM
    for headers in (SITE, {**SITE, "Cookie": "session=bad"}):
        with pytest.raises(SignInUnavailable):
            await admitted(guard, headers)


async def never(*_: object) -> Any:
    await asyncio.Event().wait()


@pytest.mark.virtual_time
async def test_a_database_that_does_not_answer_is_given_up_in_time(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.get_running_loop()
    usual = Security(authenticators=[CookieSession("session", never)])
    for answer_s, guard in ((5.0, usual), (0.5, security(authenticators=[BearerToken(never)], answer_s=0.5))):
        started = loop.time()
        with pytest.raises(SignInUnavailable):
            await admitted(guard, {**SITE, **COOKIE, **BEARER})
        assert loop.time() - started == pytest.approx(answer_s)
        assert (guard.counters.authenticator_errors, guard.counters.timeouts) == (1, 1)
        assert guard.counters.refused == {"sign_in_unavailable": 1}
    assert "gave no answer within answer_s=0.5" in caplog.text


@pytest.mark.virtual_time
async def test_the_wait_for_a_first_message_does_not_count_as_time_for_an_answer() -> None:
    loop = asyncio.get_running_loop()
    guard = Security(authenticators=[FirstMessage(never, timeout_s=3.0)], answer_s=1.0)
    with pytest.raises(NotSignedIn):
        await admitted(guard, SITE)
    assert loop.time() >= 3.0
    handshake = Handshake(SITE)
    handshake.says('{"type":"auth","token":"good"}')
    with pytest.raises(SignInUnavailable):
        await guard.admit(handshake.websocket)
    assert guard.counters.timeouts == 1


@pytest.mark.virtual_time
async def test_an_own_time_out_of_a_database_is_an_error_like_others() -> None:
    store = Store(good=TOM)
    store.error = TimeoutError()
    guard = security(store)
    with pytest.raises(SignInUnavailable):
        await admitted(guard, {**SITE, **COOKIE})
    assert (guard.counters.authenticator_errors, guard.counters.timeouts) == (1, 0)


@pytest.mark.virtual_time
async def test_an_authorize_that_does_not_answer_says_no() -> None:
    loop = asyncio.get_running_loop()
    guard = Security(authorize=never)
    assert not await guard.may_hear(TOM, "chat")
    assert loop.time() == pytest.approx(5.0)
    assert (guard.counters.topics_denied, guard.counters.authorize_errors, guard.counters.timeouts) == (1, 1, 1)


async def test_a_client_that_goes_during_the_question_is_no_time_out() -> None:
    guard = Security(authenticators=[CookieSession("session", never)])
    signing_in = asyncio.create_task(admitted(guard, {**SITE, **COOKIE}))
    await asyncio.sleep(0)
    signing_in.cancel()
    with pytest.raises(asyncio.CancelledError):
        await signing_in
    assert (guard.counters.authenticator_errors, guard.counters.timeouts) == (0, 0)


async def test_cookies_without_an_origin_count_where_the_application_says_so() -> None:
    guard = security(cookies_without_origin=True)
    assert await admitted(guard, {"Host": "good.example", **COOKIE}) == TOM
    assert await admitted(Security(cookies_without_origin=True), COOKIE) is None
    for headers in (EVIL, {**EVIL, **COOKIE}, {**SITE, **COOKIE, "Origin": "null"}):
        with pytest.raises(OriginRefused):
            await admitted(guard, headers)
    with pytest.raises(NotSignedIn):
        await admitted(guard, {"Host": "good.example", "Cookie": "session=old"})


def test_a_form_of_another_website_is_refused_whatever_programs_may_do() -> None:
    guard = security(cookies_without_origin=True)
    with pytest.raises(OriginRefused):
        guard.check_origin(request({**EVIL, **COOKIE}, method="POST"))


async def test_one_connection_is_asked_once_by_one_security() -> None:
    store = Store(good=TOM)
    guard = security(store)
    handshake = Handshake({**SITE, **COOKIE})
    first = await guard.admit(handshake.websocket)
    assert await guard.identify(WebSocket(handshake.websocket.scope, None, None)) is first  # type: ignore[arg-type]
    assert store.asked == ["good"]
    assert await security(store).admit(handshake.websocket) == TOM
    assert store.asked == ["good", "good"]


async def test_a_default_security_believes_the_one_that_was_asked_before() -> None:
    guard = security(allowed_origins=["https://app.example"])
    handshake = Handshake({"Host": "api.example", "Origin": "https://app.example", **COOKIE})
    await guard.admit(handshake.websocket)
    assert await Security().admit(handshake.websocket) == TOM
    with pytest.raises(OriginRefused):
        await security().admit(handshake.websocket)


@pytest.mark.virtual_time
async def test_every_kind_of_bad_credentials_gets_the_same_reply_after_the_same_time() -> None:
    store = Store(good=TOM, expired=dataclasses.replace(TOM, expires_at_s=1.0))
    store.delay_s = 0.03
    loop = asyncio.get_running_loop()
    guard = security(store, refusal_s=0.1)
    replies = set()
    for more in (
        {},
        {"Cookie": "session=expired"},
        {"Cookie": "session=forged"},
        {"Cookie": "session="},
        {"Cookie": f"session={'x' * 9000}"},
        {"Authorization": "Bearer forged"},
        {"Authorization": "Bearer expired"},
        {"Authorization": "Bearer"},
        {**COOKIE, "User-Id": "ada"},
    ):
        started = loop.time()
        handshake = Handshake({**SITE, **more})
        with pytest.raises(NotSignedIn) as refused:
            await guard.admit(handshake.websocket, user_id=more.get("User-Id"))
        assert handshake.events == [{"type": "websocket.accept", "subprotocol": None, "headers": []}]
        replies.add((refused.value.code, refused.value.reason, round(loop.time() - started, 6)))
    assert replies == {(4501, "not signed in", 0.1)}


@pytest.mark.virtual_time
async def test_a_good_sign_in_does_not_wait() -> None:
    store, loop = Store(good=TOM), asyncio.get_running_loop()
    guard = Security(authenticators=[CookieSession("session", store.lookup)])
    await admitted(guard, {**SITE, **COOKIE})
    assert loop.time() == 0


# -- what is logged ---------------------------------------------------------------------------------------------------


async def test_a_refused_origin_is_logged_with_its_user_and_the_line_to_add(caplog: pytest.LogCaptureFixture) -> None:
    guard = security(allowed_origins=["https://app.example"])
    with pytest.raises(OriginRefused):
        await admitted(guard, {**EVIL, **COOKIE})
    assert [record.getMessage() for record in caplog.records] == [
        "refused a connection from origin https://evil.example to host 'good.example', user 'tom': "
        "if that is a website of yours, write "
        'Security(allowed_origins=["https://app.example", "https://evil.example"]); '
        "behind a proxy, let it pass the Host header on, or name it in trusted_proxies"
    ]


async def test_a_line_behind_an_unnamed_proxy_says_to_name_it(caplog: pytest.LogCaptureFixture) -> None:
    headers = {"Host": "10.0.0.9:8000", "Origin": "https://good.example", "X-Forwarded-Host": "good.example"}
    with pytest.raises(OriginRefused):
        await admitted(Security(), headers, client=("10.0.0.1", 4711))
    assert 'write Security(trusted_proxies=["10.0.0.1"])' in caplog.text
    assert await admitted(Security(trusted_proxies=["10.0.0.1"]), headers, client=("10.0.0.1", 4711)) is None


async def test_a_flood_of_refusals_is_a_few_lines(caplog: pytest.LogCaptureFixture) -> None:
    guard = security()
    for _ in range(100):
        for headers in (EVIL, {**SITE, "Origin": "null"}, COOKIE):
            with pytest.raises(OriginRefused):
                await admitted(guard, headers)
    assert len(caplog.records) == 3
    assert guard.counters.refused == {"origin": 300}


@pytest.mark.parametrize("origin", ["https://a\x1b[31m", "\xe9" * 1000, "https://a b", ", https://a", "%s%d"])
async def test_an_odd_origin_makes_one_plain_line(caplog: pytest.LogCaptureFixture, origin: str) -> None:
    with pytest.raises(OriginRefused):
        await admitted(Security(), {"Host": "good\x85.example\x1b[0m", "Origin": origin})
    line = caplog.records[0].getMessage()
    assert line.isascii()
    assert line.isprintable()
    assert len(line) < 700


async def test_naming_the_user_in_the_log_uses_up_nothing_and_fails_quietly(caplog: pytest.LogCaptureFixture) -> None:
    class Ticket:
        used = 0

        async def authenticate(self, connection: HTTPConnection) -> Identity | None:
            self.used += 1
            return TOM

    store, ticket = Store(), Ticket()
    store.error = ConnectionError("away")
    kinds: list[Authenticator] = [CookieSession("session", store.lookup), ticket]
    guard = Security(authenticators=kinds, refusal_s=0)
    with pytest.raises(OriginRefused):
        await admitted(guard, {**EVIL, **COOKIE})
    assert "user unknown" in caplog.text
    assert ticket.used == 0


def test_making_one_hides_secrets() -> None:
    Security()
    assert hide_secrets() in logging.getLogger("uvicorn.error").filters


def test_the_parameter_of_tickets_is_a_secret_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_parameters", set())
    Security(authenticators=[Tickets(MemoryStore(), parameter="t")])
    assert redaction.mask("/ws?t=SECRET&u=1") == "/ws?t=***&u=1"


# -- plain requests ---------------------------------------------------------------------------------------------------


async def test_requests_that_change_something_by_cookie_are_held_to_their_origin() -> None:
    guard = security()
    for headers, method in (
        ({**SITE, **COOKIE}, "POST"),
        ({**EVIL, **COOKIE}, "GET"),
        ({**EVIL, **COOKIE}, "HEAD"),
        ({**EVIL, **BEARER}, "POST"),
        (COOKIE, "POST"),
        (COOKIE, "GET"),
    ):
        assert await guard(request(headers, method=method)) == TOM
    for method in ("POST", "PUT", "PATCH", "DELETE", "x"):
        with pytest.raises(RequestRefused) as refused:
            await guard(request({**EVIL, **COOKIE}, method=method))
        assert refused.value.status_code == 403


async def test_a_request_gets_a_status() -> None:
    with pytest.raises(RequestRefused) as refused:
        await security()(request())
    assert (refused.value.status_code, refused.value.detail) == (401, "not signed in")
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert isinstance(refused.value.refusal, NotSignedIn)
    with pytest.raises(RequestRefused) as refused:
        await refuse(request(), SignInUnavailable())
    assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "5"})
    with pytest.raises(RequestRefused) as refused:
        await refuse(request(), TooManyConnections())
    assert refused.value.status_code == 429


# -- topics and re-checks ---------------------------------------------------------------------------------------------


async def test_everybody_may_hear_everything_unless_somebody_says_otherwise() -> None:
    assert await Security().may_hear(None, "private:1")


async def test_authorize_is_asked_with_identity_and_topic() -> None:
    asked: list[tuple[Identity | None, str]] = []

    async def slowly(identity: Identity | None, topic: str) -> bool:
        asked.append((identity, topic))
        await asyncio.sleep(0)
        return topic == "open"

    def quickly(identity: Identity | None, topic: str) -> bool:
        asked.append((identity, topic))
        return topic == "open"

    for authorize in (slowly, quickly):
        guard = Security(authorize=authorize)
        assert await guard.may_hear(TOM, "open")
        assert not await guard.may_hear(None, "private:1")
        assert guard.counters.topics_denied == 1
    assert asked == [(TOM, "open"), (None, "private:1")] * 2


async def test_an_authorize_that_raises_or_forgets_to_answer_says_no(caplog: pytest.LogCaptureFixture) -> None:
    def broken(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    async def broken_later(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    def forgetful(identity: Identity | None, topic: str) -> Any:
        return None

    for authorize, errors in ((broken, 1), (broken_later, 1), (forgetful, 0)):
        guard = Security(authorize=authorize)
        assert await guard.may_hear(TOM, "a") is False
        assert (guard.counters.authorize_errors, guard.counters.topics_denied) == (errors, 1)
    assert "authorize raised KeyError: that is a no" in caplog.text


async def test_a_recheck_gives_the_identity_as_it_is_now() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.sessions["good"] = dataclasses.replace(TOM, roles=frozenset({"admin"}))
    assert (await guard.recheck(identity)).roles == {"admin"}
    assert await guard.is_valid(identity)
    del store.sessions["good"]
    with pytest.raises(Revoked):
        await guard.recheck(identity)
    assert not await guard.is_valid(identity)


async def test_credentials_that_belong_to_somebody_else_by_now_are_revoked() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    for other in (Identity(user_id="ada", session_id="s-1"), Identity(user_id="tom", session_id="s-2")):
        store.sessions["good"] = other
        assert not await guard.is_valid(identity)


@pytest.mark.parametrize("error", [ConnectionError("away"), SignInUnavailable("away")])
async def test_a_database_that_is_away_is_no_reason_to_cut_anybody_off(error: Exception) -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.error = error
    with pytest.raises(RecheckFailed) as failed:
        await guard.recheck(identity)
    assert failed.value.__cause__ is error
    assert not isinstance(failed.value, Refused)
    assert await guard.is_valid(identity)
    assert guard.counters.recheck_errors == 2


async def test_a_lookup_may_say_itself_why_somebody_is_refused() -> None:
    store = Store(good=TOM)
    guard = security(store)
    identity = await admitted(guard, {**SITE, **COOKIE})
    assert identity is not None
    store.error = Forbidden("banned")
    for question in (guard.recheck(identity), admitted(guard, {**SITE, **COOKIE})):
        with pytest.raises(Forbidden):
            await question


async def test_who_hears_a_topic_already_is_not_cut_off_by_an_authorize_that_raises() -> None:
    def broken(identity: Identity | None, topic: str) -> bool:
        raise KeyError(topic)

    guard = Security(authorize=broken)
    with pytest.raises(KeyError):
        await guard.may_still_hear(TOM, "a")
    assert guard.counters.authorize_errors == guard.counters.topics_denied == 0
    assert await Security(authorize=lambda *_: True).may_still_hear(TOM, "a")
    assert not await Security(authorize=lambda *_: False).may_still_hear(TOM, "a")


async def test_what_has_expired_has_expired_even_then() -> None:
    store = Store(good=dataclasses.replace(TOM, expires_at_s=time.time() - 1))
    store.error = ConnectionError("away")
    with pytest.raises(SessionExpired):
        await security(store).recheck(store.sessions["good"])


async def test_an_authenticator_that_can_recheck_is_asked_about_every_identity() -> None:
    class Bans:
        def __init__(self) -> None:
            self.banned: set[str | None] = set()

        async def authenticate(self, connection: HTTPConnection) -> Identity | None:
            return None

        async def is_valid(self, identity: Identity) -> bool:
            return identity.user_id not in self.banned

    bans = Bans()
    guard = Security(authenticators=[bans], refusal_s=0)
    assert await guard.recheck(TOM) is TOM
    bans.banned = {"tom"}
    with pytest.raises(Revoked):
        await guard.recheck(TOM)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"authenticators": [CookieSession]}, "no authenticator"),
        ({"authenticators": ["session"]}, "no authenticator"),
        ({"authenticators": [FirstMessage(Store().lookup), BearerToken(Store().lookup)]}, "goes last"),
        ({"require_identity": True}, "needs authenticators"),
        ({"authenticators": [FirstMessage(Store().lookup)], "require_identity": False}, "no guests"),
        ({"recheck_s": 0}, "above 0"),
        ({"connections_per_address": 0}, "above 0"),
        ({"answer_s": 0}, "above 0"),
        ({"refusal_s": -1}, "0 or above"),
        ({"allowed_origins": ["app.example"]}, "what a browser sends"),
        ({"trusted_proxies": ["*"]}, "no address"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        Security(**options)


@pytest.mark.parametrize(
    ("client", "headers", "expected"),
    [
        (("10.0.0.1", 4711), {"X-Forwarded-For": "198.51.100.1, 203.0.113.9"}, "203.0.113.9"),
        (("10.0.0.1", 4711), {"X-Forwarded-For": "2001:db8:1:2:3::4"}, "2001:db8:1:2::/64"),
        (("203.0.113.9", 4711), {"X-Forwarded-For": "198.51.100.1"}, "203.0.113.9"),
        (("203.0.113.9", 0), {"X-Forwarded-For": "203.0.113.9"}, "203.0.113.9"),
        (("10.0.0.1", 4711), {}, None),
        (None, {}, None),
    ],
)
def test_the_address_that_limits_count_is_that_of_the_client(
    client: tuple[str, int] | None, headers: Headers, expected: str | None
) -> None:
    connection = Handshake(headers, client=client).websocket
    assert Security(trusted_proxies=["10.0.0.0/8"]).address_of(connection) == expected
    assert Security().address_of(connection) is None
    assert Security(trusted_proxies=["10.0.0.0/8"], connections_per_address=None).address_of(connection) is None


async def test_a_proxy_that_uvicorn_has_resolved_already_may_name_the_host() -> None:
    headers = {"Host": "127.0.0.1:8000", "Origin": "https://good.example", "X-Forwarded-Host": "good.example"}
    resolved = {**headers, "X-Forwarded-For": "203.0.113.9"}
    guard = Security(trusted_proxies=["127.0.0.1"])
    assert await admitted(guard, resolved, client=("203.0.113.9", 0)) is None
    for connection in ((resolved, ("203.0.113.9", 4711)), (headers, ("203.0.113.9", 0))):
        with pytest.raises(OriginRefused):
            await admitted(guard, connection[0], client=connection[1])


# -- what clients see: Starlette and FastAPI --------------------------------------------------------------------------


def starlette_app(guard: Security) -> Starlette:
    async def socket(websocket: WebSocket) -> None:
        identity = await guard(websocket)
        await websocket.accept()
        await websocket.send_text("guest" if identity is None else str(identity.user_id))

    async def page(request: Request) -> Response:
        identity = await guard(request)
        return JSONResponse("guest" if identity is None else identity.user_id)

    return Starlette(routes=[WebSocketRoute("/ws", socket), Route("/me", page, methods=["GET", "POST"])])


def fastapi_app(guard: Security) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, identity: Annotated[Identity, Depends(guard)]) -> None:
        await websocket.accept()
        await websocket.send_text(str(identity.user_id))

    @app.get("/me", operation_id="me")
    @app.post("/me", operation_id="post_me")
    async def me(identity: Annotated[Identity, Depends(guard)]) -> str | None:
        return identity.user_id

    return app


Framework = Callable[[Security], Any]


@pytest.mark.parametrize("framework", [starlette_app, fastapi_app])
def test_a_client_sees_why_it_is_not_let_in(framework: Framework) -> None:
    store = Store(good=TOM)
    with TestClient(framework(security(store)), base_url="http://good.example") as client:
        with client.websocket_connect("/ws", headers={**SITE, **COOKIE}) as socket:
            assert socket.receive_text() == "tom"
        with client.websocket_connect("/ws", headers=dict(BEARER)) as socket:
            assert socket.receive_text() == "tom"
        with pytest.raises(WebSocketDisconnect) as before, client.websocket_connect("/ws", headers={**EVIL, **COOKIE}):
            raise AssertionError("accepted")
        assert not isinstance(before.value, WebSocketDenialResponse)
        for headers in ({**SITE}, {**SITE, "Cookie": "session=bad"}):
            with client.websocket_connect("/ws", headers=headers) as socket:
                with pytest.raises(WebSocketDisconnect) as after:
                    socket.receive_text()
                assert (after.value.code, after.value.reason) == (4501, "not signed in")
        store.error = ConnectionError("away")
        with client.websocket_connect("/ws", headers=dict(BEARER)) as socket:
            with pytest.raises(WebSocketDisconnect) as after:
                socket.receive_text()
            assert after.value.code == 1013


@pytest.mark.parametrize("framework", [starlette_app, fastapi_app])
def test_a_plain_request_is_answered_by_the_same_dependency(framework: Framework) -> None:
    store = Store(good=TOM)
    with TestClient(framework(security(store)), base_url="http://good.example") as client:
        assert client.get("/me", headers=COOKIE).json() == "tom"
        assert client.get("/me", headers=BEARER).json() == "tom"
        assert client.post("/me", headers={**SITE, **COOKIE}).json() == "tom"
        refused = client.get("/me")
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "not signed in" in refused.text
        assert client.get("/me?token=good&session=good&ticket=good").status_code == 401
        assert client.post("/me", headers={**EVIL, **COOKIE}).status_code == 403
        store.error = ConnectionError("away")
        assert client.get("/me", headers=BEARER).status_code == 503


def test_the_dependency_asks_the_client_for_nothing_in_the_api_description() -> None:
    description = fastapi_app(security()).openapi()
    assert "parameters" not in description["paths"]["/me"]["get"]


# -- what clients see: real servers -----------------------------------------------------------------------------------

WAYS: tuple[Way, ...] = ("asgi", "protocol")


async def status_of(url: str, *, origin: str | None = None, **options: Any) -> int:
    """The status of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=origin, open_timeout=WAIT_S, **options)  # type: ignore[arg-type] # any text
    return refused.value.response.status_code


async def closed_with(url: str, *messages: str, **options: Any) -> tuple[int, str]:
    """The code and reason of the close frame that an accepted client gets."""
    async with connect(url, open_timeout=WAIT_S, **options) as socket:
        for message in messages:
            await socket.send(message)
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("way", WAYS)
async def test_a_real_client_gets_403_for_its_origin_and_a_code_for_its_session(way: Way) -> None:
    guard = security()

    async def endpoint(websocket: WebSocket) -> None:
        identity = await guard(websocket)
        await websocket.accept()
        await websocket.send_text(str(identity and identity.user_id))

    async with serving(way, endpoint) as (_, url):
        own = url.replace("ws:", "http:").removesuffix("/")
        good = {"Cookie": "session=good"}
        async with connect(url, origin=own, additional_headers=good) as socket:  # type: ignore[arg-type] # any text
            assert await socket.recv() == "tom"
        async with connect(url, additional_headers=BEARER) as socket:
            assert await socket.recv() == "tom"
        for origin in ("https://evil.example", "null", "https://", f"{own}.evil.example", f"{own}/"):
            assert await status_of(url, origin=origin, additional_headers=good) == 403
        assert await status_of(url, additional_headers=good) == 403
        twice = [("Origin", own), ("Origin", own), ("Cookie", "session=good")]
        # This server refuses that itself.
        assert await status_of(url, additional_headers=twice) == 400
        for headers in ({}, {"Authorization": "Bearer bad"}):
            assert await closed_with(url, additional_headers=headers) == (4501, "not signed in")
        assert await closed_with(f"{url}?token=good&session=good") == (4501, "not signed in")
        assert guard.counters.refused["origin"] == 6


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_before_the_upgrade_has_its_own_status(way: Way) -> None:
    refusals: list[Refused] = []

    async def endpoint(websocket: WebSocket) -> None:
        await refuse(websocket, refusals.pop())

    async with serving(way, endpoint) as (_, url):
        for refusal, status in (
            (TooManyConnections(before_upgrade=True), 429),
            (SignInUnavailable(before_upgrade=True), 503),
            (Forbidden(before_upgrade=True), 403),
            (OriginRefused(), 403),
        ):
            refusals.append(refusal)
            assert await status_of(url) == status


@pytest.mark.parametrize("way", WAYS)
async def test_a_proxy_in_front_of_a_real_server_may_say_host_and_address_if_it_is_trusted(way: Way) -> None:
    trusting, plain = Security(trusted_proxies=["127.0.0.1"]), Security()
    guards = [plain, trusting]

    async def endpoint(websocket: WebSocket) -> None:
        guard = guards.pop()
        await guard(websocket)
        await websocket.accept()
        await websocket.send_text(str(guard.address_of(websocket)))

    # This server puts the address from X-Forwarded-For in the place of the peer's by itself, since the peer is local.
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Forwarded-Host": "good.example"}
    async with serving(way, endpoint) as (_, url):
        origin: Any = "https://good.example"
        async with connect(url, origin=origin, additional_headers=forwarded) as socket:
            assert await socket.recv() == "203.0.113.9"
        assert await status_of(url, origin=origin, additional_headers=forwarded) == 403
    assert plain.counters.origins == {"other_host": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_a_browser_that_offers_subprotocols_sees_the_code_too(way: Way) -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await security()(websocket)

    async with serving(way, endpoint) as (_, url):
        for offered, chosen in ((["chat", "antiphon.v1"], "antiphon.v1"), (["chat", "x"], "chat")):
            async with connect(url, subprotocols=offered) as socket:  # type: ignore[arg-type] # any texts
                assert socket.subprotocol == chosen
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4501


async def test_a_server_without_the_extension_answers_403() -> None:
    for extensions, kind in ((["websocket.http.response"], RequestRefused), ([], TooManyConnections)):
        handshake = Handshake(extensions=extensions)
        with pytest.raises(kind):
            await refuse(handshake.websocket, TooManyConnections(before_upgrade=True))
        assert handshake.events == []


FIRST = '{"type":"auth","token":"good"}'


@pytest.mark.parametrize("way", WAYS)
async def test_the_first_message_of_a_real_client_signs_in_or_ends_it(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    guard = Security(authenticators=[FirstMessage(Store(good=TOM).lookup, timeout_s=0.5)], refusal_s=0)
    left = asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        try:
            identity = await guard(websocket)
        except ClientGone:
            left.set()
            raise
        await websocket.send_text(str(identity and identity.user_id))
        await websocket.receive()

    async with serving(way, endpoint) as (_, url):
        async with connect(url) as socket:
            await socket.send(FIRST)
            assert await socket.recv() == "tom"
        for message in ('{"type":"ping"}', "no JSON", '{"type":"auth","token":"bad"}'):
            assert await closed_with(url, message, FIRST) == (4501, "not signed in")
        # With the protocol class such a message is not even received as a whole.
        code, _ = await closed_with(url, "x" * 20_000, FIRST)
        assert code == 1009
        started = time.monotonic()
        assert await closed_with(url) == (4501, "not signed in")
        assert 0.4 < time.monotonic() - started < 10
        async with connect(url):
            pass
        async with asyncio.timeout(WAIT_S):
            await left.wait()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_writes_byte_by_byte_is_cut_off_in_time(way: Way) -> None:
    guard = Security(authenticators=[FirstMessage(Store(good=TOM).lookup, timeout_s=0.5)], refusal_s=0)

    async def endpoint(websocket: WebSocket) -> None:
        await guard(websocket)
        raise AssertionError("let in")

    async with serving(way, endpoint) as (_, url):
        port = int(url.removesuffix("/").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        started = time.monotonic()
        reading = asyncio.create_task(reader.read(4))
        masked_frame = bytes([0x81, 0x80 | len(FIRST), 0, 0, 0, 0]) + FIRST.encode()
        async with asyncio.timeout(WAIT_S):
            for byte in masked_frame[:-1]:
                if not reading.done():
                    writer.write(bytes([byte]))
                await asyncio.wait([reading], timeout=0.05)
            frame = await reading
        assert frame[0] == 0x88
        assert int.from_bytes(frame[2:4], "big") == 4501
        assert 0.4 < time.monotonic() - started < 10
        writer.close()

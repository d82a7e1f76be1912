"""Letting in when what it asks fails, is slow, or was asked before."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest
from starlette.requests import HTTPConnection
from starlette.websockets import WebSocket

from antiphon.auth import (
    Authenticator,
    BearerToken,
    CookieSession,
    FirstMessage,
    Identity,
    NotSignedIn,
    OriginRefused,
    SignInUnavailable,
)
from antiphon.security import Security
from tests.unit.guards import BEARER, COOKIE, EVIL, SITE, TOM, Store, admitted, security
from tests.unit.handshakes import Handshake, request


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

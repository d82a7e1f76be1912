"""Letting in: origin and credentials together, and the options."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import pytest

from antiphon.auth import BearerToken, CookieSession, FirstMessage, Identity, NotSignedIn, OriginRefused
from antiphon.errors import ConfigurationError
from antiphon.security import Security
from tests.unit.guards import BEARER, COOKIE, EVIL, SITE, TOM, Store, admitted, security
from tests.unit.handshakes import Handshake, Headers

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

"""Letting in: what is logged of refusals, and what is kept out of the log."""

from __future__ import annotations

import logging

import pytest
from starlette.requests import HTTPConnection

from antiphon import redaction
from antiphon.auth import Authenticator, CookieSession, Identity, OriginRefused
from antiphon.brokers.memory_store import MemoryStore
from antiphon.redaction import hide_secrets
from antiphon.security import Security
from antiphon.tickets import Tickets
from tests.unit.guards import COOKIE, EVIL, SITE, TOM, Store, admitted, security


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

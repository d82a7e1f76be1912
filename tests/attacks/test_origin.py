"""S01, S02, S03: pages of other websites with the cookies of their visitors."""

from __future__ import annotations

import asyncio

import pytest

from tests.attacks.attacker import HOST, ask, handshake, json_frame, json_of, new_topic, socket_of
from tests.attacks.credentials import BEARER, cookie
from tests.attacks.target import Target
from tests.transports.raw_client import close

REFUSED = 'antiphon_refused_handshakes_total{reason="origin"}'
BEARER_HEADER = f"Authorization: Bearer {BEARER}"


async def test_page_of_another_website_gets_nothing_for_a_valid_cookie(site: Target) -> None:
    topic = new_topic()
    before = len(site.log)
    async with site.nothing_gained("site", topic) as grown:
        request = handshake(f"/site?topic={topic}", origins=["https://evil.example"], cookie=cookie("alice"))
        reply = await ask(site.port, request)
        assert reply.status == 403
        assert "sec-websocket-accept" not in reply.head.lower()
        assert b"evil" not in reply.body
        assert b"alice" not in reply.body
    assert grown[REFUSED] == 1
    written = site.log[before:]
    assert "origin https://evil.example to host 'site.example', user 'alice'" in written
    assert 'Security(allowed_origins=["https://evil.example"])' in written


ODD_ORIGINS = {
    "a host that ends like ours": ["https://evilsite.example"],
    "a host that begins like ours": ["https://site.example.evil.com"],
    "another port": ["https://site.example:8443"],
    "a user": ["http://site.example@evil.example"],
    "a user and our host behind it": ["http://evil.example@site.example"],
    "a trailing dot": ["https://site.example."],
    "null": ["null"],
    "NULL": ["NULL"],
    "empty": [""],
    "two headers": ["https://site.example", "https://evil.example"],
    "two headers, ours last": ["https://evil.example", "https://site.example"],
    "the same twice": ["https://site.example", "https://site.example"],
    "two in one, with a comma": ["https://site.example, https://evil.example"],
    "two in one, with a space": ["https://site.example https://evil.example"],
    "a path": ["https://site.example/"],
    "a query": ["https://evil.example?https://site.example"],
    "a fragment": ["https://evil.example#https://site.example"],
    "a backslash": ["https://evil.example\\site.example"],
    "an encoded dot": ["https://site%2eexample"],
    "no scheme": ["site.example"],
    "another kind of scheme": ["file://site.example"],
    "a scheme that is code": ["javascript://site.example"],
    "a port that is none": ["https://site.example:99999"],
    "an empty port": ["https://site.example:"],
    "a homoglyph": ["https://s\u0131te.example"],
}


async def statuses(site: Target, path: str, requests: dict[str, list[str]], *, host: str = HOST) -> dict[str, int]:
    """What handshakes with these Origin headers and a valid cookie are answered with, all at the same time."""
    asking = (
        ask(site.port, handshake(path, host=host, origins=each, cookie=cookie("alice"))) for each in requests.values()
    )
    return dict(zip(requests, [reply.status for reply in await asyncio.gather(*asking)], strict=True))


async def test_odd_origins_are_refused(site: Target) -> None:
    topic = new_topic()
    async with site.nothing_gained("site", topic) as grown:
        found = await statuses(site, f"/site?topic={topic}", ODD_ORIGINS)
    # A server may let no handshake with two of them through to the application.
    elsewhere = {name for name, status in found.items() if status == 400 and len(ODD_ORIGINS[name]) > 1}
    assert {name: status for name, status in found.items() if status != 403} == dict.fromkeys(elsewhere, 400)
    assert grown[REFUSED] == len(ODD_ORIGINS) - len(elsewhere)


@pytest.mark.parametrize("origin", ["https://SITE.Example", "HTTPS://site.example", "https://site.example:443"])
async def test_spelling_alone_is_no_difference(site: Target, origin: str) -> None:
    async with socket_of(site.port, "/site", origins=[origin], cookie=cookie("alice"), v1=True):
        pass


async def test_list_of_websites_is_taken_at_its_word(site: Target) -> None:
    for origin in ("https://good.example", "https://GOOD.example", "https://good.example:443", f"http://{HOST}"):
        async with socket_of(site.port, "/listed", origins=[origin], cookie=cookie("alice"), v1=True):
            pass
    others = (
        "http://good.example",
        "https://good.example.evil.com",
        "https://evilgood.example",
        "https://good.example:8443",
        "http://good.example@evil.example",
        "https://good.example.",
        "null",
    )
    async with site.nothing_gained("listed") as grown:
        found = await statuses(site, "/listed", {origin: [origin] for origin in others})
        assert found == dict.fromkeys(others, 403)
        # The host itself is listed, with another scheme.
        found = await statuses(site, "/listed", {"other scheme": ["http://good.example"]}, host="good.example")
        assert found == {"other scheme": 403}
    assert grown[REFUSED] == len(others) + 1


async def test_headers_that_only_a_proxy_may_set_move_no_host(site: Target) -> None:
    headers = ["X-Forwarded-Host: evil.example", "X-Original-Host: evil.example", "Forwarded: host=evil.example"]
    async with site.nothing_gained("site") as grown:
        request = handshake("/site", origins=["https://evil.example"], cookie=cookie("alice"), headers=headers)
        assert (await ask(site.port, request)).status == 403
    assert grown[REFUSED] == 1


async def test_cookie_without_an_origin_is_refused(site: Target) -> None:
    topic = new_topic()
    async with site.nothing_gained("site", topic) as grown:
        request = handshake(f"/site?topic={topic}", origins=[], cookie=cookie("alice"))
        assert (await ask(site.port, request)).status == 403
    assert grown[REFUSED] == 1


@pytest.mark.parametrize("with_cookie", [False, True])
async def test_program_with_a_bearer_token_needs_no_origin(site: Target, with_cookie: bool) -> None:
    """And its cookie, if it has one, counts for nothing."""
    topic, value = new_topic(), cookie("alice") if with_cookie else None
    async with socket_of(site.port, origins=[], headers=[BEARER_HEADER], cookie=value) as client:
        await client.send(json_frame({"hello": topic}))
        assert json_of(await client.answer()) == {"echo": {"hello": topic}}
    for user, code in (("report", 101), ("alice", 4503)):
        path = f"/site?topic=user:{user}"
        async with socket_of(site.port, path, origins=[], headers=[BEARER_HEADER], cookie=value) as client:
            await client.send(json_frame({"hello": user}))
            answer = await client.answer()
            assert answer is not None
            assert answer == close(code) if code != 101 else json_of(answer) == {"echo": {"hello": user}}

"""S07, S30: what is secret stays out of everything that a server writes or shows, at its most talkative."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote

import pytest
import redis

from antiphon.errors import MissingExtra
from tests.attacks import credentials
from tests.attacks.attacker import ask, handshake, handshaken, json_frame, json_of, new_topic, socket_of, until_closed
from tests.attacks.credentials import BEARER, CANARY, METRICS_TOKEN, cookie
from tests.attacks.target import WAYS, Target, target
from tests.transports.raw_client import TEXT, close, frame
from tests.transports.servers import WAIT_S

BEARER_HEADER = f"Authorization: Bearer {BEARER}"


@pytest.fixture
def talkative() -> Iterator[list[Target]]:
    """Servers that log all they can, and whose application raises with all that it was given."""
    with ExitStack() as stack:
        try:
            yield [stack.enter_context(target(way, log_level="trace", may_raise=True)) for way in WAYS]
        except MissingExtra as missing:
            pytest.skip(str(missing))


async def tries_everything(site: Target) -> None:
    """Sends each secret in each place where somebody might, and hears nothing of it again."""
    signed_in = cookie("alice")
    queries = [
        f"token={BEARER}",
        f"access_token={BEARER}",
        f"api_key={BEARER}",
        f"session={signed_in}",
        f"auth={BEARER}",
    ]
    queries += [f"ticket={CANARY}{'x' * 37}", f"x=1&tok%65n={BEARER}&y=2", f"password={quote(f'{CANARY} & co')}"]
    queries += [f"session-id={signed_in}", f"jwt={BEARER}", f"next={quote(f'/x?token={BEARER}')}"]
    foreign = [
        handshake(f"{path}?{query}", origins=["https://evil.example"], cookie=signed_in)
        for path in ("/site", "/first-default")
        for query in queries
    ]
    replies = await asyncio.gather(*(ask(site.port, request) for request in foreign))
    assert {reply.status for reply in replies} == {403}
    refused = [handshake(f"/site?{query}") for query in queries]
    refused += [handshake("/site", cookie=signed_in[:-2], headers=[BEARER_HEADER[:-2], f"X-Api-Key: {BEARER}"])]

    async def refuses(request: bytes) -> None:
        async with handshaken(site.port, request) as client:
            assert await until_closed(client) == [close(4501)]

    await asyncio.gather(*map(refuses, refused))
    for request in (
        handshake(f"/broken?token={BEARER}", cookie=signed_in, headers=[BEARER_HEADER]),
        f"POST /publish?token={BEARER}",
        f"GET /nowhere?token={BEARER}",
        f"GET /metrics?token={METRICS_TOKEN}",
        f"POST /drain?token={METRICS_TOKEN}",
    ):
        reply = await ask(site.port, request)
        assert reply.status >= 400
        assert CANARY not in reply.head
        assert CANARY.encode() not in reply.body
    begun = b'{"type":"auth","token":"' + BEARER.encode()
    for message in (begun, begun * 3 + b'"}', begun.replace(b'"', b"'") + b"'}", begun + 8000 * b"x" + b'canary"}'):
        async with socket_of(site.port, "/first") as client:
            await client.send(frame(TEXT, message))
            assert await until_closed(client) == [close(4501)]


async def is_served(site: Target) -> None:
    """The same secrets, where they belong."""
    signed_in, topic = cookie("alice"), new_topic()
    async with (
        socket_of(site.port, f"/site?topic={topic}", cookie=signed_in, v1=True) as browser,
        socket_of(site.port, "/site", headers=[BEARER_HEADER], origins=[]) as program,
        socket_of(site.port, "/first") as late,
    ):
        await late.send(json_frame({"type": "auth", "token": BEARER}))
        await program.send(json_frame({"hello": 1}))
        assert json_of(await program.answer()) == {"echo": {"hello": 1}}
        await browser.send(json_frame({"type": "message", "message": {"hello": 2}}))
        assert json_of(await browser.answer())["message"] == {"echo": {"hello": 2}}


async def is_degraded(site: Target, reason: str) -> None:
    """Wait until readiness gives this reason."""
    deadline = time.monotonic() + 2 * WAIT_S
    while f'"{reason}"'.encode() not in (reply := await ask(site.port, "GET /readyz")).body:
        assert time.monotonic() < deadline, (reply, site.log[-3000:])
        await asyncio.sleep(0.05)
    assert reply.status == 200


async def test_no_secret_is_written_or_shown_anywhere(talkative: list[Target]) -> None:
    for site in talkative:
        await site.ready()
    await asyncio.gather(*map(keeps_its_secrets, talkative))


async def keeps_its_secrets(site: Target) -> None:
    await is_served(site)
    await tries_everything(site)
    found = {path: await ask(site.port, f"GET {path}") for path in ("/readyz", "/livez", "/look")}
    token = f"Authorization: Bearer {METRICS_TOKEN}\r\nCookie: session={cookie('alice')}"
    for path in ("/metrics", "/everything"):
        request = f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}\r\n\r\n"
        found[path] = await ask(site.port, request.encode())
    assert {path: reply.status for path, reply in found.items()} == dict.fromkeys(found, 200)
    shown = {path: reply.body.decode() for path, reply in found.items()}
    assert {path for path, text in shown.items() if CANARY in text} == set()
    assert "antiphon_connects_total" in shown["/metrics"]
    assert "WebSocketManager" in shown["/everything"]
    for word in ("127.0.0.1", "redis", str(site.broker.port), "0.1.0"):
        assert word not in shown["/readyz"]
    # There was something to hide, and the lines themselves were kept.
    assert "/site?token=***" in site.log
    assert "LookupError: nothing for" in site.log
    assert site.secrets() == []

    # The broker takes the password no longer: everything that is told about that.
    with redis.Redis(port=site.broker.port, password=credentials.BROKER_PASSWORD, socket_timeout=WAIT_S) as admin:
        admin.config_set("requirepass", "another")
        admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    await is_degraded(site, "authentication")
    await site.until(lambda: "now (authentication): " in site.log or "degraded (authentication): " in site.log)
    site.broker.kill()
    await is_degraded(site, "unreachable")
    shown = {path: (await ask(site.port, f"GET {path}")).body.decode() for path in ("/readyz", "/everything")}
    assert {path for path, text in shown.items() if CANARY in text} == set()
    assert site.secrets() == []


async def test_session_in_the_address_is_no_sign_in(site: Target) -> None:
    """Wherever it stands there: only a ticket may, and that is no session."""
    good, topic = cookie("alice"), new_topic()
    queries = [
        f"token={BEARER}",
        f"session={good}",
        f"ticket={good}",
        f"ticket={BEARER}",
        f"authorization=Bearer%20{BEARER}",
    ]

    async def tries(query: str) -> list[object]:
        async with handshaken(site.port, handshake(f"/site?topic={topic}&{query}")) as client:
            return list(await until_closed(client))

    async with site.nothing_gained("site", topic):
        assert await asyncio.gather(*map(tries, queries)) == [[close(4501)]] * len(queries)

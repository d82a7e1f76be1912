"""Attacks of the same kinds that nobody has listed: tickets, other people's places, handshakes that are left alone."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack

from tests.attacks.attacker import (
    HOST,
    ask,
    handshake,
    handshaken,
    json_frame,
    json_of,
    opened,
    socket_of,
    subscribe,
    until_closed,
)
from tests.attacks.credentials import cookie
from tests.attacks.target import Target, Way
from tests.transports.raw_client import TEXT, Answer, close, frame
from tests.transports.servers import WAIT_S

PER_USER = 64
ODD_JSON = {
    "a number of 60,000 digits": b'{"type":"message","message":%s}' % (b"1" * 60_000),
    "a ref of 60,000 digits": b'{"type":"ping","ref":%s}' % (b"1" * 60_000),
    "infinity": b'{"type":"message","message":1e999}',
    "not a number": b'{"type":"message","message":NaN}',
    "65 levels": b'{"type":"message","message":%s%s}' % (b"[" * 65, b"]" * 65),
    "30,000 levels": b"[" * 30_000,
    "a byte order mark": b'\xef\xbb\xbf{"type":"ping"}',
    "half a surrogate pair": b'{"type":"message","message":"\\ud800"}',
    "a ref that is no integer": b'{"type":"ping","ref":1.0}',
    "a type of 60,000 characters": b'{"type":"%s"}' % (b"x" * 60_000),
}


async def first_answer(site: Target, request: bytes) -> Answer | None:
    """What the server says first after it has accepted the handshake."""
    async with handshaken(site.port, request) as client:
        assert client.status == 101
        return await client.answer()


async def ticket(site: Target, *, origin: str = f"https://{HOST}") -> tuple[int, str]:
    head = f"POST /ticket HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\nContent-Length: 0\r\nOrigin: {origin}\r\n"
    reply = await ask(site.port, f"{head}Cookie: session={cookie('alice')}\r\n\r\n".encode())
    return reply.status, json.loads(reply.body)["ticket"] if reply.status == 200 else ""


async def test_ticket_is_good_for_one_of_many_who_try_it_at_once(site: Target) -> None:
    assert await ticket(site, origin="https://evil.example") == (403, "")
    _, found = await ticket(site)
    path = f"/site?ticket={found}&topic=user:alice"
    answers = await asyncio.gather(*(first_answer(site, handshake(path, v1=True)) for _ in range(30)))
    assert sorted(answer.kind for answer in answers if answer is not None) == ["close"] * 29 + ["text"]
    assert answers.count(close(4501)) == 29


async def test_ticket_is_nobody_elses(site: Target) -> None:
    _, found = await ticket(site)
    path = f"/site?ticket={found}&topic=user:alice"
    assert await first_answer(site, handshake(path, cookie=cookie("mallory"))) == close(4503)
    assert await first_answer(site, handshake(f"{path}&ticket={found}")) == close(4501)
    assert await first_answer(site, handshake(f"/site?ticket={found}&user_id=bob")) == close(4501)
    _, found = await ticket(site)
    assert await first_answer(site, handshake(f"/site?ticket={found}", origins=[])) == close(4501)


async def test_places_of_a_user_are_not_taken_by_others_or_by_handshakes_that_were_left(site: Target) -> None:
    """What a client claims to be counts for nothing, and who has gone is not counted."""

    async def leaves(number: int) -> None:
        async with opened(site.port) as client:
            await client.send(handshake("/slow?topic=user:victim", cookie=cookie("victim")))
            await asyncio.sleep(number / 1000)  # the session table takes 0.1 s

    claim = handshake("/slow?user_id=victim", cookie=cookie("mallory"))
    claims = (first_answer(site, claim) for _ in range(2 * PER_USER))
    refused, _ = await asyncio.gather(asyncio.gather(*claims), asyncio.gather(*map(leaves, range(2 * PER_USER))))
    assert set(refused) == {close(4501)}
    async with asyncio.timeout(WAIT_S):
        while (await site.look())["connections"]["slow"]:
            await asyncio.sleep(0.02)
    async with AsyncExitStack() as stack:
        sockets = (socket_of(site.port, "/slow", cookie=cookie("victim"), v1=True) for _ in range(PER_USER))
        await asyncio.gather(*map(stack.enter_async_context, sockets))
        request = handshake("/slow", cookie=cookie("victim"), v1=True)
        assert await first_answer(site, request) == close(4504)


async def test_topics_of_clients_that_leave_while_they_ask_are_heard_no_longer(targets: dict[Way, Target]) -> None:
    async def leaves(site: Target, number: int) -> None:
        async with socket_of(site.port, cookie=cookie("alice"), v1=True) as client:
            await client.send(b"".join(subscribe(f"public:left-{number}-{each}") for each in range(20)))

    await asyncio.gather(*(leaves(site, number) for site in targets.values() for number in range(10)))
    everywhere = list(targets.values())
    await everywhere[0].until(lambda: not any("left-" in name for site in everywhere for name in site.subscribed()))


async def test_odd_json_is_answered_and_costs_nothing(site: Target) -> None:
    async with socket_of(site.port, cookie=cookie("alice"), v1=True) as client:
        cpu_s = site.cpu_s
        for name, content in ODD_JSON.items():
            await client.send(frame(TEXT, content) + json_frame({"type": "ping", "ref": 99}))
            answer = json_of(await client.answer())
            assert (name, answer["type"]) == (name, "error")
            assert answer["code"] in {"bad_request", "unsupported"}
            assert len(json.dumps(answer)) < 200
            assert json_of(await client.answer()) == {"type": "pong", "ref": 99}
        assert site.cpu_s - cpu_s < 1.5


async def test_messages_of_a_client_that_is_refused_reach_nobody(site: Target) -> None:
    content = {"hello": "from a stranger"}
    async with handshaken(site.port, handshake("/site")) as client:
        await client.send(json_frame(content) * 5)
        assert await until_closed(client) == [close(4501)]
    assert content not in (await site.look())["heard"]

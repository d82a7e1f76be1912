"""S05, S06: credentials that are missing, old, made up or somebody else's, and first messages that do not come."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from tests.attacks.app import LOOKUP_S, REFUSAL_S
from tests.attacks.attacker import handshake, handshaken, json_frame, json_of, new_topic, socket_of, until_closed
from tests.attacks.credentials import BEARER, cookie
from tests.attacks.target import Target, Way
from tests.transports.raw_client import TEXT, RawClient, close, frame
from tests.transports.servers import WAIT_S

MIB = 1024 * 1024
NOT_SIGNED_IN = 'antiphon_refused_handshakes_total{reason="not_signed_in"}'
AUTH = {"type": "auth", "token": BEARER}

BAD: dict[str, tuple[str, str | None]] = {
    "none": ("", None),
    "empty": ("", ""),
    "expired": ("", cookie("alice", lifetime_s=-1)),
    "expired long ago": ("", cookie("alice", lifetime_s=-100_000)),
    "forged": ("", cookie("alice", key=b"another key")),
    "cut short": ("", cookie("alice")[:-1]),
    "no signature at all": ("", "alice.s1.9999999999."),
    "another user's id before one's own signature": ("", cookie("mallory", as_user="alice")),
    "one's own cookie, and another user's id in the address": ("&user_id=alice", cookie("mallory")),
    "a session in the address": (f"&session={cookie('alice')}&token={cookie('alice')}", None),
}
ROUNDS = 5


class Refusal:
    """How a client was refused: what it saw, and after what time."""

    def __init__(self) -> None:
        self.seen: set[tuple[object, ...]] = set()
        self.times_s: list[float] = []

    async def happens(self, site: Target, path: str, value: str | None) -> None:
        request = handshake(path, cookie=value, v1=True)
        begun = time.monotonic()
        async with handshaken(site.port, request) as client:
            head = [(name, field) for name, field in client.pairs() if name != "date"]
            answers = await until_closed(client)
            self.times_s.append(time.monotonic() - begun)
            self.seen.add((client.status, tuple(sorted(head)), tuple(answers)))


async def test_nobody_can_tell_what_was_wrong_with_the_credentials(site: Target, figures: list[str]) -> None:
    """The session table takes 0.1 s for sessions that are in it, which would tell if the answers came at once."""
    topic, refusals = new_topic(), {name: Refusal() for name in BAD}
    async with site.nothing_gained("slow", topic) as grown:
        for _ in range(ROUNDS):
            await asyncio.gather(
                *(
                    refusals[name].happens(site, f"/slow?topic={topic}{query}", value)
                    for name, (query, value) in BAD.items()
                )
            )
    assert grown[NOT_SIGNED_IN] == len(BAD) * ROUNDS
    seen = set().union(*(refusal.seen for refusal in refusals.values()))
    assert len(seen) == 1, seen
    assert next(iter(seen))[2] == (close(4501),)
    medians = {name: statistics.median(refusal.times_s) for name, refusal in refusals.items()}
    spread_s = max(medians.values()) - min(medians.values())
    figures.append(f"S05 {site.way}: medians of the refusals lie within {spread_s * 1000:.1f} ms (target 20, gate 60)")
    assert LOOKUP_S > 0.06
    assert spread_s < 0.06, medians
    assert min(medians.values()) >= REFUSAL_S / 2


async def silent(client: RawClient) -> None:
    """Says nothing."""


async def byte_by_byte(client: RawClient) -> None:
    """Too slow by far, and never silent."""
    for byte in json_frame({**AUTH, "x": "x" * 100}):
        if not await client.send(bytes((byte,))):
            return
        await asyncio.sleep(0.1)


async def half_a_frame(client: RawClient) -> None:
    await client.send(json_frame(AUTH)[:-1])


async def fragments_without_end(client: RawClient) -> None:
    await client.send(frame(TEXT, b'{"type":"auth","token":"', fin=False))


OTHER_MESSAGES = {
    "a subscription": json_frame({"type": "subscribe", "topic": "public:1", "ref": 1}),
    "a wrong token": json_frame({"type": "auth", "token": "x"}),
    "an empty token": json_frame({"type": "auth", "token": ""}),
    "a token that is no text": json_frame({"type": "auth", "token": {"$ne": ""}}),
    "two tokens, the good one first": frame(TEXT, f'{{"type":"auth","token":"{BEARER}","token":"x"}}'.encode()),
    "two types": frame(TEXT, f'{{"type":"auth","type":"ping","token":"{BEARER}"}}'.encode()),
    "a token in a list": json_frame([AUTH]),
    "no JSON": frame(TEXT, b"auth"),
    "nothing": frame(TEXT, b""),
    "20 KiB": json_frame({**AUTH, "x": "x" * 20_000}),
    "something else, the token behind it": json_frame({"type": "ping"}) + json_frame(AUTH),
}


async def test_first_message_that_is_not_there_after_five_seconds_ends_the_connection(
    targets: dict[Way, Target], figures: list[str]
) -> None:
    async def waits(site: Target, path: str, limit_s: float) -> None:
        async with socket_of(site.port, path) as client:
            begun = time.monotonic()
            assert await until_closed(client) == [close(4501)]
            passed_s = time.monotonic() - begun
            figures.append(f"S06 {site.way}: silence ended after {passed_s:.2f} s ({path}, {limit_s:g} s)")
            assert limit_s - 0.3 <= passed_s <= limit_s + 4.5

    async with asyncio.timeout(2 * WAIT_S):
        await asyncio.gather(*(waits(site, "/first-default", 5.0) for site in targets.values()))


async def test_first_message_that_takes_its_time_ends_the_connection(site: Target) -> None:
    async def happens(attack: Callable[[RawClient], Awaitable[None]]) -> None:
        async with socket_of(site.port, f"/first?topic={topic}") as client:
            sending = asyncio.ensure_future(attack(client))
            assert await client.answer() == close(4501)
            sending.cancel()  # nobody could find an answer to the close frame behind what is not whole
            await asyncio.wait([sending])

    topic, attacks = new_topic(), (silent, byte_by_byte, half_a_frame, fragments_without_end)
    async with site.nothing_gained("first", topic) as grown:
        await asyncio.gather(*map(happens, attacks))
    assert grown[NOT_SIGNED_IN] == len(attacks)


async def test_first_message_that_is_another_one_ends_the_connection(site: Target) -> None:
    async def sends(message: bytes) -> list[object]:
        async with socket_of(site.port, f"/first?topic={topic}") as client:
            await client.send(message)
            return list(await until_closed(client))

    topic = new_topic()
    async with site.nothing_gained("first", topic, "1") as grown:
        found = await asyncio.gather(*map(sends, OTHER_MESSAGES.values()))
    codes = dict(zip(OTHER_MESSAGES, found, strict=True))
    # Where the library reads the bytes, it is not even taken in.
    assert codes.pop("20 KiB") == [close(1009)]
    assert codes == {name: [close(4501)] for name in codes}
    assert grown[NOT_SIGNED_IN] >= len(codes)


@pytest.mark.parametrize("way", ["install", "protocol"])
async def test_clients_that_have_not_signed_in_make_nobody_keep_what_they_send(
    site: Target, figures: list[str]
) -> None:
    """Elsewhere the server's own limit is the bound, as `uvicorn --ws-max-size`."""
    begun = frame(TEXT, b"x" * 4 * MIB)[:-1]
    await stranger(site, begun)
    before = site.memory_bytes
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(socket_of(site.port, "/first-default")) for _ in range(10)]
        sending = [asyncio.ensure_future(client.send(begun)) for client in clients]
        assert [await client.answer() for client in clients] == [close(1009)] * len(clients)
        rise = site.memory_bytes - before
        for each in sending:
            each.cancel()
        await asyncio.wait(sending)
    figures.append(f"S06 {site.way}: {len(clients)} half messages of 4 MiB took {rise / MIB:.1f} MiB")
    assert rise < 10 * MIB


async def stranger(site: Target, data: bytes) -> None:
    async with socket_of(site.port, "/first-default") as client:
        sending = asyncio.ensure_future(client.send(data))
        assert await client.answer() == close(1009)
        sending.cancel()
        await asyncio.wait([sending])


async def test_first_message_lets_in_and_is_taken_once(site: Target) -> None:
    async with socket_of(site.port, "/first?topic=user:report", v1=True) as client:
        await client.send(json_frame(AUTH))
        assert json_of(await client.answer())["topics"] == ["user:report"]
        await client.send(json_frame({**AUTH, "ref": 2}))
        assert json_of(await client.answer())["code"] == "unsupported"

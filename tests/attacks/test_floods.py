"""S20: more than a server wants to hear, from one client, beside clients that behave."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Self

import pytest

from tests.attacks.attacker import json_frame, json_of, new_topic, socket_of, subscribe
from tests.attacks.credentials import cookie
from tests.attacks.target import WAYS, Target, Way
from tests.transports.raw_client import CONTINUATION, PING, PONG, TEXT, Answer, RawClient, close, frame

TOO_FAST = 'antiphon_refused_messages_total{channel="site",reason="too_fast"}'
ENDED = 'antiphon_ended_connections_total{channel="site",reason="TOO_FAST"}'
TINY = 6
TINY_FRAMES = 1024 * 1024 // TINY
OTHERS = 5
FACTOR = 2
"""How much later the latest hundredth of the answers to others may be than in calm; three times that as a gate."""
WAIT_S: dict[Way, float] = {"asgi": 10.0, "install": 2.0, "protocol": 2.0}
"""And so much later at least, on whatever machine. A server's own way reads all that has come, before anybody else is
heard: what a mebibyte of tiny frames costs it, others wait for.
"""
CPU_SHARE, CPU_SLACK_S = 0.3, 1.0
"""What of a processor an attack may take from the server; three times that as a gate, and what a short one may cost."""

Beside = Callable[[str], AbstractAsyncContextManager[None]]


class Others:
    """Clients that say something now and then, and expect an answer."""

    def __init__(self, site: Target) -> None:
        self.times_s: list[float] = []
        self._done = asyncio.Event()
        self._behaving = [asyncio.create_task(self._behave(site, number)) for number in range(OTHERS)]

    async def _behave(self, site: Target, number: int) -> None:
        async with socket_of(site.port, cookie=cookie(f"other{number}"), v1=True) as client:
            while not self._done.is_set():
                begun = time.monotonic()
                await client.send(json_frame({"type": "ping", "ref": 7}))
                assert json_of(await client.answer()) == {"type": "pong", "ref": 7}
                self.times_s.append(time.monotonic() - begun)
                await asyncio.sleep(0.02)

    async def latest_s(self, count: int) -> float:
        """How late the latest hundredth of the answers was, of those since the last time and at least `count`."""
        while len(self.times_s) < count:
            await asyncio.sleep(0.01)
            assert not any(task.done() for task in self._behaving), [task for task in self._behaving if task.done()]
        found, self.times_s = sorted(self.times_s), []
        return found[int(0.99 * len(found))]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._done.set()
        await asyncio.gather(*self._behaving)


@pytest.fixture
def beside(site: Target, targets: dict[Way, Target], figures: list[str]) -> Beside:
    """`async with beside("an attack"):` others are served while the block runs, and the server spends little on it."""
    return partial(beside_others, site, targets[WAYS[WAYS.index(site.way) - 1]], figures)


@asynccontextmanager
async def beside_others(site: Target, elsewhere: Target, figures: list[str], attack: str) -> AsyncIterator[None]:
    """What those at another server see meanwhile is the machine's doing, and not the attack's."""
    async with Others(site) as here, Others(elsewhere) as there:
        calm_s, _ = [await others.latest_s(10 * OTHERS) for others in (here, there)]
        cpu_s, begun = site.cpu_s, time.monotonic()
        yield
        passed_s, cpu_s = time.monotonic() - begun, site.cpu_s - cpu_s
        latest_s, elsewhere_s = [await others.latest_s(2 * OTHERS) for others in (here, there)]
    usual_s = max(calm_s, elsewhere_s)
    gate_s = max(3 * FACTOR * usual_s, usual_s + WAIT_S[site.way])
    figures.append(
        f"S20 {site.way}, {attack}: {cpu_s:.2f} s CPU in {passed_s:.2f} s; others, p99: {latest_s * 1000:.1f} ms, "
        f"without it {usual_s * 1000:.1f} (target {FACTOR} x, gate {gate_s * 1000:.0f} ms)"
    )
    assert latest_s <= gate_s
    assert cpu_s <= 3 * CPU_SHARE * passed_s + CPU_SLACK_S


async def flood(client: RawClient, parts: Iterable[bytes], *, per_s: float | None = None) -> Counter[str | Answer]:
    """Send until the server has enough; returns what it said: codes of errors, other types, close frames."""
    heard: Counter[str | Answer] = Counter()

    async def read() -> None:
        while (answer := await client.answer()) is not None:
            if answer.kind != "text":
                heard[answer.kind if answer.kind != "close" else answer] += 1
                if answer.kind == "close":
                    return
            else:
                content = json_of(answer)
                heard[content["code"] if content["type"] == "error" else content["type"]] += 1

    reading = asyncio.create_task(read())
    begun = time.monotonic()
    for number, part in enumerate(parts):
        if reading.done() or not await client.send(part):
            break
        if per_s is not None:
            await asyncio.sleep(begun + number / per_s - time.monotonic())
    await reading
    return heard


async def test_five_hundred_messages_a_second_are_refused_and_then_ended(site: Target, beside: Beside) -> None:
    before = await site.metrics()
    async with (
        beside("500 messages/s"),
        socket_of(site.port, cookie=cookie("eve"), v1=True) as eve,
    ):
        messages = (json_frame({"type": "message", "message": {"n": n}}) for n in range(5000))
        heard = await flood(eve, messages, per_s=500)
    after = await site.metrics()
    assert heard[close(4505)] == 1
    assert heard["too_fast"] >= 150
    assert after[TOO_FAST] - before.get(TOO_FAST, 0) >= heard["too_fast"]
    assert after[ENDED] - before.get(ENDED, 0) == 1


async def test_a_thousand_subscribes_a_second_are_refused_and_then_ended(site: Target, beside: Beside) -> None:
    before = await site.metrics()
    async with (
        beside("1,000 subscribes/s"),
        socket_of(site.port, cookie=cookie("eve"), v1=True) as eve,
    ):
        subscribes = site.subscribes()
        heard = await flood(eve, (subscribe(new_topic(), ref=n) for n in range(10_000)), per_s=1000)
    after = await site.metrics()
    assert heard[close(4505)] == 1
    assert heard["too_fast"] >= 150
    assert heard["subscribed"] <= 128
    assert site.subscribes() - subscribes <= 128
    assert after[ENDED] - before.get(ENDED, 0) == 1


async def test_subscribing_and_unsubscribing_in_turn_costs_the_broker_little(site: Target, beside: Beside) -> None:
    """Each within the rate of messages, so that nothing but the rate of subscriptions holds it back."""
    topics = [new_topic() for _ in range(400)]
    pairs = (subscribe(topic) + json_frame({"type": "unsubscribe", "topic": topic}) for topic in topics)
    subscribes = site.subscribes()
    async with (
        beside("subscribe and unsubscribe"),
        socket_of(site.port, cookie=cookie("eve"), v1=True) as eve,
    ):
        heard = await flood(eve, pairs, per_s=500)
    assert heard[close(4505)] == 1
    assert site.subscribes() - subscribes <= 256 + 100


@pytest.mark.parametrize("v1", [True, False])
async def test_empty_messages_are_refused_and_then_ended(site: Target, beside: Beside, v1: bool) -> None:
    """A mebibyte of them."""
    before = await site.metrics()
    data = frame(TEXT) * TINY_FRAMES
    assert len(data) == TINY * TINY_FRAMES
    async with (
        beside(f"1 MiB of empty messages{', v1' if v1 else ''}"),
        socket_of(site.port, cookie=cookie("eve"), v1=v1) as eve,
    ):
        heard = await flood(eve, [data])
    after = await site.metrics()
    assert heard[close(4505)] == 1
    assert set(heard) <= {close(4505), "too_fast", "bad_request"}
    assert heard["too_fast"] >= 150
    assert after[ENDED] - before.get(ENDED, 0) == 1


CONTROL_FRAMES = {
    "10,000 pings": [frame(PING, b"ping")] * 10_000,
    "1 MiB of empty pings": [frame(PING) * TINY_FRAMES],
    "1 MiB of empty pongs": [frame(PONG) * TINY_FRAMES],
    "1 MiB of empty fragments": [frame(TEXT, b"{", fin=False) + frame(CONTINUATION, fin=False) * TINY_FRAMES],
}


@pytest.mark.parametrize("name", CONTROL_FRAMES)
@pytest.mark.parametrize("way", ["install", "protocol"])
async def test_tiny_frames_below_the_messages_end_the_connection(site: Target, beside: Beside, name: str) -> None:
    """Where the library reads the bytes. Elsewhere they are the server's, and never come here."""
    async with beside(name), socket_of(site.port, cookie=cookie("eve"), v1=True) as eve:
        heard = await flood(eve, CONTROL_FRAMES[name])
    assert heard[close(4505)] + heard[close(1009)] == 1
    assert heard["pong"] < 5000
    assert site.alive


@pytest.mark.parametrize("way", ["asgi"])
async def test_pings_that_the_server_answers_itself_hold_up_nobody(site: Target, beside: Beside) -> None:
    async with beside("10,000 pings"), socket_of(site.port, cookie=cookie("eve"), v1=True) as eve:
        sending = asyncio.create_task(eve.send(frame(PING, b"ping") * 10_000 + json_frame({"type": "ping", "ref": 1})))
        answers = [await eve.answer()]
        while answers[-1] is not None and answers[-1].kind == "pong":
            answers.append(await eve.answer())
        assert json_of(answers[-1]) == {"type": "pong", "ref": 1}
        assert await sending


async def test_honest_use_of_everything_is_not_held_back(site: Target) -> None:
    """A page that comes back: 100 topics, 50 messages and some pings at once, and again after a while."""
    async with socket_of(site.port, cookie=cookie("alice"), v1=True) as client:
        for _ in range(2):
            data = b"".join(subscribe(new_topic(), ref=n) for n in range(60))
            data += json_frame({"type": "message", "message": {}}) * 30 + frame(PING, b"x") * 10
            await client.send(data)
            kinds = Counter(
                json_of(answer)["type"] if answer is not None and answer.kind == "text" else str(answer)
                for answer in [await client.answer() for _ in range(100)]
            )
            assert kinds["subscribed"] == 60
            assert kinds["message"] + kinds["error"] + kinds["echo"] == 30, kinds
            assert kinds["error"] == 0

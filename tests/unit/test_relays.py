"""Who shares a relay, and the stand-in where there is no broker."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from antiphon import relays
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import Reason, State
from antiphon.ledger import Outcome
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication, new_publication
from antiphon.relays import LocalRelay, Shared
from antiphon.settings import Timings
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire.envelope import Envelope
from tests.unit.browsers import until

pytestmark = pytest.mark.virtual_time


def acquire(
    broker: MemoryBroker | None, *, key: object = "k", timings: Timings | None = None, messages: int = 1_000
) -> Shared:
    limits = OutboxLimits(messages=messages)
    return relays.acquire(broker, key=key, timings=timings or Timings(), outbox_limits=limits)


def publication(text: str, *, topic: str | None = None) -> Publication:
    return new_publication(text, sender="r", channel="c", topic=topic, limit_bytes=1_000)


class Ear:
    def __init__(self) -> None:
        self.texts: list[str] = []

    def listener(self, publication: Publication) -> int:
        self.texts.append(publication.frame.text)
        return 2


async def test_the_same_key_and_settings_share_a_relay_until_the_last_one_gives_it_back() -> None:
    server = MemoryServer()
    one, other = acquire(MemoryBroker(server)), acquire(MemoryBroker(server), timings=Timings())
    assert one is other
    await until(lambda: one.relay.state is State.UP)
    assert server.connections == 2
    await relays.release(one)
    assert one.relay.state is State.UP
    await relays.release(other)

    assert (one.relay.state, server.connections) == (State.CLOSED, 0)


async def test_a_new_relay_is_made_when_the_last_one_was_given_back() -> None:
    broker = MemoryBroker()
    first = acquire(broker)
    await relays.release(first)
    second = acquire(broker)
    await until(lambda: second.relay.state is State.UP)
    await relays.release(second)

    assert first is not second


async def test_a_new_relay_is_made_when_the_last_one_is_just_being_closed() -> None:
    broker = MemoryBroker()
    first = acquire(broker)
    await until(lambda: first.relay.state is State.UP)
    closing = asyncio.create_task(relays.release(first))
    await asyncio.sleep(0)
    second = acquire(broker)
    await closing
    await until(lambda: second.relay.state is State.UP)
    await relays.release(second)

    assert broker.server.connections == 0


async def test_other_keys_timings_or_limits_have_relays_of_their_own() -> None:
    broker = MemoryBroker()
    shared = [
        acquire(broker),
        acquire(broker, key="other"),
        acquire(broker, timings=Timings(dead_after_s=5)),
        acquire(broker, messages=5),
    ]
    assert len({id(each) for each in shared}) == 4
    for each in shared:
        await relays.release(each)

    assert broker.server.connections == 0


def test_another_loop_has_a_relay_of_its_own_and_an_ended_one_is_forgotten() -> None:
    loops: list[weakref.ref[asyncio.AbstractEventLoop]] = []

    async def leave_one_behind() -> Shared:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return acquire(None)

    first = asyncio.run(leave_one_behind())
    second = asyncio.run(leave_one_behind())
    assert first is not second
    del first, second

    async def end() -> None:
        await relays.release(acquire(None))

    asyncio.run(end())
    gc.collect()
    assert [loop() for loop in loops] == [None, None]


async def test_the_stand_in_delivers_here_at_once_and_says_why() -> None:
    relay, ear = LocalRelay(), Ear()
    relay.listen("c", None, ear.listener)
    relay.listen("c", "t", ear.listener)
    await relay.ready()
    assert await relay.heard("c")
    outcomes = [
        relay.publish(publication("all"), fail=False, keep=True),
        relay.publish(publication("topic", topic="t"), fail=True, keep=False),
        relay.publish(publication("nobody", topic="u"), fail=True, keep=True),
    ]

    assert ear.texts == ["all", "topic"]
    assert outcomes == [Outcome(False, None, count, False, Reason.NO_BROKER) for count in (2, 2, 0)]
    assert (relay.state, relay.reason, relay.stats()) == (State.LOCAL, Reason.NO_BROKER, None)


async def test_the_stand_in_forgets_a_listener_at_once() -> None:
    relay, ear = LocalRelay(), Ear()
    for _ in range(2):
        relay.listen("c", None, ear.listener)
    relay.unlisten("c", None, ear.listener)
    relay.publish(publication("1"), fail=False, keep=True)
    relay.unlisten("c", None, ear.listener)
    relay.publish(publication("2"), fail=False, keep=True)

    assert ear.texts == ["1"]


async def test_the_stand_in_is_closed_once() -> None:
    relay = LocalRelay()
    relay.start()
    await relay.first_dial()
    for _ in range(2):
        await relay.close()

    assert (relay.state, relay.reason) == (State.CLOSED, Reason.CLOSED)


async def test_the_stand_in_hears_its_own_control_messages() -> None:
    relay = LocalRelay()
    got: list[str | None] = []
    relay.on_control("ask", lambda envelope: got.append(envelope.sender))
    for route in (CONTROL_ROUTE, replica_route(relay.replica)):
        told = relay.tell(route, Envelope(id=None, payload=b"{}", sender=relay.replica, kind="ask"))
        assert told is not None
        assert await told == 1
    relay.tell(CONTROL_ROUTE, Envelope(id=None, payload=b"{}", sender=relay.replica, kind="unknown"))

    assert got == [relay.replica, relay.replica]

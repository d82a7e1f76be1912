"""Who shares a relay, and the stand-in where there is no broker."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from antiphon import relays
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import Reason, State
from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.ledger import Outcome
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication, new_publication
from antiphon.relays import LocalRelay, Shared
from antiphon.settings import Timings
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire.envelope import Envelope
from antiphon.wire.frames import Frame
from tests.unit.browsers import until
from tests.unit.lanes import NotedLane, NotedTransport

pytestmark = pytest.mark.virtual_time


def acquire(
    broker: MemoryBroker | None, *, key: object = "k", timings: Timings | None = None, messages: int = 1_000
) -> Shared:
    limits = OutboxLimits(messages=messages)
    return relays.acquire(broker, key=key, timings=timings or Timings(), outbox_limits=limits)


def publication(text: str, *, topic: str | None = None) -> Publication:
    return new_publication(text, sender="r", channel="c", topic=topic, limit_bytes=1_000)


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


def enter(hub: Hub, *topics: str) -> NotedTransport:
    transport = NotedTransport(NotedLane())
    connection = Connection(f"c{len(hub)}", user_id=None, transport=transport)
    hub.add(connection)
    for topic in topics:
        hub.subscribe(connection, topic)
    return transport


async def test_the_stand_in_delivers_here_at_once_and_says_why() -> None:
    relay, hub, other = LocalRelay(), Hub("c"), Hub("other")
    for each in (hub, other):
        relay.join(each)
    one, two, elsewhere = enter(hub, "t"), enter(hub), enter(other, "t")
    await relay.ready()
    assert await relay.heard("c")
    outcomes = [
        relay.publish(publication("all"), fail=False, keep=True),
        relay.publish(publication("topic", topic="t"), fail=True, keep=False),
        relay.publish(publication("nobody", topic="u"), fail=True, keep=True),
    ]

    assert (one.texts, two.texts, elsewhere.texts) == (["all", "topic"], ["all"], [])
    assert outcomes == [Outcome(False, None, count, False, Reason.NO_BROKER) for count in (2, 1, 0)]
    assert (relay.state, relay.reason, relay.stats()) == (State.LOCAL, Reason.NO_BROKER, None)


async def test_the_stand_in_forgets_a_hub_at_once() -> None:
    relay, first, second = LocalRelay(), Hub("c"), Hub("c")
    assert relay.join(first) == [first]
    assert relay.join(second) == [first, second]
    one, two = enter(first), enter(second)
    relay.publish(publication("1"), fail=False, keep=True)
    relay.leave(first)
    relay.publish(publication("2"), fail=False, keep=True)
    relay.leave(second)
    relay.publish(publication("3"), fail=False, keep=True)

    assert (one.texts, two.texts) == (["1"], ["1", "2"])


async def test_the_stand_in_delivers_to_the_other_hubs_when_one_fails(caplog: pytest.LogCaptureFixture) -> None:
    relay, broken, sound = LocalRelay(), Hub("c"), Hub("c")
    for hub in (broken, sound):
        relay.join(hub)
    transport = enter(sound)

    class Broken(NotedTransport):
        def send(self, frame: Frame) -> None:
            raise ValueError("a defect")

    broken.add(Connection("b", user_id=None, transport=Broken(NotedLane())))
    outcome = relay.publish(publication("x"), fail=False, keep=True)

    assert outcome.connections == 1
    assert transport.texts == ["x"]
    assert "a defect" in caplog.text


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

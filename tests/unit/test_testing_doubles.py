"""The doubles that are shipped in antiphon.testing."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.brokers.base import Broker, Message, Pong, Subscribed, Unsubscribed
from antiphon.codes import Reason
from antiphon.errors import BrokerRefused, BrokerUnavailable
from antiphon.testing.broker_contract import BrokerContract
from antiphon.testing.doubles import ManualClock, RecordingLane, RecordingTransport
from antiphon.testing.scripted_broker import Asked, Fail, Hang, ScriptedBroker, Succeed
from antiphon.transports.base import Group, Lane, Transport
from antiphon.wire.frames import Frame

pytestmark = pytest.mark.virtual_time


def test_clock_stands_still_until_it_is_advanced() -> None:
    clock = ManualClock(5.0)
    assert (clock(), clock()) == (5.0, 5.0)
    clock.advance(0.5)
    assert clock() == 5.5
    with pytest.raises(ValueError, match="does not go back"):
        clock.advance(-1)


def test_doubles_are_what_the_hub_expects() -> None:
    lane: Lane = RecordingLane()
    group: Group = lane.group()
    transport: Transport = RecordingTransport()
    assert (len(group), transport.queued_bytes, lane.backlog_bytes) == (0, 0, 0)


def test_group_delivers_to_its_sockets_alone() -> None:
    lane = RecordingLane()
    inside, outside = lane.transport(), lane.transport()
    group = lane.group()
    group.add(inside)
    group.add(outside)
    group.discard(outside)
    group.discard(outside)
    group.deliver(Frame.json(b"hello"))
    assert (inside.texts, outside.texts, len(lane.delivered)) == (["hello"], [], 1)
    with pytest.raises(ValueError, match="another lane"):
        group.add(RecordingTransport())


def test_slow_socket_queues_until_it_catches_up() -> None:
    transport = RecordingTransport()
    transport.slow()
    transport.send(Frame.json(b"abc"))
    assert (transport.texts, transport.queued_bytes) == ([], 3)
    transport.catch_up()
    assert (transport.texts, transport.queued_bytes) == (["abc"], 0)


async def test_loss_is_told_once_and_from_the_event_loop() -> None:
    told: list[str] = []
    transport = RecordingTransport(on_lost=told.append)
    transport.lose()
    transport.lose("error")
    assert told == []
    await asyncio.sleep(0)
    assert told == ["gone"]
    transport.send(Frame.json(b"late"))
    assert transport.frames == []


async def test_close_is_recorded_behind_what_waits() -> None:
    told: list[str] = []
    transport = RecordingTransport(on_lost=told.append)
    transport.slow()
    transport.send(Frame.json(b"last"))
    transport.close(1000, "bye")
    transport.close(1011, "again")
    await asyncio.sleep(0)
    assert (transport.texts, transport.close_sent, told) == (["last"], (1000, "bye"), ["closed"])


async def test_detached_socket_tells_nobody() -> None:
    told: list[str] = []
    transport = RecordingTransport(on_lost=told.append)
    transport.detach()
    transport.lose()
    await asyncio.sleep(0)
    assert (told, transport.detached, transport.lost) == ([], True, True)


async def test_lane_has_no_room_while_it_is_crowded() -> None:
    lane = RecordingLane()
    await lane.room()
    lane.crowd(7)
    waiting = asyncio.ensure_future(lane.room())
    done, _ = await asyncio.wait([waiting], timeout=1)
    assert (done, lane.backlog_bytes) == (set(), 7)
    lane.clear()
    await waiting
    lane.close()
    assert lane.closed


async def test_scripted_broker_works_by_itself() -> None:
    broker = ScriptedBroker()
    assert isinstance(broker, Broker)
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    assert (await broker.listening(), await broker.publishing()) == (listening, publishing)
    listening.subscribe(["a", "b"])
    listening.unsubscribe(["b"])
    listening.ping(b"t")
    assert await listening.receive() == [Subscribed("a"), Subscribed("b"), Unsubscribed("b"), Pong(b"t")]
    assert listening.routes == {"a"}
    assert listening.asked[-1] == Asked("ping", "t")
    assert await publishing.publish("a", b"x") == 1
    await publishing.ping()
    assert (publishing.payloads, publishing.unanswered, broker.dials) == ([b"x"], [], 2)


async def test_dials_follow_the_script() -> None:
    broker = ScriptedBroker(Fail(BrokerUnavailable("gone"), after_s=2.0), Hang())
    broker.next_dials(Succeed(after_s=0.3))
    loop = asyncio.get_running_loop()
    with pytest.raises(BrokerUnavailable, match="gone"):
        await broker.open_listening()
    assert loop.time() == pytest.approx(2.0)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(10):
            await broker.open_publishing()
    assert broker.cancelled_dials == 1
    await broker.open_publishing()
    assert loop.time() == pytest.approx(12.3)
    await broker.open_publishing()
    assert (broker.dials, len(broker.open_publishings)) == (4, 2)


async def test_connections_are_waited_for() -> None:
    broker = ScriptedBroker()
    waiting = asyncio.gather(broker.listening(), broker.publishing())
    await asyncio.sleep(1)
    opened = (await broker.open_listening(), await broker.open_publishing())
    assert tuple(await waiting) == opened


async def test_silent_connections_answer_only_when_told() -> None:
    broker = ScriptedBroker()
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.confirms = listening.pongs = publishing.pongs = False
    publishing.answers = None
    listening.subscribe(["a"])
    listening.unsubscribe(["a"])
    listening.ping(b"t")
    listening.say(Message("a", b"x"))
    assert await listening.receive() == [Message("a", b"x")]
    first, second, ping = publishing.publish("a", b"1"), publishing.publish("a", b"2"), publishing.ping()
    publishing.unanswered[0].reply(5)
    publishing.unanswered[0].refuse(Reason.OUT_OF_MEMORY)
    assert await first == 5
    with pytest.raises(BrokerRefused) as refused:
        await second
    assert refused.value.reason is Reason.OUT_OF_MEMORY
    publishing.lose()
    with pytest.raises(BrokerUnavailable):
        await ping


async def test_lost_connections_end_everything() -> None:
    broker = ScriptedBroker()
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    publishing.answers = None
    answer = publishing.publish("a", b"x")
    listening.say(Message("a", b"last"))
    listening.lose()
    await publishing.close()
    await listening.close()
    assert await listening.receive() == [Message("a", b"last")]
    with pytest.raises(BrokerUnavailable) as lost:
        await listening.receive()
    assert lost.value.reason is Reason.CONNECTION_LOST
    for ended in (answer, publishing.publish("a", b"y"), publishing.ping()):
        with pytest.raises(BrokerUnavailable) as closed:
            await ended
        assert closed.value.reason is Reason.CLOSED
    assert (publishing.lost, publishing.closed, listening.closed) == (True, True, True)


async def test_listening_fails_with_the_given_error() -> None:
    listening = await ScriptedBroker().open_listening()
    listening.fail(BrokerRefused("no", reason=Reason.PERMISSION))
    with pytest.raises(BrokerRefused) as refused:
        await listening.receive()
    assert refused.value.reason is Reason.PERMISSION


async def test_contract_says_what_has_to_be_overridden() -> None:
    with pytest.raises(pytest.fail.Exception, match="override end_connections"):
        await BrokerContract().end_connections(ScriptedBroker())

"""Counting across replicas: what they answer, who does not, and estimates of many users."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.brokers.memory import MemoryBroker, MemoryListening
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.manager import WebSocketManager
from antiphon.presence import SKETCH_SIZE, ClusterCounts, count_distinct, sketch
from antiphon.topics import CONTROL_ROUTE
from antiphon.wire import codec
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from tests.unit.browsers import Browser, Fleet, settle, until
from tests.unit.lanes import NotedLane, NotedTransport

pytestmark = pytest.mark.virtual_time


async def silent_replica(fleet: Fleet) -> MemoryListening:
    """A replica that the broker still counts and that answers nothing: it was killed, and nobody has noticed yet."""
    listening = await MemoryBroker(fleet.server).open_listening()
    before = fleet.server.listeners(CONTROL_ROUTE)
    listening.subscribe([CONTROL_ROUTE])
    await until(lambda: fleet.server.listeners(CONTROL_ROUTE) == before + 1)
    return listening


# -- counts -----------------------------------------------------------------------------------------------------------


async def test_counts_are_those_of_all_replicas_whichever_is_asked() -> None:
    async with Fleet(3) as fleet:
        for replica, user in [(0, "1"), (0, "1"), (0, None), (1, "1"), (1, "2"), (2, "3")]:
            await fleet.join(replica, user)
        counts = [await manager.cluster_counts() for manager in fleet.managers]

        assert counts == [ClusterCounts(connections=6, users=3, replicas=3, complete=True)] * 3


async def test_counts_are_of_their_channel_alone() -> None:
    async with Fleet(2, channel="c") as fleet:
        await fleet.join(0, "1")
        other = WebSocketManager("d", broker=fleet.brokers[1])
        await other.connect(Browser().websocket, "9")
        await other.connect(Browser().websocket, "9")

        assert await fleet.managers[1].cluster_counts() == ClusterCounts(1, 1, 2, True)
        assert await other.cluster_counts() == ClusterCounts(2, 1, 2, True)
        await other.close()


async def test_counts_add_up_when_two_managers_of_a_replica_have_one_channel() -> None:
    async with Fleet(2) as fleet:
        await fleet.join(0, "1")
        twin = WebSocketManager("c", broker=fleet.brokers[0])
        for user in ("1", "2"):
            await twin.connect(Browser().websocket, user)

        assert await fleet.managers[1].cluster_counts() == ClusterCounts(3, 2, 2, True)
        await twin.close()


async def test_a_replica_that_was_closed_is_counted_no_more() -> None:
    async with Fleet(3) as fleet:
        for replica in range(3):
            await fleet.join(replica, str(replica))
        await fleet.managers[2].close()

        assert await fleet.managers[0].cluster_counts() == ClusterCounts(2, 2, 2, True)


async def test_counts_are_incomplete_when_a_replica_was_killed_and_answers_nothing() -> None:
    async with Fleet(2) as fleet:
        await fleet.join(0, "1")
        await fleet.join(1, "2")
        killed = await silent_replica(fleet)
        loop = asyncio.get_running_loop()
        start = loop.time()
        counts = await fleet.managers[0].cluster_counts(timeout_s=0.5)

        assert counts == ClusterCounts(connections=2, users=2, replicas=2, complete=False)
        assert loop.time() - start < 2
        await killed.close()
        assert (await fleet.managers[0].cluster_counts()).complete


async def test_counts_are_of_this_replica_alone_and_incomplete_when_the_broker_is_away() -> None:
    async with Fleet(3) as fleet:
        for replica in range(3):
            await fleet.join(replica, str(replica))
        await fleet.lose_broker()
        assert await fleet.managers[0].cluster_counts() == ClusterCounts(1, 1, 1, False)
        await fleet.regain_broker()

        assert await fleet.managers[0].cluster_counts() == ClusterCounts(3, 3, 3, True)


@pytest.mark.parametrize("fault", ["freeze", "deaf", "swallow"])
async def test_counts_come_in_time_and_incomplete_when_the_broker_fails_under_way(fault: str) -> None:
    async with Fleet(2) as fleet:
        await fleet.join(0, "1")
        await fleet.join(1, "2")
        loop = asyncio.get_running_loop()
        start = loop.time()
        if fault == "freeze":
            fleet.server.freeze()
        elif fault == "deaf":
            fleet.server.deaf = True
        else:
            fleet.server.swallow_next_reply()
        counts = await fleet.managers[0].cluster_counts(timeout_s=1)
        fleet.server.thaw()
        fleet.server.deaf = False

        assert not counts.complete
        assert counts.connections >= 1
        assert loop.time() - start < 3


async def test_counts_are_complete_when_there_is_no_broker() -> None:
    manager = WebSocketManager("c")
    await manager.connect(Browser().websocket, "1")
    assert await manager.cluster_counts() == ClusterCounts(1, 1, 1, True)
    await manager.close()


async def test_the_first_call_of_all_counts_everybody() -> None:
    async with Fleet(2) as fleet:
        await fleet.join(1, "1")
        newcomer = WebSocketManager("c", broker=MemoryBroker(fleet.server))

        assert await newcomer.cluster_counts() == ClusterCounts(1, 1, 3, True)
        await newcomer.close()


async def test_questions_under_way_at_the_same_time_are_told_apart() -> None:
    async with Fleet(3) as fleet:
        await fleet.join(0, "1")
        await fleet.join(1, "2")
        asked = [manager.cluster_counts() for manager in fleet.managers for _ in range(10)]
        found = [fleet.managers[2].is_user_connected_anywhere(user) for user in ("1", "2", "3")]

        assert set(await asyncio.gather(*asked)) == {ClusterCounts(2, 2, 3, True)}
        assert await asyncio.gather(*found) == [True, True, False]


# -- one user ---------------------------------------------------------------------------------------------------------


async def test_a_user_is_found_wherever_he_is_connected() -> None:
    async with Fleet(3) as fleet:
        browser = await fleet.join(2, "42")
        assert [await manager.is_user_connected_anywhere("42") for manager in fleet.managers] == [True] * 3
        assert [manager.is_user_connected("42") for manager in fleet.managers] == [False, False, True]
        assert not await fleet.managers[0].is_user_connected_anywhere("4")
        fleet.managers[2].disconnect(browser.websocket)

        assert not await fleet.managers[0].is_user_connected_anywhere("42")


async def test_a_user_of_this_replica_is_found_without_asking_when_the_broker_is_frozen() -> None:
    async with Fleet(2) as fleet:
        await fleet.join(0, "here")
        await fleet.join(1, "there")
        fleet.server.freeze()
        loop = asyncio.get_running_loop()
        start = loop.time()

        assert await fleet.managers[0].is_user_connected_anywhere("here")
        assert loop.time() == start
        assert not await fleet.managers[0].is_user_connected_anywhere("there", timeout_s=0.5)


async def test_a_user_is_found_at_once_when_another_replica_was_killed() -> None:
    async with Fleet(2) as fleet:
        await fleet.join(1, "42")
        killed = await silent_replica(fleet)
        loop = asyncio.get_running_loop()
        start = loop.time()

        assert await fleet.managers[0].is_user_connected_anywhere("42", timeout_s=5)
        assert loop.time() - start < 1
        await killed.close()


# -- strange answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [b"[]", b"1", b'"x"', b"{}", b'{"ask":1,"channel":"c","question":{}}', b'{"ask":"1","channel":"c","question":1}'],
)
@pytest.mark.parametrize("kind", ["ask", "answer", "unknown"])
async def test_a_control_message_that_makes_no_sense_harms_nobody(kind: str, payload: bytes) -> None:
    async with Fleet(2) as fleet:
        await fleet.join(1, "1")
        for sender in ("somebody", None):
            envelope = Envelope(id=None, payload=payload, sender=sender, kind=kind)
            await fleet.publish_raw(CONTROL_ROUTE, envelopes.encode(envelope))
        await settle()

        assert await fleet.managers[0].cluster_counts() == ClusterCounts(1, 1, 2, True)
        assert [manager.state for manager in fleet.managers] == [State.UP] * 2


@pytest.mark.parametrize(
    "data",
    [
        [{"connections": "many", "users": None, "sketch": "x"}],
        [{"connections": True, "sketch": [None, "a", {}, 1.5]}],
        [7, None, []],
        [{"sketch": [-1, 2**63, True] * 5_000}],
        [{"sketch": list(range(5_000))}],
        {},
    ],
)
async def test_an_answer_that_makes_no_sense_does_not_break_the_count(data: object) -> None:
    async with Fleet(1) as fleet:
        await fleet.join(0, "1")
        strange = await silent_replica(fleet)
        asking = asyncio.create_task(fleet.managers[0].cluster_counts(timeout_s=0.5))
        events = list(await strange.receive())
        while not any(b'"kind":"ask"' in getattr(event, "payload", b"") for event in events):
            events += await strange.receive()
        link = fleet.managers[0].stats().link
        assert link is not None
        for number in range(20):
            envelope = Envelope(
                id=None, payload=codec.encode({"ask": str(number), "data": data}), sender="strange", kind="answer"
            )
            await fleet.publish_raw(f"antiphon:replica:{link.replica}", envelopes.encode(envelope))
        counts = await asking
        await strange.close()

        assert counts.connections >= 1
        assert counts.users >= 1
        assert fleet.managers[0].state is State.UP


# -- many users -------------------------------------------------------------------------------------------------------


def users(first: int, last: int) -> list[str]:
    return [f"user {number}" for number in range(first, last)]


def test_distinct_users_are_exact_below_the_sketch() -> None:
    assert count_distinct([]) == count_distinct([[]]) == 0
    assert count_distinct([sketch(users(0, SKETCH_SIZE - 1))]) == SKETCH_SIZE - 1
    assert count_distinct([sketch(users(0, 3_000)), sketch(users(2_000, 6_000)), sketch([])]) == 6_000


@pytest.mark.parametrize(
    ("first", "second", "distinct"), [(20_000, 20_000, 30_000), (5_000, 100, 5_000), (4_096, 0, 4_096)]
)
def test_distinct_users_are_estimated_above_the_sketch(first: int, second: int, distinct: int) -> None:
    overlap = first + second - distinct
    sketches = [sketch(users(0, first)), sketch(users(first - overlap, first - overlap + second))]

    # The estimate's standard deviation is 1.6 %; the hashes are the same at every run, so this cannot fail by chance.
    assert count_distinct(sketches) == pytest.approx(distinct, rel=0.05)


def test_a_sketch_is_bounded_and_the_same_on_every_replica() -> None:
    assert len(sketch(users(0, 20_000))) == SKETCH_SIZE
    assert sketch(users(0, 100)) == sketch(reversed(users(0, 100)))
    assert all(0 <= value < 2**63 for value in sketch(users(0, 100)))


async def test_many_users_of_many_replicas_are_counted_within_a_few_percent() -> None:
    async with Fleet(2) as fleet:
        lane = NotedLane()
        for replica, (first, last) in enumerate([(0, 5_000), (2_500, 7_500)]):
            for user in users(first, last):
                connection = Connection(f"{replica} {user}", user_id=user, transport=NotedTransport(lane))
                fleet.managers[replica]._hub.add(connection)
        counts = await fleet.managers[0].cluster_counts()

        assert (counts.connections, counts.replicas, counts.complete) == (10_000, 2, True)
        assert counts.users == pytest.approx(7_500, rel=0.05)

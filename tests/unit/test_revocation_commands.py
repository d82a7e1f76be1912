"""Ended sessions: their sockets are cut on all replicas, whenever it happens."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.auth import Identity, Revoked
from antiphon.brokers.memory_store import MemoryStore
from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.relays import LocalRelay
from antiphon.revocation import Disconnected, Revocations
from antiphon.tickets import Tickets
from tests.unit.browsers import settle, until
from tests.unit.lanes import NotedTransport
from tests.unit.revocations import CUT, Clock, Database, Entering, Fleet, Replica, alone, entering, now_s, texts
from tests.unit.test_tickets import handshake

pytestmark = pytest.mark.virtual_time


async def test_sockets_of_a_user_are_cut_on_all_replicas() -> None:
    async with Fleet() as fleet:
        his = [await replica.connect("42", f"s{number}") for number, replica in enumerate(fleet.replicas)]
        his.append(await fleet.replicas[0].connect("42"))
        others = [await replica.connect("4", "s0") for replica in fleet.replicas]
        others.append(await fleet.replicas[1].connect(None, guest=True))
        begun = now_s()
        done = await fleet.replicas[2].revocations.disconnect_user("42")

        assert done == Disconnected(connections=4, replicas=3, complete=True)
        assert now_s() - begun < 1.0
        assert [texts(connection) for connection in his] == [[CUT]] * 4
        assert [texts(connection) for connection in others] == [[]] * 4
        assert [replica.counters.revoked for replica in fleet.replicas] == [2, 1, 1]
        assert await fleet.replicas[0].revocations.disconnect_user("42") == Disconnected(0, 3, True)


async def test_sockets_of_a_session_are_cut_on_all_replicas() -> None:
    async with Fleet() as fleet:
        its = [await replica.connect("42", "s1") for replica in fleet.replicas for _ in range(2)]
        others = [await replica.connect("42", "s2") for replica in fleet.replicas]

        assert await fleet.replicas[0].revocations.disconnect_session("s1") == Disconnected(6, 3, True)
        assert [texts(connection) for connection in its] == [[CUT]] * 6
        assert [texts(connection) for connection in others] == [[]] * 3


async def test_own_session_and_named_connections_are_kept_when_they_are_excepted() -> None:
    async with Fleet() as fleet:
        own = [await replica.connect("42", "own") for replica in fleet.replicas]
        named = await fleet.replicas[1].connect("42", "s1")
        others = [await replica.connect("42", "s1") for replica in fleet.replicas]
        done = await fleet.replicas[0].revocations.disconnect_user("42", except_={"own", named.id})

        assert done == Disconnected(3, 3, True)
        assert [texts(connection) for connection in [*own, named]] == [[]] * 4
        assert [texts(connection) for connection in others] == [[CUT]] * 3
        assert (await fleet.replicas[0].revocations.disconnect_user("42", except_="own")).connections == 1
        assert (await fleet.replicas[0].revocations.disconnect_session("own", except_=[own[0].id])).connections == 2


async def test_revocation_is_of_its_channel_alone_and_reaches_all_managers_of_it() -> None:
    async with Fleet(1) as fleet:
        one = fleet.replicas[0]
        twin = Replica(one.relay, fleet.database, census=one.census)
        first, second = await one.connect("42"), await twin.connect("42")
        other_channel = Hub("d")
        elsewhere = Connection("x", user_id="42", transport=NotedTransport(one.lane))
        other_channel.add(elsewhere)
        beside = Revocations(other_channel, one.census, end=one.end)

        assert await one.revocations.disconnect_user("42") == Disconnected(2, 1, True)
        assert texts(first) == texts(second) == [CUT]
        assert texts(elsewhere) == []
        beside.close()
        twin.revocations.close()


async def test_revocation_is_complete_when_there_is_no_broker() -> None:
    replica = Replica(LocalRelay(), Database())
    connection = await replica.connect("42", "s1")
    assert await replica.revocations.disconnect_session("s1") == Disconnected(1, 1, True)
    assert texts(connection) == [CUT]
    await replica.close()


async def test_nothing_is_delivered_once_a_revocation_was_acknowledged() -> None:
    async with Fleet() as fleet:
        his = [await replica.connect("42", "s1", topics=["t"]) for replica in fleet.replicas]
        other = await fleet.replicas[0].connect("4", "s2", topics=["t"])
        stop = asyncio.Event()

        async def talk(replica: Replica) -> None:
            number = 0
            while not stop.is_set():
                replica.publish({"n": number}, topic="t" if number % 2 else None)
                number += 1
                await asyncio.sleep(0.0001)

        talking = [asyncio.create_task(talk(replica)) for replica in fleet.replicas]
        await until(lambda: len(texts(other)) > 100)
        done = await fleet.replicas[1].revocations.disconnect_user("42")
        at_once = [list(texts(connection)) for connection in his]
        heard = len(texts(other))
        await until(lambda: len(texts(other)) > heard + 100)
        stop.set()
        await asyncio.gather(*talking)

        assert done == Disconnected(3, 3, True)
        assert all(len(had) > 10 and had[-1] == CUT for had in at_once)
        assert [texts(connection) for connection in his] == at_once


@pytest.mark.parametrize("turns", range(40))
async def test_revocation_reaches_who_is_just_connecting_at_whatever_moment_it_comes(turns: int) -> None:
    async with Fleet(2) as fleet:
        here, there = fleet.replicas
        fleet.database.takes_s = 0.0
        connecting = asyncio.create_task(here.connect("42", "s1"))
        for _ in range(turns):
            await asyncio.sleep(0)
        fleet.database.ended.add("s1")
        done = await there.revocations.disconnect_session("s1")
        (result,) = await asyncio.gather(connecting, return_exceptions=True)

        assert done.complete
        assert len(here.hub) == 0
        assert isinstance(result, Revoked) or (isinstance(result, Connection) and texts(result) == [CUT])
        here.publish("x")
        await settle()
        assert isinstance(result, Revoked) or texts(result) == [CUT]


async def test_revocation_reaches_who_is_just_connecting_when_the_database_still_says_yes() -> None:
    async with Fleet(2) as fleet:
        here, there = fleet.replicas
        fleet.database.hangs = lambda session: session == "s1"
        connecting = asyncio.create_task(here.connect("42", "s1"))
        beside = asyncio.create_task(here.connect("42", "s2"))
        await until(lambda: fleet.database.asked["s1"] == fleet.database.asked["s2"] == 1)
        await there.revocations.disconnect_user("42", except_=["s2"])
        fleet.database.release.set()

        with pytest.raises(Revoked):
            await connecting
        assert texts(await beside) == []
        assert here.counters.entering == 1
        assert len(here.hub) == 1


async def test_identity_that_was_proved_before_a_revocation_is_refused_after_it() -> None:
    clock = Clock()
    revocations = alone(clock)
    trial = Entering(revocations, clock)
    early = clock.now_s
    clock.now_s += 1.0
    await revocations.disconnect_user("42", except_=["own"])
    await revocations.disconnect_session("s9")
    clock.now_s += 1.0

    assert trial.is_refused("42", "s1", at_s=early)
    assert trial.is_refused("42", None, at_s=early)
    assert trial.is_refused("7", "s9", at_s=early)
    assert trial.is_refused(None, "s9", at_s=early)
    assert not trial.is_refused("42", "own", at_s=early)
    assert not trial.is_refused("7", "s1", at_s=early)
    assert not trial.is_refused("42", "s1", at_s=clock.now_s)
    assert not trial.is_refused("7", "s9", at_s=clock.now_s)
    assert not trial.is_refused("42", "s1", at_s=None)  # nobody knows how old it is
    assert revocations.counters.entering == 4
    clock.now_s += 32.0
    assert trial.is_refused("42", "s1", at_s=early)
    clock.now_s += 3.0
    assert not trial.is_refused("42", "s1", at_s=early)  # no ticket is good for so long
    assert len(revocations._recent) == 0


async def test_later_revocation_with_other_exceptions_does_not_undo_an_earlier_one() -> None:
    clock = Clock()
    revocations = alone(clock)
    trial = Entering(revocations, clock)
    early = clock.now_s
    for except_ in ["a"], ["b"], ["a", "b"]:
        clock.now_s += 1.0
        await revocations.disconnect_user("42", except_=except_)
    assert trial.is_refused("42", "a", at_s=early)
    assert trial.is_refused("42", "b", at_s=early)
    assert not trial.is_refused("42", "a", at_s=early + 2.5)
    assert not trial.is_refused("42", "b", at_s=early + 2.5)
    assert trial.is_refused("42", "c", at_s=early + 2.5)


async def test_revocations_that_are_remembered_are_bounded_and_counted_when_they_are_forgotten() -> None:
    clock = Clock()
    revocations = alone(clock)
    trial = Entering(revocations, clock)
    early = clock.now_s
    for number in range(10_100):
        revocations._cut({"user": str(number), "except": []})
    assert len(revocations._recent) == 10_000
    assert revocations.counters.forgotten == 100
    assert trial.is_refused("10099", "s1", at_s=early)
    assert not trial.is_refused("99", "s1", at_s=early)
    for number in range(200):
        revocations._cut({"user": "42", "except": [f"{number}-{other}" for other in range(1_000)]})
    assert len(revocations._recent) <= 10_000
    assert trial.is_refused("42", "s1", at_s=early)
    for _ in range(1_000):
        clock.now_s += 36.0
        revocations._cut({"user": "42", "except": []})
    assert len(revocations._recent) == 1


async def test_one_who_is_identified_late_is_within_reach_since_it_was_registered() -> None:
    clock = Clock()
    revocations = alone(clock)
    await revocations.disconnect_user("42")
    for identity in Identity(user_id="42"), Identity(user_id="42", session_id="s1"), None:
        clock.now_s += 1.0
        with entering(revocations, None, None) as entrant:
            entrant.user_id, entrant.identity = "42", identity
            revocations.check(entrant)
        clock.now_s -= 1.5  # a clock that is set back hides nothing, and condemns nobody
        with entering(revocations, None, None) as entrant:
            entrant.user_id, entrant.identity = "42", identity
            revocations.check(entrant)
        with entering(revocations, None, None) as entrant:
            clock.now_s += 1.0
            await revocations.disconnect_user("42")
            entrant.user_id, entrant.identity = "42", identity
            with pytest.raises(Revoked):
                revocations.check(entrant)


@pytest.mark.parametrize("identity", [None, Identity(user_id="42"), Identity(user_id="42", session_id="s1")], ids=str)
async def test_revocation_reaches_one_without_a_proof_between_register_and_the_hub(identity: Identity | None) -> None:
    async with Fleet(2) as fleet:
        here, there = fleet.replicas
        with entering(here.revocations, "42", identity) as entrant:
            here.revocations.check(entrant)
            if identity is not None and identity.session_id is not None:
                await there.revocations.disconnect_session("s1")
            else:
                await there.revocations.disconnect_user("42")
            with pytest.raises(Revoked):
                here.revocations.check(entrant)


async def test_ticket_from_before_a_revocation_lets_nobody_in_after_it() -> None:
    async with Fleet(2) as fleet:
        here, there = fleet.replicas
        tickets = Tickets(MemoryStore())
        early = [await tickets.issue(Identity(user_id="42", session_id="s1")) for _ in range(2)]
        other = await tickets.issue(Identity(user_id="4", session_id="s4"))
        assert (await there.revocations.disconnect_session("s1")).complete
        later = await tickets.issue(Identity(user_id="42", session_id="s1"))

        for replica, ticket, refused in (here, early[0], 1), (there, early[1], 1), (here, other, 0), (there, later, 0):
            identity = await tickets.authenticate(handshake(ticket))
            assert identity is not None
            with entering(replica.revocations, identity.user_id, identity) as entrant:
                assert entrant.revoked is bool(refused)

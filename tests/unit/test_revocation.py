"""Ended sessions: their sockets are cut on all replicas, whatever fails, and whenever it happens."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import pytest
from starlette.requests import HTTPConnection

from antiphon.auth import CookieSession, Identity, Refused, Revoked, SessionExpired
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.brokers.memory_store import MemoryStore
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.errors import ConfigurationError, InvalidUserId
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.presence import Census
from antiphon.publication import new_publication
from antiphon.relay import Relay
from antiphon.relays import LocalRelay
from antiphon.revocation import Disconnected, Entrant, Notes, Rechecks, RevocationCounters, Revocations, identity_of
from antiphon.security import Security
from antiphon.tickets import Tickets
from antiphon.topics import CONTROL_ROUTE
from tests.unit.browsers import nothing_left, settle, until
from tests.unit.lanes import NotedLane, NotedTransport
from tests.unit.test_tickets import handshake

pytestmark = pytest.mark.virtual_time

CUT = "closed 4502"


class Database:
    """The application's truth: which sessions were ended, and how it answers."""

    def __init__(self) -> None:
        self.ended: set[str] = set()
        self.forbidden: set[tuple[str | None, str]] = set()
        self.fails: Callable[[str | None], Exception | None] = lambda session: None
        self.hangs: Callable[[str | None], bool] = lambda session: False
        self.is_stubborn = False
        """A question that hangs does not end when it is cancelled."""
        self.asked: Counter[str | None] = Counter()
        self.topics_asked: Counter[tuple[str | None, str]] = Counter()
        self.refusal: Refused = Revoked("ended in the database")
        self.takes_s = 0.001
        self.most_at_once = 0
        self.release = asyncio.Event()
        self._now = 0

    async def recheck(self, identity: Identity) -> Identity:
        session = identity.session_id
        self.asked[session] += 1
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            await asyncio.sleep(self.takes_s)
            error = self.fails(session)
            if error is not None:
                raise error
            while self.hangs(session) and not self.release.is_set():
                try:
                    await self.release.wait()
                except asyncio.CancelledError:
                    if not self.is_stubborn:
                        raise
        finally:
            self._now -= 1
        if session in self.ended:
            raise self.refusal
        return Identity(user_id=identity.user_id, session_id=session, roles=frozenset({"fresh"}))

    async def may_hear(self, identity: Identity | None, topic: str) -> bool:
        session = None if identity is None else identity.session_id
        self.topics_asked[session, topic] += 1
        error = self.fails(session)
        if error is not None:
            raise error
        await asyncio.sleep(self.takes_s)
        return (session, topic) not in self.forbidden


class Replica:
    """A hub, its link, and its revocations, put together as a manager does it."""

    def __init__(self, relay: Relay | LocalRelay, database: Database, *, census: Census | None = None) -> None:
        self.relay = relay
        self.database = database
        self.census = census if census is not None else Census(relay)
        self.hub = Hub("c")
        self.counters = RevocationCounters()
        self.revocations = Revocations(self.hub, self.census, end=self.end, counters=self.counters)
        self.rechecks = Rechecks(
            self.hub,
            recheck=database.recheck,
            may_hear=database.may_hear,
            end=self.end,
            drop_topic=self.drop_topic,
            counters=self.counters,
            rng=random.Random(0),
        )
        relay.watch(self.rechecks.on_state)
        relay.listen("c", None, self.hub.deliver)
        self.lane = NotedLane()
        self.names = 0

    def end(self, connection: Connection, refusal: Refused) -> None:
        topics = self.hub.remove(connection)
        assert topics is not None
        for topic in topics:
            self.relay.unlisten("c", topic, self.hub.deliver)
        connection._transport.close(refusal.close_code, refusal.close_reason)

    def drop_topic(self, connection: Connection, topic: str) -> None:
        assert self.hub.unsubscribe(connection, topic)
        self.relay.unlisten("c", topic, self.hub.deliver)

    async def connect(
        self, user: str | None, session: str | None = None, *, topics: Iterable[str] = (), guest: bool = False
    ) -> Connection:
        """Registered first, checked again second, and only then within reach of messages."""
        identity = None if guest else Identity(user_id=user, session_id=session)
        with entering(self.revocations, user, identity) as entrant:
            await self.relay.heard("c")
            if identity is not None:
                identity = await self.rechecks.confirm(identity)
            self.revocations.check(entrant)
            self.names += 1
            id = f"{self.relay.replica}-{self.names}"
            connection = Connection(id, user_id=user, transport=NotedTransport(self.lane))
            connection._identity = identity
            self.hub.add(connection)
        for topic in topics:
            self.hub.subscribe(connection, topic)
            self.relay.listen("c", topic, self.hub.deliver)
        return connection

    def publish(self, message: object, topic: str | None = None) -> None:
        publication = new_publication(message, sender=self.relay.replica, channel="c", limit_bytes=1_000, topic=topic)
        self.relay.publish(publication, fail=False, keep=True)

    async def close(self) -> None:
        await self.rechecks.close()
        self.revocations.close()
        await self.relay.close()


class Fleet:
    """Replicas on one broker in memory. At the end nothing may be left."""

    def __init__(self, size: int = 3) -> None:
        self.server = MemoryServer()
        self.database = Database()
        self.replicas = [Replica(Relay(MemoryBroker(self.server)), self.database) for _ in range(size)]

    async def __aenter__(self) -> Self:
        self._tasks_before = asyncio.all_tasks()
        for replica in self.replicas:
            replica.relay.start()
            replica.rechecks.start()
        await self.all_are(State.UP)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.thaw()
        self.database.release.set()
        for replica in self.replicas:
            await replica.close()
        if error is None:
            await nothing_left(self._tasks_before)

    async def all_are(self, state: State) -> None:
        await until(lambda: all(replica.relay.state is state for replica in self.replicas))

    async def lose_broker(self) -> None:
        self.server.down = True
        self.server.kill()
        await self.all_are(State.DEGRADED)

    async def regain_broker(self) -> None:
        self.server.down = False
        await self.all_are(State.UP)


@contextmanager
def entering(revocations: Revocations, user_id: str | None, identity: Identity | None) -> Iterator[Entrant]:
    """As `Admission` does it."""
    entrant = revocations.register(user_id, identity)
    try:
        yield entrant
    finally:
        revocations.unregister(entrant)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def alone(clock: Clock) -> Revocations:
    """Revocations of a replica that is alone and has nobody connected."""
    return Revocations(Hub("c"), Census(LocalRelay()), end=lambda *_: None, clock=clock)


class Entering:
    """Tries whether somebody is let in."""

    def __init__(self, revocations: Revocations, clock: Clock) -> None:
        self._revocations = revocations
        self._clock = clock

    def is_refused(self, user: str | None, session: str | None, *, at_s: float | None) -> bool:
        identity = Identity(user_id=user, session_id=session)._proved_by(None, at_s=at_s)
        with entering(self._revocations, user, identity) as entrant:
            try:
                self._revocations.check(entrant)
            except Revoked:
                return True
            return False


def texts(connection: Connection) -> list[str]:
    assert isinstance(connection._transport, NotedTransport)
    return connection._transport.texts


def now_s() -> float:
    return asyncio.get_running_loop().time()


# -- commands ---------------------------------------------------------------------------------------------------------


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


# -- when something fails ---------------------------------------------------------------------------------------------


async def test_revocation_is_local_and_incomplete_when_the_broker_is_away_and_reaches_the_others_when_it_is_back() -> (
    None
):
    async with Fleet() as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        others = [await replica.connect("4", "s2") for replica in fleet.replicas]
        await fleet.lose_broker()
        fleet.database.ended.add("s1")
        begun = now_s()
        done = await fleet.replicas[0].revocations.disconnect_session("s1")

        assert done == Disconnected(connections=1, replicas=1, complete=False)
        assert now_s() - begun < 2.0
        assert [texts(connection) for connection in his] == [[CUT], [], []]
        await fleet.regain_broker()
        back = now_s()
        await until(lambda: [texts(connection) for connection in his] == [[CUT]] * 3)
        assert now_s() - back < 2.0
        assert [texts(connection) for connection in others] == [[]] * 3


async def test_lost_revocation_takes_a_minute_at_most_when_the_broker_stays_away() -> None:
    async with Fleet() as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        await fleet.lose_broker()
        await asyncio.sleep(100.0)
        fleet.database.ended.add("s1")
        begun = now_s()
        await until(lambda: [texts(connection) for connection in his] == [[CUT]] * 3, within_s=100.0)
        assert now_s() - begun < 61.0


@pytest.mark.parametrize("fault", ["freeze", "deaf", "swallow"])
async def test_revocation_returns_in_time_and_incomplete_when_the_broker_fails_under_way(fault: str) -> None:
    async with Fleet(2) as fleet:
        his = [await replica.connect("42", "s1") for replica in fleet.replicas]
        begun = now_s()
        if fault == "freeze":
            fleet.server.freeze()
        elif fault == "deaf":
            fleet.server.deaf = True
        else:
            fleet.server.swallow_next_reply()
        ending = asyncio.create_task(fleet.replicas[0].revocations.disconnect_user("42"))
        await until(lambda: texts(his[0]) == [CUT])
        assert now_s() - begun < 0.5
        done = await ending
        fleet.server.thaw()
        fleet.server.deaf = False

        assert not done.complete
        assert now_s() - begun < 3.0


async def test_revocation_is_incomplete_when_a_replica_does_not_answer() -> None:
    async with Fleet(2) as fleet:
        await fleet.replicas[1].connect("42", "s1")
        killed = await MemoryBroker(fleet.server).open_listening()
        killed.subscribe([CONTROL_ROUTE])
        await until(lambda: fleet.server.listeners(CONTROL_ROUTE) == 3)

        assert await fleet.replicas[0].revocations.disconnect_user("42") == Disconnected(1, 2, False)
        await killed.close()


async def test_revocation_is_incomplete_when_a_replica_of_an_earlier_release_answers_something_else() -> None:
    async with Fleet(2) as fleet:
        earlier = fleet.replicas[1]
        earlier.revocations.close()
        earlier.census.add("c", lambda question: {"connections": 1, "users": 1, "sketch": []}, about="revoke")

        assert await fleet.replicas[0].revocations.disconnect_user("42") == Disconnected(0, 2, False)


@pytest.mark.parametrize(
    "question",
    [
        {},
        {"user": 42},
        {"session": None},
        {"user": None, "session": []},
        {"user": "42", "except": "42"},
        {"user": "nobody", "except": [1, None]},
        {"session": "*"},
    ],
    ids=str,
)
async def test_question_that_names_nobody_cuts_nobody(question: dict[str, object]) -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        connections = [await replica.connect("7", "s1"), await replica.connect(None, guest=True)]
        await replica.census.ask("c", question, timeout_s=1.0, about="revoke")
        assert [texts(connection) for connection in connections] == [[], []]


@pytest.mark.parametrize("user_id", ["", 42, None])
async def test_user_id_that_cannot_be_meant_is_refused(user_id: str) -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(InvalidUserId):
            await fleet.replicas[0].revocations.disconnect_user(user_id)


@pytest.mark.parametrize("session_id", ["", None, 7, "s" * 1_001])
async def test_session_id_that_cannot_be_meant_is_refused(session_id: str) -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(ConfigurationError):
            await fleet.replicas[0].revocations.disconnect_session(session_id)


@pytest.mark.parametrize(
    "except_", [["own", 7], 7, ["own", *map(str, range(1_000))]], ids=["list with a number", "number", "many"]
)
async def test_exceptions_that_cannot_be_meant_are_refused_when_the_others_were_cut_here(except_: Any) -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        own, other = await replica.connect("42", "own"), await replica.connect("42", "s1")
        with pytest.raises(ConfigurationError, match="except_"):
            await replica.revocations.disconnect_user("42", except_=except_)
        assert texts(other) == [CUT]
        assert texts(own) == ([CUT] if except_ == 7 else [])


@pytest.mark.parametrize("except_", [None, [None], {None, "nobody"}], ids=["none", "list", "set"])
async def test_exception_that_is_none_is_no_exception(except_: Any) -> None:
    """As the session id of somebody who has none."""
    async with Fleet(2) as fleet:
        his = [await replica.connect("42") for replica in fleet.replicas]
        assert await fleet.replicas[0].revocations.disconnect_user("42", except_=except_) == Disconnected(2, 2, True)
        assert [texts(connection) for connection in his] == [[CUT]] * 2


# -- re-checks --------------------------------------------------------------------------------------------------------


async def test_ended_session_is_found_by_the_next_round_with_one_question() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        his = [await replica.connect("42", "s1") for _ in range(20)]
        others = [await replica.connect("4", "s2") for _ in range(20)]
        database.asked.clear()
        database.ended.add("s1")
        begun = now_s()
        await until(lambda: [texts(connection) for connection in his] == [[CUT]] * 20, within_s=100.0)

        assert now_s() - begun < 61.0
        assert [texts(connection) for connection in others] == [[]] * 20
        assert database.asked == {"s1": 1, "s2": 1}
        assert (replica.counters.ended, replica.counters.rechecks) == (20, 1)
        assert identity_of(others[0]) == Identity(user_id="4", session_id="s2", roles=frozenset({"fresh"}))
        await asyncio.sleep(60.0)
        assert 2 <= database.asked["s2"] <= 3


async def test_session_that_has_run_out_is_closed_with_its_own_code() -> None:
    async with Fleet(1) as fleet:
        connection = await fleet.replicas[0].connect("42", "s1")
        fleet.database.refusal = SessionExpired("the token is over")
        fleet.database.ended.add("s1")
        await until(lambda: texts(connection) == ["closed 4004"], within_s=100.0)


async def test_cuts_of_rechecks_are_counted_by_what_the_client_is_told() -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        for session in "s1", "s1", "s2":
            await replica.connect("42", session)
        fleet.database.ended.add("s1")
        await until(lambda: replica.counters.ended_by == {"REVOKED": 2}, within_s=100.0)
        fleet.database.refusal = SessionExpired("the token is over")
        fleet.database.ended.add("s2")
        await until(lambda: replica.counters.ended_by == {"REVOKED": 2, "REFRESH_SESSION": 1}, within_s=100.0)
        assert replica.counters.ended == 3
        assert replica.counters.revoked == 0


class Proofs:
    """A session store behind a cookie, and tickets of the same sessions, on one replica."""

    def __init__(self, replica: Replica) -> None:
        self.sessions: dict[str, Identity] = {}
        self.asked: Counter[str] = Counter()
        self._replica = replica
        self._cookies = CookieSession("s", self._lookup)
        self._tickets = Tickets(MemoryStore())
        replica.rechecks._recheck = Security(authenticators=[self._cookies, self._tickets]).recheck

    def _lookup(self, token: str) -> Identity | None:
        self.asked[token] += 1
        return self.sessions.get(token)

    async def by_cookie(self, token: str) -> Connection:
        headers = [(b"cookie", f"s={token}".encode())]
        identity = await self._cookies.authenticate(HTTPConnection({"type": "http", "path": "/", "headers": headers}))
        return await self._connect(identity)

    async def by_ticket(self, identity: Identity) -> Connection:
        return await self._connect(await self._tickets.authenticate(handshake(await self._tickets.issue(identity))))

    async def _connect(self, identity: Identity | None) -> Connection:
        assert identity is not None
        connection = await self._replica.connect(identity.user_id, identity.session_id)
        connection._identity = identity
        return connection

    async def round(self) -> None:
        """Let everybody be asked about once more."""
        begun = self._replica.counters.rechecks
        self._replica.rechecks.now()
        await until(lambda: self._replica.counters.rechecks == begun + 1)
        await settle()


@pytest.mark.parametrize("ticket_first", [True, False])
async def test_socket_keeps_its_own_proof_beside_another_of_its_session_that_has_none(ticket_first: bool) -> None:
    async with Fleet(1) as fleet:
        proofs = Proofs(fleet.replicas[0])
        ann = proofs.sessions["c1"] = Identity(user_id="ann", session_id="s1")
        first = [await proofs.by_ticket(ann)] if ticket_first else []
        cookies = [await proofs.by_cookie("c1") for _ in range(3)]
        ticket = first[0] if ticket_first else await proofs.by_ticket(ann)
        for _ in range(2):
            proofs.asked.clear()
            await proofs.round()
            assert proofs.asked == {"c1": 1}
        for connection in cookies:
            identity = identity_of(connection)
            assert identity is not None
            assert identity.proved_again is not None
        assert (kept := identity_of(ticket)) is not None
        assert kept.proved_again is None
        proofs.sessions.clear()
        await proofs.round()
        assert [texts(connection) for connection in cookies] == [[CUT]] * 3
        assert texts(ticket) == []


async def test_each_proof_of_one_session_is_asked_about_and_ends_its_own_sockets() -> None:
    async with Fleet(1) as fleet:
        proofs = Proofs(fleet.replicas[0])
        for token in "c1", "c2":
            proofs.sessions[token] = Identity(user_id="ann", session_id="s1", roles=frozenset({token}))
        sockets = {token: [await proofs.by_cookie(token) for _ in range(2)] for token in ("c1", "c2")}
        proofs.asked.clear()
        await proofs.round()
        assert proofs.asked == {"c1": 1, "c2": 1}
        for token, connections in sockets.items():
            for connection in connections:
                identity = identity_of(connection)
                assert identity is not None
                assert identity.roles == {token}
        del proofs.sessions["c1"]
        await proofs.round()
        assert [texts(connection) for connection in sockets["c1"]] == [[CUT]] * 2
        assert [texts(connection) for connection in sockets["c2"]] == [[]] * 2


async def test_identities_without_a_proof_are_asked_about_together_only_when_they_are_the_same() -> None:
    async with Fleet(1) as fleet:
        proofs = Proofs(fleet.replicas[0])
        soon = time.time() - 1.0
        over = Identity(user_id="ann", session_id="s1", expires_at_s=soon)
        lasting = Identity(user_id="ann", session_id="s1", roles=frozenset({"admin"}))
        kept = [await proofs._connect(lasting) for _ in range(2)]
        ended = await proofs._connect(over)
        await proofs.round()
        assert texts(ended) == ["closed 4004"]
        assert [texts(connection) for connection in kept] == [[]] * 2
        assert [identity_of(connection) for connection in kept] == [lasting] * 2


async def test_session_whose_end_was_put_off_is_asked_about_by_what_is_valid_longest() -> None:
    async with Fleet(1) as fleet:
        proofs = Proofs(fleet.replicas[0])
        sockets = []
        for left_s in 3_600.0, -1.0:
            proofs.sessions["c1"] = Identity(user_id="ann", session_id="s1", expires_at_s=time.time() + left_s)
            sockets.append(await proofs.by_cookie("c1"))
        proofs.sessions["c1"] = Identity(user_id="ann", session_id="s1", expires_at_s=time.time() + 7_200.0)
        await proofs.round()
        assert [texts(connection) for connection in sockets] == [[]] * 2
        assert len({identity_of(connection) for connection in sockets}) == 1


async def test_topics_are_asked_about_again_when_the_identity_has_changed_meanwhile() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        connection = await replica.connect("42", "s1", topics=["t"])
        connection._identity = Identity(user_id="42", session_id="s1")  # the question's answer is another
        may_hear, failures = replica.rechecks._may_hear, iter([OSError("the database is away")])

        async def fails_once(identity: Identity | None, topic: str) -> bool:
            for error in failures:
                raise error
            assert may_hear is not None
            return await may_hear(identity, topic)

        replica.rechecks._may_hear = fails_once
        database.forbidden.add(("s1", "t"))
        replica.rechecks.now()
        await until(lambda: not connection.topics, within_s=20.0)
        assert replica.counters.rechecks == 1


async def test_rechecks_that_were_closed_start_nothing() -> None:
    before = asyncio.all_tasks()
    for begun in False, True:
        rechecks = Rechecks(Hub("c"), recheck=Database().recheck, end=lambda *_: None, drop_topic=lambda *_: None)
        if begun:
            rechecks.start()
        await rechecks.close()
        rechecks.start()
        rechecks.now()
        assert asyncio.all_tasks() == before
        await rechecks.close()


async def test_questions_are_asked_a_few_at_a_time() -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        for number in range(200):
            await replica.connect(str(number), f"s{number}")
        fleet.database.asked.clear()
        fleet.database.most_at_once = 0
        fleet.database.takes_s = 0.01
        await until(lambda: len(fleet.database.asked) == 200, within_s=100.0)

        assert 2 <= fleet.database.most_at_once <= 16
        assert set(fleet.database.asked.values()) == {1}


async def test_sockets_without_a_session_are_asked_about_one_by_one_and_guests_not_at_all() -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        for _ in range(3):
            await replica.connect("42")
            await replica.connect(None, guest=True)
        fleet.database.asked.clear()
        await until(lambda: replica.counters.rechecks == 1, within_s=100.0)
        await until(lambda: fleet.database.asked[None] == 3)


@pytest.mark.parametrize("way", ["raises", "hangs", "hangs for good"])
async def test_sockets_are_kept_and_asked_about_again_when_there_is_no_answer(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        his, other = await replica.connect("42", "s1"), await replica.connect("4", "s2")
        if way == "raises":
            database.fails = lambda session: OSError("the database is away") if session == "s1" else None
        else:
            database.hangs = lambda session: session == "s1"
            database.is_stubborn = way == "hangs for good"
        database.asked.clear()
        counters = replica.counters
        await until(lambda: counters.errors + counters.timeouts >= 2, within_s=100.0)
        asked_s = now_s()

        assert texts(his) == texts(other) == []
        assert database.asked["s2"] == 1
        assert (counters.errors >= 2) is (way == "raises")
        assert "the connection is kept for now" in caplog.text
        database.fails, database.hangs = (lambda session: None), (lambda session: False)
        database.ended.add("s1")
        await until(lambda: texts(his) == [CUT], within_s=100.0)
        assert now_s() - asked_s < 20.0
        assert texts(other) == []


async def test_some_that_always_fail_do_not_keep_the_others_from_being_asked_about() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        for number in range(30):
            await replica.connect("x", f"bad{number}")
        good = [await replica.connect(str(number), f"s{number}") for number in range(100)]
        database.fails = lambda session: ValueError("a defect") if str(session).startswith("bad") else None
        database.ended |= {f"s{number}" for number in range(100)}
        await until(lambda: all(texts(connection) == [CUT] for connection in good), within_s=200.0)
        assert len(replica.hub) == 30


@pytest.mark.parametrize("way", ["raises", "hangs"])
async def test_few_are_asked_about_when_nobody_answers(way: str) -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        connections = [await replica.connect(str(number), f"s{number}") for number in range(500)]
        database.asked.clear()
        database.hangs = lambda session: way == "hangs"
        database.fails = lambda session: OSError("the database is away") if way == "raises" else None
        await until(lambda: replica.counters.rechecks == 1, within_s=100.0)
        await asyncio.sleep(20.0)

        assert 16 <= sum(database.asked.values()) <= 200
        assert len(replica.hub) == 500
        database.hangs, database.fails = (lambda session: False), (lambda session: None)
        database.release.set()
        database.ended |= {f"s{number}" for number in range(500)}
        await until(lambda: all(texts(connection) == [CUT] for connection in connections), within_s=100.0)


async def test_questions_that_never_end_are_bounded() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        for number in range(100):
            await replica.connect(str(number), f"s{number}")
        database.hangs, database.is_stubborn = (lambda session: True), True
        before = len(asyncio.all_tasks())
        await asyncio.sleep(3_600.0)

        assert len(asyncio.all_tasks()) - before <= 300
        assert len(replica.hub) == 100


async def test_topic_that_is_allowed_no_longer_is_dropped() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        his = [await replica.connect("42", "s1", topics=["public", "private"]) for _ in range(3)]
        guest = await replica.connect(None, guest=True, topics=["public", "private"])
        other = await replica.connect("4", "s2", topics=["private"])
        database.forbidden |= {("s1", "private"), (None, "private")}
        await until(lambda: replica.counters.topics_dropped == 4, within_s=100.0)

        assert [connection.topics for connection in his] == [{"public"}] * 3
        assert guest.topics == {"public"}
        assert other.topics == {"private"}
        assert database.topics_asked["s1", "private"] == 1
        for topic in ("private", "public", None):
            replica.publish(str(topic), topic=topic)
        await until(lambda: len(texts(other)) == 2)
        assert [texts(connection) for connection in his] == [["public", "None"]] * 3


async def test_topic_is_kept_when_nobody_can_tell() -> None:
    async with Fleet(1) as fleet:
        replica, database = fleet.replicas[0], fleet.database
        guest = await replica.connect(None, guest=True, topics=["t"])
        database.fails = lambda session: OSError("the database is away")
        await until(lambda: replica.counters.errors >= 3, within_s=100.0)

        assert guest.topics == {"t"}
        database.fails = lambda session: None
        database.forbidden.add((None, "t"))
        await until(lambda: not guest.topics, within_s=20.0)


async def test_everybody_is_asked_about_when_the_broker_is_back() -> None:
    async with Fleet(2) as fleet:
        for replica in fleet.replicas:
            await replica.connect("42", "s1")
        for _ in range(2):
            fleet.database.asked.clear()
            await fleet.lose_broker()
            assert not fleet.database.asked
            await fleet.regain_broker()
            await until(lambda: fleet.database.asked["s1"] == 2, within_s=5.0)


async def test_everybody_is_asked_about_when_the_application_says_so() -> None:
    async with Fleet(1) as fleet:
        replica = fleet.replicas[0]
        connection = await replica.connect("42", "s1", topics=["private"])
        fleet.database.forbidden.add(("s1", "private"))
        replica.rechecks.now()
        await until(lambda: not connection.topics, within_s=5.0)


async def test_who_connects_is_let_in_when_the_database_is_away() -> None:
    async with Fleet(1) as fleet:
        fleet.database.fails = lambda session: OSError("the database is away")
        connection = await fleet.replicas[0].connect("42", "s1")
        assert identity_of(connection) == Identity(user_id="42", session_id="s1")
        fleet.database.fails = lambda session: None
        fleet.database.ended.add("s1")
        with pytest.raises(Revoked):
            await fleet.replicas[0].connect("42", "s1")


async def test_function_that_is_no_coroutine_function_and_raises_harms_nobody() -> None:
    def recheck(identity: Identity) -> asyncio.Future[Identity]:
        raise ValueError("a defect")

    hub = Hub("c")
    rechecks = Rechecks(hub, recheck=recheck, end=lambda *_: None, drop_topic=lambda *_: None)
    identity = Identity(user_id="42")
    assert await rechecks.confirm(identity) is identity
    assert rechecks.counters.errors == 1
    await rechecks.close()


async def test_rechecks_understand_what_security_answers() -> None:
    class Sessions:
        async def authenticate(self, connection: HTTPConnection) -> Identity | None:
            return None

        async def is_valid(self, identity: Identity) -> bool:
            if identity.session_id == "unknown":
                raise OSError("the database is away")
            return identity.session_id != "ended"

    security = Security(authenticators=[Sessions()])
    rechecks = Rechecks(Hub("c"), recheck=security.recheck, end=lambda *_: None, drop_topic=lambda *_: None)
    for kept in (Identity(user_id="42", session_id="s1"), Identity(user_id="42", session_id="unknown")):
        assert await rechecks.confirm(kept) == kept
    with pytest.raises(Revoked):
        await rechecks.confirm(Identity(user_id="42", session_id="ended"))
    with pytest.raises(SessionExpired):
        await rechecks.confirm(Identity(user_id="42", expires_at_s=1.0))
    await rechecks.close()


# -- replicas that were not there -------------------------------------------------------------------------------------


class Late:
    """A replica that nobody used when somebody was revoked, and one that was asked to revoke."""

    def __init__(self, store: MemoryStore) -> None:
        self.clock = Clock()
        self.counters = RevocationCounters()
        notes = Notes(store, scope="c", counters=self.counters, journal=Journal())
        census = Census(LocalRelay())
        self.asked = Revocations(Hub("c"), census, end=lambda *_: None, notes=notes, clock=self.clock)
        self.other = Revocations(
            Hub("c"), Census(LocalRelay()), end=lambda *_: None, notes=notes, counters=self.counters, clock=self.clock
        )

    async def is_refused(self, user: str | None, session: str | None, *, at_s: float | None) -> bool:
        identity = Identity(user_id=user, session_id=session)._proved_by(None, at_s=at_s)
        with entering(self.other, user, identity) as entrant:
            await self.other.look_up(entrant)
            try:
                self.other.check(entrant)
            except Revoked:
                return True
            return False


async def test_a_replica_that_was_not_there_refuses_who_proved_it_before_the_revocation() -> None:
    late = Late(MemoryStore())
    early = late.clock.now_s - 10
    assert not await late.is_refused("42", "s1", at_s=early)
    await late.asked.disconnect_user("42", except_=["own"])
    await late.asked.disconnect_session("s9")

    assert await late.is_refused("42", "s1", at_s=early)
    assert await late.is_refused("42", None, at_s=late.clock.now_s)
    assert await late.is_refused("7", "s9", at_s=early)
    assert not await late.is_refused("42", "own", at_s=early)
    assert not await late.is_refused("7", "s1", at_s=early)
    assert not await late.is_refused("42", "s1", at_s=late.clock.now_s + 1)
    assert not await late.is_refused("42", "s1", at_s=None)


async def test_a_later_revocation_with_exceptions_takes_nothing_back_of_an_earlier_one() -> None:
    late = Late(MemoryStore())
    early = late.clock.now_s - 10
    await late.asked.disconnect_user("42")
    late.clock.now_s += 1
    await late.asked.disconnect_user("42", except_=["s1"])
    assert await late.is_refused("42", "s1", at_s=early)


async def test_clients_are_let_in_and_counted_when_the_notes_cannot_be_written_or_read() -> None:
    store = MemoryStore()
    late = Late(store)
    await store.close()
    assert await late.asked.disconnect_user("42") == Disconnected(0, 1, True)
    assert not await late.is_refused("42", "s1", at_s=1.0)
    assert (late.counters.unnoted, late.counters.unchecked) == (1, 1)


async def test_who_can_be_asked_about_again_costs_no_look_at_the_notes() -> None:
    store = MemoryStore()
    late = Late(store)
    await store.close()

    async def again() -> Identity:
        raise AssertionError("nobody asks")

    identity = Identity(user_id="42")._proved_by(again, at_s=1.0)
    for who in (identity, Identity(user_id="42"), None):
        with entering(late.other, "42", who) as entrant:
            await late.other.look_up(entrant)
            late.other.check(entrant)
    assert late.counters.unchecked == 0


async def test_notes_hold_no_user_and_no_session() -> None:
    store = MemoryStore()
    await Late(store).asked.disconnect_user("canary-user", except_=["canary-session"])
    content = repr(vars(store))
    assert len(store) == 1
    assert "canary" not in content


@pytest.mark.parametrize(
    "entry", [b"", b"7", b"{}", b'{"at":"x","except":[]}', b'{"at":true,"except":[]}', b'{"at":9e9}']
)
async def test_a_note_that_nobody_of_ours_wrote_refuses_nobody(entry: bytes) -> None:
    store = MemoryStore()
    late = Late(store)
    notes = Notes(store, scope="c", counters=RevocationCounters(), journal=Journal())
    await store.note(notes._key("user", "42"), entry, at_s=1.0, ttl_s=35)
    assert not await late.is_refused("42", None, at_s=1.0)

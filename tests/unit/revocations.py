"""Replicas with their revocations and re-checks, put together as a manager does it, and the application's database."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from antiphon.auth import Identity, Refused, Revoked
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.presence import Census
from antiphon.publication import new_publication
from antiphon.relay import Relay
from antiphon.relays import LocalRelay
from antiphon.revocation import Entrant, Rechecks, RevocationCounters, Revocations
from tests.unit.browsers import nothing_left, until
from tests.unit.lanes import NotedLane, NotedTransport

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

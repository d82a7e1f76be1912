"""Asking again and again whether those who are connected may still be."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import pytest
from starlette.requests import HTTPConnection

from antiphon.auth import CookieSession, Identity, Revoked, SessionExpired
from antiphon.brokers.memory_store import MemoryStore
from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.revocation import Rechecks, identity_of
from antiphon.security import Security
from antiphon.tickets import Tickets
from tests.unit.browsers import settle, until
from tests.unit.revocations import CUT, Database, Fleet, Replica, now_s, texts
from tests.unit.test_tickets import handshake

pytestmark = pytest.mark.virtual_time


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

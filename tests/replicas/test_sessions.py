"""Somebody may no longer be here, or hear what he hears: his sockets end everywhere, and he does not come back in.

The three replicas of a cluster have a way to the sockets each: a server's own, the one installed, the protocol class.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.replicas.client import Client
from tests.replicas.cluster import Kind
from tests.replicas.guarded import Database, GuardedCluster, Program, check_quiet, guarded, join, start
from tests.replicas.replica import Replica, eventually
from tests.replicas.report import Report

KINDS: tuple[Kind, ...] = ("valkey", "redis")
NAMES = ("R1", "R2", "R3")
NOT_SIGNED_IN, REVOKED, FORBIDDEN = 4501, 4502, 4503
RECHECK_S = 1.5
WAIT_S = 30.0


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """One for all tests here, which have users of their own."""
    database = Database(tmp_path_factory.mktemp("sessions") / "sessions.db")
    yield database
    database.close()


@pytest.fixture(scope="module")
def shared(database: Database) -> Iterator[GuardedCluster]:
    """Three replicas that look into the database, and by themselves hardly ever."""
    cluster = start(NAMES, environment={"SESSIONS": str(database.path), "RECHECK_S": "600"})
    yield cluster
    cluster.close()


@pytest.fixture
async def site(shared: GuardedCluster) -> AsyncIterator[GuardedCluster]:
    """The same for one test, with nobody connected."""
    await shared.until_complete()
    await shared.until_connected(0)
    yield shared
    check_quiet(shared)


async def closed(client: Client) -> int:
    async with asyncio.timeout(WAIT_S):
        return await asyncio.shield(client.closed)


async def is_refused(replica: Replica, cookie: str) -> bool:
    """Whether a handshake with this cookie is accepted for nothing but to be told that nobody is signed in."""
    late = await join(replica, "late", cookie=cookie)
    return await closed(late) == NOT_SIGNED_IN and not late.listener.receipts and not late.others


async def until_all_hear(clients: list[Client], program: Program) -> None:
    """Wait until each has got a message that was published from now on."""
    now = len(program.at)

    async def look() -> int:
        return min(max(program.heard_by(client.listener), default=-1) for client in clients)

    await eventually(look, lambda sequence: sequence >= now, what="a message at everybody")


def heard_after(client: Client, program: Program, at: float) -> list[int]:
    """Messages that were published after `at` and reached this client."""
    return [sequence for sequence in program.heard_by(client.listener) if program.at[sequence] > at]


async def test_logout_ends_the_socket_on_another_replica_at_once(
    site: GuardedCluster, database: Database, report: Report
) -> None:
    """S09"""
    options = {"SESSIONS": str(database.path), "RECHECK_S": "600"}
    async with guarded(*NAMES, kind="redis", environment=options) as also:
        await asyncio.gather(log_out(site, database, report, "valkey"), log_out(also, database, report, "redis"))


async def log_out(site: GuardedCluster, database: Database, report: Report, kind: Kind) -> None:
    """Twice from each replica to the next one, and then back in at the third."""
    took_s = []
    async with Program(site.broker, per_s=50) as program:
        stay = [await join(site[name], f"stays at {name}", cookie=database.sign_in("ann")[0]) for name in NAMES]
        for number in range(6):
            here, there, elsewhere = (site[NAMES[(number + step) % 3]] for step in range(3))
            cookie, session = database.sign_in("ann")
            leaves = await join(there, f"leaves{number}", cookie=cookie)
            await until_all_hear([*stay, leaves], program)
            database.end(session)
            begun = time.monotonic()
            done = await here.post("/end", {"session": session})
            assert await closed(leaves) == REVOKED
            took_s.append(time.monotonic() - begun)
            assert (done["connections"], done["replicas"], done["complete"]) == (1, 3, True)
            assert not heard_after(leaves, program, done["returned"])
            assert await is_refused(elsewhere, cookie)
        await until_all_hear(stay, program)
    assert {client.close_code for client in stay} == {None}
    await asyncio.gather(*(client.close() for client in stay))
    await site.until_connected(0)
    report.within(f"S09 {kind}", "logout: socket closed on another replica, longest of 6", max(took_s), target_s=1)


async def test_password_change_keeps_the_own_session_alone(
    site: GuardedCluster, database: Database, report: Report
) -> None:
    """S10"""
    own, others, other_user = (
        database.sign_in("ann"),
        [database.sign_in("ann") for _ in range(3)],
        database.sign_in("bob"),
    )
    # The own session has two tabs, on two replicas.
    kept = [await join(site[name], f"own {name}", cookie=own[0]) for name in ("R1", "R2")]
    kept.append(await join(site["R3"], "bob", cookie=other_user[0]))
    cut = [await join(site[f"R{at}"], f"other {at}", cookie=other[0]) for at, other in enumerate(others, 1)]
    async with Program(site.broker, per_s=50) as program:
        await until_all_hear(kept + cut, program)
        database.end_all("ann", but=own[1])
        begun = time.monotonic()
        done = await site["R1"].post("/end", {"user": "ann", "except": [own[1]]})
        assert [await closed(client) for client in cut] == [REVOKED] * 3
        took_s = time.monotonic() - begun
        assert (done["connections"], done["complete"]) == (3, True)
        await until_all_hear(kept, program)
        assert not [client.listener.name for client in cut if heard_after(client, program, done["returned"])]
    assert [await is_refused(site["R2"], cookie) for cookie, _ in others] == [True] * 3
    again = await join(site["R3"], "own, again", cookie=own[0])
    await site.until_connected(4)
    assert {client.close_code for client in [*kept, again]} == {None}
    await asyncio.gather(*(client.close() for client in [*kept, again]))
    report.within("S10", "password change: other sessions closed on three replicas", took_s, target_s=1)


@pytest.mark.parametrize("what", ["ban", "log out everywhere"])
async def test_nobody_of_a_user_is_left(site: GuardedCluster, database: Database, report: Report, what: str) -> None:
    """S10"""
    sessions = [database.sign_in("ann") for _ in range(6)]
    cut = [await join(site[f"R{at % 3 + 1}"], f"ann {at}", cookie=cookie) for at, (cookie, _) in enumerate(sessions)]
    stays = await join(site["R1"], "bob", cookie=database.sign_in("bob")[0])
    await site.until_connected(7)
    database.end_all("ann")
    begun = time.monotonic()
    done = await site["R2"].post("/end", {"user": "ann"})
    assert [await closed(client) for client in cut] == [REVOKED] * 6
    took_s = time.monotonic() - begun
    assert (done["connections"], done["replicas"], done["complete"]) == (6, 3, True)
    assert [await is_refused(site[f"R{at % 3 + 1}"], cookie) for at, (cookie, _) in enumerate(sessions)] == [True] * 6
    if what == "log out everywhere":
        back = await join(site["R3"], "ann, signed in again", cookie=database.sign_in("ann")[0])
        await site.until_connected(2)
        await back.close()
    await site.until_connected(1)
    assert stays.close_code is None
    await stays.close()
    report.within("S10", f"{what}: 6 sockets closed on three replicas", took_s, target_s=1)


async def test_whoever_connects_while_the_user_is_banned_does_not_slip_through(
    site: GuardedCluster, database: Database
) -> None:
    """S10"""
    cookie, _ = database.sign_in("ann")
    coming: list[asyncio.Task[Client]] = []

    async def come(count: int) -> None:
        for _ in range(count):
            number = len(coming)
            coming.append(asyncio.create_task(join(site[f"R{number % 3 + 1}"], f"ann {number}", cookie=cookie)))
            await asyncio.sleep(0.002)

    await come(30)
    database.end_all("ann")
    done, _ = await asyncio.gather(site["R1"].post("/end", {"user": "ann"}), come(30))
    assert done["complete"]
    codes = [await closed(await task) for task in coming]
    assert set(codes) == {NOT_SIGNED_IN, REVOKED}
    await site.until_connected(0)


async def test_revocation_that_is_lost_with_the_broker_is_found_by_the_next_recheck(
    database: Database, report: Report
) -> None:
    """S11"""
    await asyncio.gather(*(lose_the_revocation(database, report, kind) for kind in KINDS))


async def lose_the_revocation(database: Database, report: Report, kind: Kind) -> None:
    options = {"SESSIONS": str(database.path), "RECHECK_S": str(RECHECK_S)}
    async with guarded(*NAMES, kind=kind, environment=options) as site:
        (cookie, session), (banned, _) = database.sign_in("ann"), database.sign_in(f"eve {kind}")
        bob, _ = database.sign_in("bob")
        stay = [await join(site[name], f"bob at {name}", cookie=bob) for name in NAMES]
        leave = [await join(site[name], f"ann at {name}", cookie=cookie) for name in NAMES[1:]]
        leave += [await join(site[name], f"eve at {name}", cookie=banned) for name in NAMES]
        await site.until_connected(8)
        await asyncio.to_thread(site.broker.kill)
        await site.until("degraded")
        database.end(session)
        database.end_all(f"eve {kind}")
        begun = time.monotonic()
        done = await site["R1"].post("/end", {"session": session})
        assert (done["connections"], done["replicas"], done["complete"]) == (0, 1, False)
        assert [await is_refused(site[name], cookie) for name in NAMES] == [True] * 3
        assert [await closed(client) for client in leave] == [REVOKED] * 5
        took_s = time.monotonic() - begun
        # Who may come still gets in, and nobody else was cut.
        stay.append(await join(site["R1"], "carl", cookie=database.sign_in("carl")[0]))
        await site.until_connected(4)
        await asyncio.to_thread(site.broker.restart)
        await site.until("up")
        assert {client.close_code for client in stay} == {None}
    report.within(f"S11 {kind}", "revoked while the broker is away: found by the re-check", took_s, target_s=RECHECK_S)


async def test_everybody_is_asked_about_again_when_the_broker_is_back(database: Database) -> None:
    """S11"""
    async with guarded(*NAMES, environment={"SESSIONS": str(database.path), "RECHECK_S": "600"}) as site:
        # One user's session is ended in the database and by a message, the other one's in the database alone.
        sessions = {name: [database.sign_in(user) for user in ("ann", "eve")] for name in NAMES}
        leave = [await join(site[name], name, cookie=cookie) for name in NAMES for cookie, _ in sessions[name]]
        bob, _ = database.sign_in("bob")
        stay = [await join(site[name], f"bob at {name}", cookie=bob) for name in NAMES]
        await asyncio.to_thread(site.broker.kill)
        await site.until("degraded")
        for at, name in enumerate(NAMES):
            (_, told), (_, untold) = sessions[name]
            database.end(told)
            database.end(untold)
            done = await site[NAMES[at - 1]].post("/end", {"session": told})
            assert (done["connections"], done["complete"]) == (0, False)
        assert {client.close_code for client in leave} == {None}
        await asyncio.to_thread(site.broker.restart)
        # The next re-check by itself would be in ten minutes.
        assert [await closed(client) for client in leave] == [REVOKED] * 6
        await site.until("up")
        await site.until_connected(3)
        assert {client.close_code for client in stay} == {None}


async def test_topic_is_taken_away_with_the_role_by_event(
    site: GuardedCluster, database: Database, report: Report
) -> None:
    """S14"""
    took_s = await lose_the_role(site, database, event=True)
    report.within("S14", "role lost: unsubscribed by event", took_s, target_s=1)


async def test_topic_is_taken_away_with_the_role_by_the_next_recheck(database: Database, report: Report) -> None:
    """S14"""
    async with guarded(*NAMES, environment={"SESSIONS": str(database.path), "RECHECK_S": str(RECHECK_S)}) as site:
        took_s = await lose_the_role(site, database, event=False)
    report.within("S14", "role lost: unsubscribed by the re-check", took_s, target_s=RECHECK_S)


async def lose_the_role(site: GuardedCluster, database: Database, *, event: bool) -> float:
    """Take the role that topic "staff" needs from a user with two sockets on each replica; returns how long it took."""
    ended = {"type": "unsubscribed", "topic": "staff", "code": "forbidden"}
    cookie, _ = database.sign_in("dora", roles="team")
    colleague = await join(site["R1"], "emil", cookie=database.sign_in("emil", roles="team")[0], topics=["staff"])
    plain = [await join(site[name], f"dora {name}", cookie=cookie, topics=["staff", "news"]) for name in NAMES]
    modern = [await join(site[name], f"dora {name}, antiphon.v1", cookie=cookie, v1=True) for name in NAMES]
    for client in modern:
        client.send_json({"type": "subscribe", "topic": "staff", "ref": 1})
        await client.expect(lambda message: message == {"type": "subscribed", "topic": "staff", "ref": 1})
    async with (
        Program(site.broker, per_s=50, topic="staff", name="staff") as staff,
        Program(site.broker, per_s=50, topic="news", name="news") as news,
    ):
        await until_all_hear([colleague, *plain], staff)
        database.set_roles("dora", "")
        begun = time.monotonic()
        if event:
            await asyncio.gather(*(site[name].post("/recheck", {}) for name in NAMES))
        for client in modern:
            await client.expect(lambda message: message == ended)
        told = time.monotonic()
        for client in modern:
            client.send_json({"type": "subscribe", "topic": "staff", "ref": 2})
            answer = await client.expect(lambda message: isinstance(message, dict) and message.get("ref") == 2)
            assert isinstance(answer, dict)
            assert (answer["type"], answer["code"]) == ("error", "forbidden")
        await until_all_hear([colleague], staff)
        await until_all_hear(plain, news)
        assert heard_after(colleague, staff, told)
        assert not [client.listener.name for client in plain if heard_after(client, staff, told)]
    for client in modern:
        later = client.others[client.others.index(ended) :]
        assert not [message for message in later if isinstance(message, dict) and message["type"] == "message"]
    assert {client.close_code for client in (colleague, *plain, *modern)} == {None}
    # A client that comes back has lost it too.
    for name in NAMES:
        assert await closed(await join(site[name], "dora, again", cookie=cookie, topics=["staff"])) == FORBIDDEN
    await asyncio.gather(*(client.close() for client in (colleague, *plain, *modern)))
    return told - begun

"""Limits on connections hold over all replicas together, and what a killed replica held is free again soon.

The three replicas of a cluster have a way to the sockets each: a server's own, the one installed, the protocol class.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.replicas.client import Client, Refused
from tests.replicas.cluster import Kind
from tests.replicas.guarded import Database, GuardedCluster, guarded, join
from tests.replicas.replica import Replica, eventually
from tests.replicas.report import Report
from tests.transports.raw_client import unconnected_client

KINDS: tuple[Kind, ...] = ("valkey", "redis")
TOO_MANY, NOT_SIGNED_IN = 4504, 4501
REFUSED = "HTTP/1.1 429 Too Many Requests"
NAMES = ("R1", "R2", "R3")
PER_USER, PER_ADDRESS = 10, 50
DEAD_AFTER_S = 2.0
HALF_HANDSHAKES = 1_000
NEVER = -1
"""What PTTL says of a key that does not expire."""
AT_ONCE = 100


async def outcome(replica: Replica, name: str, *, cookie: str | None = None, address: str = "") -> Client | str:
    """A client that was let in; or the close code, or the HTTP status, with which it was not."""
    headers = [("X-Forwarded-For", address)] if address else []
    try:
        client = await join(replica, name, cookie=cookie, headers=headers)
    except Refused as refused:
        return str(refused).rpartition(": ")[2]
    # Who is let in is answered; who is not is closed, perhaps a while later, when it has been looked at twice.
    client.send_json({"ping": 1})
    ended = asyncio.ensure_future(asyncio.shield(client.closed))
    answered = asyncio.ensure_future(client.expect(lambda message: message == {"answer": {"ping": 1}}, timeout_s=60.0))
    both: list[asyncio.Future[Any]] = [ended, answered]
    await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    if answered.done() and answered.exception() is None:
        ended.cancel()
        return client
    answered.cancel()
    return str(await client.closed)


def check_let_in(found: list[Client | str], count: int, *, refusal: str = str(TOO_MANY)) -> list[Client]:
    """Those that were let in, which must be so many; all others must have been refused in this way."""
    let_in = [one for one in found if isinstance(one, Client)]
    assert (len(let_in), {one for one in found if isinstance(one, str)} - {refusal}) == (count, set()), found
    return let_in


async def refused_at(cluster: GuardedCluster, kind: str) -> int:
    return sum([(await replica.state())["refused"].get(kind, 0) for replica in cluster.running])


async def test_user_has_so_many_sockets_on_all_replicas_together(tmp_path: Path, report: Report) -> None:
    """S21"""
    database = Database(tmp_path / "sessions.db")
    await asyncio.gather(*(limit_users(database, report, kind) for kind in KINDS))
    database.close()


async def limit_users(database: Database, report: Report, kind: Kind) -> None:
    cookie, other = database.sign_in("ann")[0], database.sign_in("bob")[0]
    options = {"SESSIONS": str(database.path), "PER_USER": str(PER_USER), "DEAD_AFTER_S": str(DEAD_AFTER_S)}
    async with guarded(*NAMES, kind=kind, environment=options) as cluster:

        async def enter(name: str, cookie: str = cookie) -> Client | str:
            return await outcome(cluster[name], f"at {name}", cookie=cookie)

        # Ten at once, and an eleventh on each replica: there is no moment in which more get in.
        held = check_let_in(await asyncio.gather(*(enter(f"R{at % 3 + 1}") for at in range(PER_USER))), PER_USER)
        begun = time.monotonic()
        check_let_in(await asyncio.gather(*map(enter, NAMES)), 0)
        refused_s = time.monotonic() - begun
        assert isinstance(await enter("R2", other), Client)
        assert await refused_at(cluster, "too_many_connections") == 3

        # Two leave, one without a word, and three come: there are two places, wherever they come.
        await held.pop(0).close()
        held.pop(0).abort()
        await cluster.until_connected(PER_USER - 1)  # with the one of the other user
        held += check_let_in(await asyncio.gather(*map(enter, NAMES)), 2)

        # What a killed replica held counts until it is known to be dead, and not a moment longer.
        lost = [client for client in held if client.listener.replica == "R3"]
        await asyncio.to_thread(cluster["R3"].kill)
        begun = time.monotonic()
        found = await asyncio.gather(*(enter(f"R{number % 2 + 1}") for number in range(len(lost) + 2)))
        back_s = time.monotonic() - begun
        check_let_in(found, len(lost))
        # Nor does the broker keep for ever what the dead one had written there.
        keys = cluster.command("KEYS", "*")
        assert keys
        assert [key for key in keys if cluster.command("PTTL", key) == NEVER] == []
    report.within(f"S21 {kind}", f"{len(lost)} clients of a killed replica let in by the others", back_s, target_s=4.0)
    report.add(f"S21 {kind}", "an eleventh socket refused, on three replicas", f"{refused_s:.3f} s")


async def test_address_has_so_many_sockets_on_all_replicas_together() -> None:
    """S21"""
    options = {"PER_ADDRESS": str(PER_ADDRESS), "DEAD_AFTER_S": str(DEAD_AFTER_S)}
    async with guarded(*NAMES, environment=options) as cluster:

        async def enter(number: int, address: str) -> Client | str:
            return await outcome(cluster[f"R{number % 3 + 1}"], f"c{number}", address=address)

        held = check_let_in(
            await asyncio.gather(*(enter(number, "203.0.113.7") for number in range(PER_ADDRESS))), PER_ADDRESS
        )
        # One network of IPv6 is one household, or one attacker.
        check_let_in(
            await asyncio.gather(*(enter(number, f"2001:db8:0:1::{number:x}") for number in range(PER_ADDRESS))),
            PER_ADDRESS,
        )
        found = await asyncio.gather(
            # What a client writes into the header itself stands to the left of what the proxy adds.
            *(enter(number, f"198.51.100.{number}, 203.0.113.7") for number in range(3)),
            enter(0, "2001:db8:0:1:ffff::1"),
            enter(1, "2001:db8:0:2::1"),
            enter(2, "203.0.113.8"),
        )
        check_let_in(found, 2, refusal=REFUSED)
        assert [isinstance(one, Client) for one in found[4:]] == [True, True]

        for client in held[:10]:
            client.abort()
        await cluster.until_connected(2 * PER_ADDRESS + 2 - 10)
        check_let_in(await asyncio.gather(*(enter(number, "203.0.113.7") for number in range(12))), 10, refusal=REFUSED)


async def test_a_thousand_who_never_sign_in_hold_no_more_than_one_address_may(tmp_path: Path, report: Report) -> None:
    """S21"""
    database = Database(tmp_path / "sessions.db")
    await asyncio.gather(*(never_sign_in(database, report, way) for way in ("asgi", "protocol")))
    database.close()


async def never_sign_in(database: Database, report: Report, way: str) -> None:
    cookie, _ = database.sign_in("ann")
    options = {"SESSIONS": str(database.path), "PER_ADDRESS": str(PER_ADDRESS), "FIRST_MESSAGE_S": "4"}
    async with guarded("R1", way=way, environment=options) as cluster:
        replica = cluster["R1"]
        before = await replica.state()
        free = asyncio.Semaphore(AT_ONCE)
        waiting: list[Client] = []
        answers: Counter[str] = Counter()

        async def attack(number: int) -> None:
            async with free:
                try:
                    # No cookie: the socket is accepted, and the first message should say who it is.
                    client = await join(replica, f"half {number}", headers=[("X-Forwarded-For", "203.0.113.7")])
                except Refused as refused:
                    answers[str(refused).rpartition(": ")[2]] += 1
                else:
                    answers["101"] += 1
                    waiting.append(client)

        begun = time.monotonic()
        await asyncio.gather(*(attack(number) for number in range(HALF_HANDSHAKES)))
        took_s = time.monotonic() - begun
        good = await outcome(replica, "ann", cookie=cookie, address="203.0.113.8")
        assert isinstance(good, Client), good
        assert answers.total() == HALF_HANDSHAKES
        assert set(answers) == {"101", REFUSED}
        assert (await replica.state())["connections"] == 1
        # Nobody waits for ever, and then their places are free.
        codes = Counter([await client.closed for client in waiting])
        assert set(codes) == {NOT_SIGNED_IN}
        # A machine that is so slow that some were given up meanwhile let others in.
        rounds = 1 + took_s // 4
        assert PER_ADDRESS <= answers["101"] <= PER_ADDRESS * rounds
        late = await outcome(replica, "ann again", cookie=cookie, address="203.0.113.7")
        assert isinstance(late, Client), late
        await asyncio.gather(good.close(), late.close())
        await cluster.until_connected(0)
        await until_descriptors(replica, before["fds"])
    measure = f"{HALF_HANDSHAKES} handshakes without credentials, {answers[REFUSED]} of them refused"
    report.add(f"S21 {way}", measure, f"{took_s:.2f} s")


async def until_descriptors(replica: Replica, count: int) -> None:
    """Wait until a replica holds no more of them than before."""
    await eventually(replica.state, lambda now: abs(now["fds"] - count) <= 3, what=f"{count} descriptors again")


async def test_handshakes_that_stop_half_way_keep_nobody_out() -> None:
    """S21"""
    async with guarded(*NAMES) as cluster:
        await asyncio.gather(*map(stop_half_way, cluster.replicas))


async def stop_half_way(replica: Replica) -> None:
    before = await replica.state()
    async with contextlib.AsyncExitStack() as stack:
        for number in range(300):
            half = await stack.enter_async_context(unconnected_client(replica.port))
            head = f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{replica.port}\r\nUpgrade: websock"
            await half.send(head[: 40 + number % 40].encode())
        good = await outcome(replica, "good")
        assert isinstance(good, Client), good
        during = await replica.state()
        # Nothing of the library knows of them: no task, no connection, and little memory.
        assert (during["connections"], during["tasks"] - before["tasks"]) <= (1, 5)
        assert during["rss_bytes"] - before["rss_bytes"] < 300 * 64 * 1024
    await good.close()
    await until_descriptors(replica, before["fds"])

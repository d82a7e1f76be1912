"""Limits on connections over real servers: exact on several replicas, and right again after whatever fails."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from antiphon.auth import TooManyConnections
from antiphon.brokers.redis_store import RedisStore
from antiphon.dev.broker_server import BrokerServer
from antiphon.quotas import Quotas, QuotaTimings
from tests.contracts.test_redis_servers import DEADLINE_S, tell

QUICK = QuotaTimings(beat_every_s=0.2, dead_after_s=10.0, second_try_s=0, renew_every_s=1.0, lease_s=30.0)


@asynccontextmanager
async def replicas_at(
    server: BrokerServer,
    count: int,
    *,
    per_user: int = 10,
    store_timeout_s: float = 20.0,
    timings: QuotaTimings = QUICK,
) -> AsyncIterator[list[Quotas]]:
    """Replicas with a connection each. Patient with the server: the machine may be busy."""
    stores = [RedisStore(server.url, timeout_s=store_timeout_s) for _ in range(count)]
    replicas = [Quotas(store, per_user=per_user, timings=timings) for store in stores]
    for quotas in replicas:
        quotas.start()
    await eventually(lambda: all_shared(replicas))
    yield replicas
    for quotas, store in zip(replicas, stores, strict=True):
        await quotas.close()
        await store.close()


async def all_shared(replicas: list[Quotas]) -> bool:
    return all(quotas.is_shared for quotas in replicas)


async def eventually(question: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await question():
            await asyncio.sleep(0.02)


async def enters(quotas: Quotas, id: str) -> bool:
    try:
        await quotas.enter(id, "ann", None)
    except TooManyConnections:
        return False
    return True


async def counts(quotas: Quotas, number: int) -> bool:
    return await quotas.count(user_id="ann") == number


@pytest.mark.every_loop
async def test_exactly_the_limit_gets_in_when_50_enter_at_once_on_three_replicas(own_server: BrokerServer) -> None:
    async with replicas_at(own_server, 3) as replicas:
        for round_number in range(5):
            ids = [(quotas, f"{round_number}-{number}") for number in range(17) for quotas in replicas]
            results = await asyncio.gather(*[enters(quotas, id) for quotas, id in ids])
            assert results.count(True) == 10
            assert await replicas[0].count(user_id="ann") == 10
            for quotas, id in ids:
                quotas.leave(id)
            await eventually(lambda: counts(replicas[0], 0))


async def test_nothing_leaks_when_1000_connections_come_and_go(own_server: BrokerServer) -> None:
    async with replicas_at(own_server, 2, per_user=40) as replicas:
        for start in range(0, 1_000, 50):
            ids = [(replicas[number % 2], str(number)) for number in range(start, start + 50)]
            await asyncio.gather(*[enters(quotas, id) for quotas, id in ids])
            for quotas, id in ids:
                quotas.leave(id)
        await eventually(lambda: counts(replicas[0], 0))
        assert [len(quotas) for quotas in replicas] == [0, 0]
        assert b"keys=2,expires=2" in tell(own_server, "INFO keyspace")  # a beat for each replica
    assert b"keys=" not in tell(own_server, "INFO keyspace")


REPLICA = """
import asyncio, sys
from antiphon.brokers.redis_store import RedisStore
from antiphon.quotas import Quotas

async def main():
    quotas = Quotas(RedisStore(sys.argv[1], timeout_s=20.0), per_user=10)
    for number in range(10):
        await quotas.enter(str(number), "ann", None)
    print(await quotas.count(user_id="ann"), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_user_of_a_killed_replica_is_let_in_when_coming_back_at_once(own_server: BrokerServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", REPLICA, own_server.url, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"10\n"
        async with replicas_at(own_server, 1, timings=QuotaTimings()) as [quotas]:
            await eventually(lambda: counts(quotas, 10))
            process.send_signal(signal.SIGKILL)
            assert all(await asyncio.gather(*[enters(quotas, str(number)) for number in range(10)]))
            assert not await enters(quotas, "refused")
            assert await quotas.count(user_id="ann") == 10
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_places_are_entered_again_when_the_server_was_emptied(own_server: BrokerServer) -> None:
    async with replicas_at(own_server, 2) as [one, two]:
        for number in range(10):
            assert await enters(one, str(number))
        tell(own_server, "FLUSHALL")
        await eventually(lambda: counts(two, 10))
        assert not await enters(two, "1")


async def test_places_are_entered_again_when_the_server_is_back(own_server: BrokerServer) -> None:
    async with replicas_at(own_server, 2) as [one, two]:
        for number in range(5):
            assert await enters(one, str(number))
        own_server.kill()
        assert await enters(one, "new")
        one.leave("0")
        for number in range(9):
            assert await enters(two, str(number))  # nobody knows of the others now
        assert not one.is_shared
        own_server.restart()
        await eventually(lambda: all_shared([one, two]))
        await eventually(lambda: counts(one, 14))
        assert not await enters(one, "more")
        assert one.counters.unshared == 1
        for number in range(5):
            two.leave(str(number))
        await eventually(lambda: enters(one, "more"))
        assert await two.count(user_id="ann") == 10


async def test_nobody_waits_when_the_server_is_known_to_be_frozen(own_server: BrokerServer) -> None:
    async with replicas_at(own_server, 1, per_user=1_000, store_timeout_s=1.0) as [quotas]:
        assert await enters(quotas, "first")
        own_server.freeze()
        since = time.monotonic()
        assert all(await asyncio.gather(*[enters(quotas, f"a{number}") for number in range(100)]))
        assert time.monotonic() - since < 5.0
        assert not quotas.is_shared
        calls = quotas.counters.unshared
        for number in range(500):
            coroutine = quotas.enter(f"b{number}", "ann", None)
            with pytest.raises(StopIteration):  # it ends without having waited for anything
                coroutine.send(None)
        assert quotas.counters.unshared == calls + 500
        own_server.thaw()
        await eventually(lambda: all_shared([quotas]))
        await eventually(lambda: counts(quotas, 601))

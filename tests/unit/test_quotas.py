from __future__ import annotations

import asyncio
import gc
import logging
import tracemalloc
from collections.abc import Awaitable, Collection, Mapping

import pytest

from antiphon.auth import TooManyConnections
from antiphon.brokers.memory_store import MemoryStore
from antiphon.brokers.store import Lease
from antiphon.codes import CloseCode
from antiphon.errors import BrokerTimeout, BrokerUnavailable, ConfigurationError
from antiphon.quotas import Quotas, QuotaTimings

pytestmark = pytest.mark.virtual_time


class FaultyStore:
    """A way to a shared store that can be cut (`down`) or go silent (`frozen`)."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.down = False
        self.frozen = False
        self.bug: Exception | None = None
        self.calls = 0

    @property
    def address(self) -> str:
        return "memory"

    async def _ask(self) -> None:
        self.calls += 1
        await asyncio.sleep(0.001)
        if self.bug is not None:
            raise self.bug
        if self.frozen:
            await asyncio.sleep(1.0)
            raise BrokerTimeout("no answer")
        if self.down:
            raise BrokerUnavailable("nobody there")

    async def put_once(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        await self._ask()
        return await self._store.put_once(key, value, ttl_s=ttl_s)

    async def take(self, key: str) -> bytes | None:
        await self._ask()
        return await self._store.take(key)

    async def note(self, key: str, entry: bytes, *, at_s: float, ttl_s: float) -> None:
        await self._ask()
        await self._store.note(key, entry, at_s=at_s, ttl_s=ttl_s)

    async def notes(self, keys: Collection[str]) -> list[bytes]:
        await self._ask()
        return await self._store.notes(keys)

    async def beat(self, owner: str, *, ttl_s: float) -> bool:
        await self._ask()
        return await self._store.beat(owner, ttl_s=ttl_s)

    async def end(self, owner: str) -> None:
        await self._ask()
        await self._store.end(owner)

    async def hold(self, owner: str, member: str, limits: Mapping[str, int], *, ttl_s: float) -> str | None:
        await self._ask()
        return await self._store.hold(owner, member, limits, ttl_s=ttl_s)

    async def renew(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> None:
        await self._ask()
        await self._store.renew(owner, leases, ttl_s=ttl_s)

    def release(self, owner: str, leases: Collection[Lease]) -> Awaitable[object]:
        return asyncio.ensure_future(self._release(owner, leases))

    async def _release(self, owner: str, leases: Collection[Lease]) -> None:
        if self.down or self.frozen:
            raise BrokerUnavailable("nobody there")
        await self._store.release(owner, leases)

    async def count(self, key: str) -> int:
        await self._ask()
        return await self._store.count(key)

    async def close(self) -> None:
        await self._store.close()


def shared_store() -> MemoryStore:
    return MemoryStore(asyncio.get_running_loop().time)


async def enters(quotas: Quotas, id: str, user_id: str | None = "ann", address: str | None = None) -> bool:
    try:
        await quotas.enter(id, user_id, address)
    except TooManyConnections:
        return False
    return True


def kill(quotas: Quotas) -> None:
    """As SIGKILL does: it says nothing more."""
    assert quotas._places is not None
    assert quotas._places._task is not None
    quotas._places._task.cancel()


# -- on one replica --------------------------------------------------------------------------------------------------


async def test_user_is_refused_at_the_limit_and_let_in_when_one_has_left() -> None:
    quotas = Quotas(per_user=2)
    await quotas.enter("1", "ann", None)
    await quotas.enter("2", "ann", None)
    with pytest.raises(TooManyConnections, match="limit is 2 connections of one user") as refused:
        await quotas.enter("3", "ann", None)
    assert refused.value.close_code is CloseCode.TOO_MANY_CONNECTIONS
    assert not refused.value.before_upgrade
    await quotas.enter("4", "bob", None)
    quotas.leave("1")
    quotas.leave("1")
    await quotas.enter("3", "ann", None)
    assert quotas.counters.refused == {"user": 1}
    assert await quotas.count(user_id="ann") == 2
    assert len(quotas) == 3


async def test_address_is_refused_before_the_upgrade() -> None:
    quotas = Quotas(per_user=None, per_address=1)
    await quotas.enter("1", "ann", "192.0.2.1")
    with pytest.raises(TooManyConnections, match="one address") as refused:
        await quotas.enter("2", "bob", "192.0.2.1")
    assert refused.value.before_upgrade
    assert refused.value.http_status == 429
    assert quotas.counters.refused == {"address": 1}
    assert await quotas.count(address="192.0.2.1") == 1


async def test_nothing_is_counted_when_only_the_address_is_refused() -> None:
    quotas = Quotas(per_user=5, per_address=1)
    await quotas.enter("1", "ann", "192.0.2.1")
    assert not await enters(quotas, "2", "ann", "192.0.2.1")
    assert await quotas.count(user_id="ann") == 1


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("2001:db8::1", "2001:db8::ffff:2", True),
        ("2001:db8:0:0:1::1", "2001:db8:0:0:ffff::1", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("fe80::1%eth0", "fe80::2%eth1", True),
        ("2001:db8::/64", "2001:db8::/64", True),
        ("", "unix", False),
    ],
)
async def test_addresses_of_one_network_count_together(one: str, other: str, together: bool) -> None:
    quotas = Quotas(per_address=1)
    assert await enters(quotas, "1", None, one)
    assert await enters(quotas, "2", None, other) is not together


async def test_nothing_is_counted_where_no_limit_applies() -> None:
    quotas = Quotas(per_user=1)
    for number in range(100):
        await quotas.enter(str(number), None, "192.0.2.1")
    assert len(quotas) == 0
    nobody = Quotas(per_user=None, per_address=None)
    await nobody.enter("1", "ann", "192.0.2.1")
    assert len(nobody) == 0


async def test_connection_counts_once_when_it_enters_twice() -> None:
    quotas = Quotas(per_user=2)
    await quotas.enter("1", "ann", None)
    await quotas.enter("1", "ann", None)
    assert await quotas.count(user_id="ann") == 1


@pytest.mark.parametrize("limit", [0, -1, True, 1.5])
def test_limit_is_refused_when_it_is_no_number_of_connections(limit: int) -> None:
    with pytest.raises(ConfigurationError, match="per_user"):
        Quotas(per_user=limit)
    with pytest.raises(ConfigurationError, match="per_address"):
        Quotas(per_address=limit)


def test_timings_are_refused_when_they_cannot_work() -> None:
    for wrong in (
        {"beat_every_s": 0},
        {"beat_every_s": 5.0},
        {"second_try_s": -1.0},
        {"renew_every_s": 200.0},
        {"lease_s": True},
    ):
        with pytest.raises(ConfigurationError, match="QuotaTimings"):
            QuotaTimings(**wrong)


# -- on several replicas ---------------------------------------------------------------------------------------------


async def test_limit_holds_over_replicas_that_share_a_store() -> None:
    store = shared_store()
    one, two = Quotas(store, per_user=2), Quotas(store, per_user=2)
    assert await enters(one, "1")
    assert await enters(two, "1")
    assert not await enters(one, "2")
    assert not await enters(two, "2")
    assert one.is_shared
    one.leave("1")
    assert await enters(two, "2")
    assert await one.count(user_id="ann") == 2
    await one.close()
    assert await two.count(user_id="ann") == 2
    await two.close()


@pytest.mark.parametrize("limit", [1, 10])
async def test_exactly_the_limit_gets_in_when_50_enter_at_once_on_five_replicas(limit: int) -> None:
    store = FaultyStore(shared_store())
    replicas = [Quotas(store, per_user=limit) for _ in range(5)]
    tries = [enters(quotas, str(number)) for number in range(10) for quotas in replicas]
    assert (await asyncio.gather(*tries)).count(True) == limit
    assert sum(map(len, replicas)) == limit
    for quotas in replicas:
        await quotas.close()


async def test_scopes_count_apart_when_they_share_a_store() -> None:
    store = shared_store()
    one, two = Quotas(store, per_user=1, scope="chat"), Quotas(store, per_user=1, scope="feed")
    assert await enters(one, "1")
    assert await enters(two, "1")
    await one.close()
    await two.close()


async def test_places_are_free_when_the_replica_has_closed() -> None:
    store = shared_store()
    one, two = Quotas(store, per_user=1), Quotas(store, per_user=1)
    assert await enters(one, "1")
    assert not await enters(two, "1")
    await one.close()
    assert await enters(two, "1")
    await two.close()


async def test_places_of_a_dead_replica_are_free_when_its_time_is_over() -> None:
    store = shared_store()
    dead, alive = Quotas(store, per_user=10), Quotas(store, per_user=10, timings=QuotaTimings(second_try_s=0))
    for number in range(10):
        assert await enters(dead, str(number))
    kill(dead)
    await asyncio.sleep(1.0)
    assert not await enters(alive, "1")
    await asyncio.sleep(2.5)
    assert await enters(alive, "1")
    assert await alive.count(user_id="ann") == 1
    await alive.close()


async def test_users_of_a_killed_replica_are_let_in_when_they_come_back_at_once() -> None:
    """Its places still count then; whoever is refused with 4504 would not come again."""
    store = shared_store()
    killed, alive = Quotas(store, per_user=10), Quotas(store, per_user=10)
    for number in range(10):
        assert await enters(killed, str(number))
    kill(killed)
    assert all(await asyncio.gather(*[enters(alive, str(number)) for number in range(10)]))
    assert not await enters(alive, "10")
    assert alive.counters.refused == {"user": 1}
    await alive.close()


async def test_only_256_wait_for_a_second_try() -> None:
    store = shared_store()
    one, two = Quotas(store, per_user=1), Quotas(store, per_user=1)
    for number in range(300):
        assert await enters(one, str(number), f"user{number}")
    loop = asyncio.get_running_loop()
    since = loop.time()
    took = []

    async def is_refused(number: int) -> None:
        assert not await enters(two, str(number), f"user{number}")
        took.append(loop.time() - since)

    await asyncio.gather(*[is_refused(number) for number in range(300)])
    assert sum(seconds >= 3.5 for seconds in took) == 256
    assert sum(seconds < 0.1 for seconds in took) == 44
    await one.close()
    await two.close()


async def test_place_is_kept_as_long_as_the_connection_lives() -> None:
    store = shared_store()
    one, two = Quotas(store, per_user=1), Quotas(store, per_user=1)
    assert await enters(one, "1")
    await asyncio.sleep(86_400.0)
    assert not await enters(two, "1")
    await one.close()
    await two.close()


async def test_nothing_leaks_when_1000_connections_come_and_go() -> None:
    store = shared_store()
    quotas = Quotas(store, per_user=5, per_address=50)
    for number in range(1_000):
        assert await enters(quotas, str(number), f"user{number % 7}", f"192.0.2.{number % 5}")
        quotas.leave(str(number))
    assert await quotas.count(user_id="user0") == 0
    assert len(quotas) == 0
    assert len(quotas._counts) == 0
    assert len(store) == 1  # the replica's own beat
    await quotas.close()
    assert len(store) == 0


async def test_connection_is_counted_out_when_entering_is_cancelled() -> None:
    memory = shared_store()
    store = FaultyStore(memory)
    quotas = Quotas(store, per_user=1)
    assert await enters(quotas, "0")
    quotas.leave("0")
    entering = asyncio.create_task(quotas.enter("1", "ann", None))
    await asyncio.sleep(0.0005)
    entering.cancel()
    with pytest.raises(asyncio.CancelledError):
        await entering
    assert await enters(quotas, "2")
    await quotas.close()


# -- outages ---------------------------------------------------------------------------------------------------------


async def test_nobody_waits_when_the_store_is_away() -> None:
    store = FaultyStore(shared_store())
    store.frozen = True
    quotas = Quotas(store, per_user=2)
    loop = asyncio.get_running_loop()
    assert await enters(quotas, "1")  # nothing was known of the store before
    assert loop.time() < 1.5
    for _ in range(5):
        since = loop.time()
        assert await enters(quotas, "2")
        assert not await enters(quotas, "3")
        quotas.leave("2")
        assert loop.time() == since
        await asyncio.sleep(3.0)
    assert not quotas.is_shared
    assert quotas.counters.unshared == 6
    await quotas.close()


async def test_entering_takes_one_time_out_when_the_store_goes_silent() -> None:
    store = FaultyStore(shared_store())
    quotas = Quotas(store, per_user=100)
    assert await enters(quotas, "0")
    store.frozen = True
    loop = asyncio.get_running_loop()
    since = loop.time()
    assert all(await asyncio.gather(*[enters(quotas, str(number)) for number in range(1, 51)]))
    assert loop.time() - since < 1.1
    assert quotas.counters.outages == 1
    since = loop.time()
    assert await enters(quotas, "51")
    assert loop.time() == since
    await quotas.close()


async def test_all_places_are_entered_again_when_the_store_is_back() -> None:
    memory = shared_store()
    ways = [FaultyStore(memory), FaultyStore(memory)]
    one, two = (Quotas(way, per_user=4) for way in ways)
    assert await enters(one, "1")
    assert await enters(two, "1")
    for way in ways:
        way.down = True
    assert await enters(one, "2")
    assert await enters(one, "3")
    one.leave("1")
    assert await enters(two, "2")
    assert await enters(two, "3")
    for way in ways:
        way.down = False
    await asyncio.sleep(5.0)
    assert one.is_shared
    assert two.is_shared
    assert await one.count(user_id="ann") == 5
    assert not await enters(one, "4")
    two.leave("1")
    two.leave("2")
    assert await enters(one, "4")
    assert await one.count(user_id="ann") == 4
    await one.close()
    await two.close()


async def test_places_are_entered_again_when_the_store_was_emptied() -> None:
    memory = shared_store()
    one, two = Quotas(memory, per_user=300), Quotas(memory, per_user=300)
    two.start()
    for number in range(300):
        assert await enters(one, str(number))
    for content in (memory._values, memory._owners, memory._places, memory._ends):
        content.clear()
    assert await two.count(user_id="ann") == 0
    await asyncio.sleep(3.0)
    assert await two.count(user_id="ann") == 300
    assert not await enters(two, "1")
    await one.close()
    await two.close()


async def test_place_that_the_store_lost_comes_back_with_the_next_renewal() -> None:
    memory = shared_store()
    quotas = Quotas(memory, per_user=1)
    assert await enters(quotas, "1")
    memory._places.clear()
    assert await quotas.count(user_id="ann") == 0
    await asyncio.sleep(65.0)
    assert await quotas.count(user_id="ann") == 1
    await quotas.close()


async def test_what_was_released_during_an_outage_does_not_count_afterwards() -> None:
    memory = shared_store()
    way = FaultyStore(memory)
    one, two = Quotas(way, per_user=3), Quotas(memory, per_user=3)
    two.start()
    for id in ("1", "2", "3"):
        assert await enters(one, id)
    way.down = True
    for id in ("1", "2", "3"):
        one.leave(id)
    await asyncio.sleep(0.1)
    assert not one.is_shared
    way.down = False
    await asyncio.sleep(3.0)
    assert await two.count(user_id="ann") == 0
    assert await enters(two, "1")
    await one.close()
    await two.close()


async def test_outage_is_said_once_and_its_end_too(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "antiphon")
    store = FaultyStore(shared_store())
    quotas = Quotas(store, per_user=1)
    assert await enters(quotas, "1")
    store.down = True
    await asyncio.sleep(60.0)
    store.down = False
    await asyncio.sleep(10.0)
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "nobody there" in caplog.text
    await quotas.close()


async def test_count_is_of_this_replica_when_the_store_is_away() -> None:
    store = FaultyStore(shared_store())
    quotas = Quotas(store, per_user=5)
    assert await enters(quotas, "1")
    store.down = True
    assert await quotas.count(user_id="ann") == 1
    assert not quotas.is_shared
    await quotas.close()


async def test_closing_ends_in_bounded_time_when_the_store_is_frozen() -> None:
    store = FaultyStore(shared_store())
    quotas = Quotas(store, per_user=5)
    assert await enters(quotas, "1")
    store.frozen = True
    since = asyncio.get_running_loop().time()
    await quotas.close()
    await quotas.close()
    assert asyncio.get_running_loop().time() - since < 1.5
    assert await enters(quotas, "2")
    quotas.leave("1")
    assert len(quotas) == 1
    assert len(asyncio.all_tasks()) == 1


async def test_who_waits_is_let_in_when_it_is_closed_at_the_start() -> None:
    store = FaultyStore(shared_store())
    store.frozen = True
    quotas = Quotas(store, per_user=5)
    entering = asyncio.create_task(quotas.enter("1", "ann", None))
    await asyncio.sleep(0)
    await quotas.close()
    await entering
    assert len(quotas) == 1


async def test_limits_hold_here_when_the_task_has_died(caplog: pytest.LogCaptureFixture) -> None:
    store = FaultyStore(shared_store())
    store.bug = ValueError("a bug")
    quotas = Quotas(store, per_user=1)
    assert await enters(quotas, "1")
    assert not await enters(quotas, "2")
    assert "a bug" in caplog.text
    await quotas.close()


def test_leaving_does_nothing_more_when_the_loop_has_ended() -> None:
    quotas = Quotas(MemoryStore(), per_user=1)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(quotas.enter("1", "ann", None))
    kill(quotas)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    quotas.leave("1")
    assert len(quotas) == 0


async def test_one_renewal_asks_once_for_256_connections() -> None:
    store = FaultyStore(shared_store())
    quotas = Quotas(store, per_user=1)
    await asyncio.gather(*[enters(quotas, str(number), f"user{number}") for number in range(512)])
    before = store.calls
    assert quotas._places is not None
    await quotas._places.renew(now=0.0)
    assert store.calls - before == 2
    await quotas.close()


def test_connection_takes_little_memory() -> None:
    """The id is the caller's, as are user and address; what is measured is what counting adds."""
    quotas = Quotas(per_user=64, per_address=256)
    names = [(f"c{number}", f"user{number}", f"10.0.{number >> 8}.{number & 255}") for number in range(10_000)]

    async def enter_all() -> None:
        for id, user_id, address in names:
            await quotas.enter(id, user_id, address)

    gc.collect()
    tracemalloc.start()
    asyncio.run(enter_all())
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken / len(names) < 500, taken / len(names)

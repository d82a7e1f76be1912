"""Every store keeps the contract: in memory, on Valkey and on Redis; and how the servers' faults show in it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import TypeVar

import pytest

from antiphon.brokers import _redis_wire, store_for
from antiphon.brokers._redis_replies import PlainReplies
from antiphon.brokers.memory_store import VALUES_LIMIT, MemoryStore
from antiphon.brokers.redis_store import RedisStore
from antiphon.brokers.store import Lease, Store
from antiphon.codes import Reason
from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import (
    BrokerError,
    BrokerRefused,
    BrokerTimeout,
    BrokerUnavailable,
    ConfigurationError,
    InvalidBrokerURL,
    WrongEventLoop,
)
from tests.conftest import StartServer
from tests.contracts.test_redis_servers import DEADLINE_S, tell, until
from tests.unit.scripted_redis import Answer, ScriptedRedis

T = TypeVar("T")
LONG_S = 600.0
COMMANDS = (
    "+multi +exec +set +get +del +exists +pexpire +zadd +zrem +zrange +zscore +zremrangebyrank +zunionstore +ping"
)


class Replicas:
    """Two replicas' views of one store, and keys that no other test uses."""

    def __init__(self, one: Store, two: Store) -> None:
        self.one, self.two = one, two
        self.prefix = f"{os.getpid()}-{time.monotonic_ns()}"

    def key(self, name: str) -> str:
        return f"{self.prefix}-{name}"


def replicas_at(url: str, *, timeout_s: float = 20.0) -> Replicas:
    """Patient ones: most tests are not about time, and the machine may be busy."""
    return Replicas(RedisStore(url, timeout_s=timeout_s), RedisStore(url, timeout_s=timeout_s))


@pytest.fixture(params=["memory", "valkey", "redis"])
async def replicas(request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    if request.param == "memory":
        shared = MemoryStore()
        pair = Replicas(shared, shared)
    else:
        server: BrokerServer = request.getfixturevalue(f"{request.param}_server")
        pair = replicas_at(server.url)
    yield pair
    await pair.one.close()
    await pair.two.close()


async def live(store: Store, *owners: str) -> None:
    for owner in owners:
        await store.beat(owner, ttl_s=LONG_S)


async def eventually(question: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not await question():
            await asyncio.sleep(0.02)


async def answered(question: Callable[[], Awaitable[T]]) -> T:
    """What the store says once it has found the server again."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                return await question()
            except BrokerError:
                await asyncio.sleep(0.05)


# -- values ----------------------------------------------------------------------------------------------------------


async def test_value_is_taken_once_when_both_replicas_ask(replicas: Replicas) -> None:
    key = replicas.key("value")
    assert await replicas.one.put_once(key, b"\0\xff", ttl_s=LONG_S)
    assert await replicas.two.take(key) == b"\0\xff"
    assert await replicas.one.take(key) is None


async def test_value_has_one_winner_when_50_try_at_once(replicas: Replicas) -> None:
    key = replicas.key("value")
    await replicas.one.put_once(key, b"won", ttl_s=LONG_S)
    stores = [replicas.one, replicas.two] * 25
    results = await asyncio.gather(*[store.take(key) for store in stores])
    assert sorted(results, key=bool) == [None] * 49 + [b"won"]


async def test_value_is_kept_when_its_key_is_put_again(replicas: Replicas) -> None:
    key = replicas.key("value")
    assert await replicas.one.put_once(key, b"first", ttl_s=LONG_S)
    assert not await replicas.two.put_once(key, b"second", ttl_s=LONG_S)
    assert await replicas.two.take(key) == b"first"


async def test_value_is_gone_when_its_time_is_over(replicas: Replicas) -> None:
    key = replicas.key("value")
    assert await replicas.one.put_once(key, b"old", ttl_s=0.05)
    await eventually(lambda: replicas.two.put_once(key, b"new", ttl_s=LONG_S))
    assert await replicas.one.take(key) == b"new"


# -- notes -----------------------------------------------------------------------------------------------------------


async def test_notes_are_read_by_everybody_as_often_as_they_like(replicas: Replicas) -> None:
    one, two = replicas.key("one"), replicas.key("two")
    await replicas.one.note(one, b"a\0\xff", at_s=1_700_000_000.25, ttl_s=LONG_S)
    await replicas.two.note(one, b"b", at_s=1_700_000_000.5, ttl_s=LONG_S)
    await replicas.two.note(one, b"b", at_s=1_700_000_000.5, ttl_s=LONG_S)
    await replicas.one.note(two, b"c", at_s=1.0, ttl_s=LONG_S)
    for _ in range(2):
        assert sorted(await replicas.two.notes([one, two, replicas.key("none")])) == [b"a\0\xff", b"b", b"c"]
    assert await replicas.one.notes([]) == []


async def test_notes_are_the_latest_16_of_a_key_and_end_together(replicas: Replicas) -> None:
    key = replicas.key("note")
    for number in [*range(10, 30), 0]:
        await replicas.one.note(key, b"%d" % number, at_s=float(number), ttl_s=LONG_S)
    assert sorted(await replicas.two.notes([key])) == [b"%d" % number for number in range(14, 30)]
    await replicas.one.note(key, b"30", at_s=30.0, ttl_s=0.05)

    async def is_gone() -> bool:
        return not await replicas.two.notes([key])

    await eventually(is_gone)


# -- places ----------------------------------------------------------------------------------------------------------


async def test_place_is_refused_when_both_replicas_hold_the_limit(replicas: Replicas) -> None:
    key = replicas.key("user")
    await live(replicas.one, "a", "b")
    limits = {key: 2}
    assert await replicas.one.hold("a", "1", limits, ttl_s=LONG_S) is None
    assert await replicas.two.hold("b", "1", limits, ttl_s=LONG_S) is None
    assert await replicas.one.hold("a", "2", limits, ttl_s=LONG_S) == key
    assert await replicas.two.count(key) == 2


@pytest.mark.parametrize("limit", [1, 10])
async def test_limit_is_exact_when_50_try_at_once(replicas: Replicas, limit: int) -> None:
    key = replicas.key("user")
    await live(replicas.one, "a", "b")
    tries = [
        store.hold(owner, str(number), {key: limit}, ttl_s=LONG_S)
        for number in range(25)
        for owner, store in (("a", replicas.one), ("b", replicas.two))
    ]
    results = await asyncio.gather(*tries)
    assert results.count(None) == limit
    assert await replicas.one.count(key) == limit


async def test_place_is_free_when_it_was_released_just_before(replicas: Replicas) -> None:
    """A page that is loaded anew at the limit: the release goes first although nobody waited for it."""
    key = replicas.key("user")
    await live(replicas.one, "a")
    assert await replicas.one.hold("a", "0", {key: 1}, ttl_s=LONG_S) is None
    for number in range(20):
        replicas.one.release("a", [(key, str(number))])
        assert await replicas.one.hold("a", str(number + 1), {key: 1}, ttl_s=LONG_S) is None
    assert await replicas.one.count(key) == 1


async def test_no_place_is_held_when_one_of_two_keys_is_full(replicas: Replicas) -> None:
    user, address = replicas.key("user"), replicas.key("address")
    await live(replicas.one, "a")
    assert await replicas.one.hold("a", "1", {address: 1}, ttl_s=LONG_S) is None
    assert await replicas.two.hold("a", "2", {user: 5, address: 1}, ttl_s=LONG_S) == address
    assert (await replicas.one.count(user), await replicas.one.count(address)) == (0, 1)


async def test_place_is_kept_when_its_member_asks_again_at_the_limit(replicas: Replicas) -> None:
    key = replicas.key("user")
    await live(replicas.one, "a")
    for _ in range(3):
        assert await replicas.one.hold("a", "1", {key: 1}, ttl_s=LONG_S) is None
    assert await replicas.one.count(key) == 1


async def test_places_of_others_stay_when_there_are_more_than_the_limit(replicas: Replicas) -> None:
    """After an outage, or while replicas with different limits run."""
    key = replicas.key("user")
    await live(replicas.one, "a", "b")
    await replicas.one.renew("a", [(key, str(number)) for number in range(12)], ttl_s=LONG_S)
    assert await replicas.two.hold("b", "1", {key: 10}, ttl_s=LONG_S) == key
    assert await replicas.two.count(key) == 12
    await replicas.one.release("a", [(key, str(number)) for number in range(2)])
    assert await replicas.two.hold("b", "1", {key: 10}, ttl_s=LONG_S) == key
    await replicas.one.release("a", [(key, "2")])
    assert await replicas.two.hold("b", "1", {key: 10}, ttl_s=LONG_S) is None
    assert await replicas.two.count(key) == 10


async def test_places_are_free_when_their_owner_has_ended(replicas: Replicas) -> None:
    key = replicas.key("user")
    await live(replicas.one, "a", "b")
    for number in range(3):
        assert await replicas.one.hold("a", str(number), {key: 3}, ttl_s=LONG_S) is None
    assert await replicas.two.hold("b", "1", {key: 3}, ttl_s=LONG_S) == key
    await replicas.one.end("a")
    assert await replicas.two.count(key) == 0
    assert await replicas.two.hold("b", "1", {key: 3}, ttl_s=LONG_S) is None
    assert await replicas.two.count(key) == 1


async def test_exactly_the_limit_gets_in_when_50_try_after_their_owner_has_died(replicas: Replicas) -> None:
    key = replicas.key("user")
    await live(replicas.one, "b")
    await replicas.one.renew("dead", [(key, str(number)) for number in range(10)], ttl_s=LONG_S)
    stores = [replicas.one, replicas.two] * 25
    tries = [store.hold("b", str(number), {key: 10}, ttl_s=LONG_S) for number, store in enumerate(stores)]
    assert (await asyncio.gather(*tries)).count(None) == 10
    assert await replicas.one.count(key) == 10


async def test_owner_is_unknown_when_it_has_not_beaten_for_its_time(replicas: Replicas) -> None:
    owner = replicas.key("owner").replace(":", "-")
    key = replicas.key("user")
    assert not await replicas.one.beat(owner, ttl_s=LONG_S)
    assert await replicas.two.beat(owner, ttl_s=0.1)
    assert await replicas.one.hold(owner, "1", {key: 1}, ttl_s=LONG_S) is None

    async def is_free() -> bool:
        return await replicas.two.count(key) == 0

    await eventually(is_free)
    assert not await replicas.one.beat(owner, ttl_s=LONG_S)


async def test_places_are_gone_when_nobody_renewed_them(replicas: Replicas) -> None:
    key = replicas.key("user")
    await live(replicas.one, "a")
    assert await replicas.one.hold("a", "1", {key: 1}, ttl_s=0.1) is None

    async def is_free() -> bool:
        return await replicas.two.count(key) == 0

    await eventually(is_free)
    await replicas.one.renew("a", [(key, "1")], ttl_s=LONG_S)
    assert await replicas.two.count(key) == 1


async def test_nothing_is_held_when_nothing_is_asked_for(replicas: Replicas) -> None:
    await replicas.one.renew("a", [], ttl_s=LONG_S)
    await replicas.one.release("a", [])
    assert await replicas.one.count(replicas.key("user")) == 0


async def test_store_is_of_no_use_when_it_was_closed(replicas: Replicas) -> None:
    await replicas.one.put_once(replicas.key("value"), b"x", ttl_s=LONG_S)
    await replicas.one.close()
    await replicas.one.close()
    with pytest.raises(BrokerUnavailable) as closed:
        await replicas.one.take(replicas.key("value"))
    assert closed.value.reason is Reason.CLOSED
    replicas.one.release("a", [(replicas.key("user"), "1")])


@pytest.mark.parametrize("seed", range(4))
async def test_memory_and_servers_agree_whatever_is_asked(replicas: Replicas, seed: int) -> None:
    """Random operations with small limits, so that keys are full, overfull and held by the dead most of the time."""
    random, model = Random(seed), MemoryStore()
    keys = [replicas.key(name) for name in "abc"]
    owners = [f"{os.getpid()}.{time.monotonic_ns()}.{number}" for number in range(4)]
    await live(replicas.one, *owners)
    await live(model, *owners)
    for step in range(300):
        owner, member = random.choice(owners), str(random.randrange(6))
        some = random.sample(keys, random.randint(1, 3))
        limits = {key: random.randint(1, 5) for key in some}
        leases = [(key, member) for key in some]
        store = random.choice([replicas.one, replicas.two])
        operation = random.choices(["hold", "renew", "release", "beat", "end"], [12, 2, 4, 2, 1])[0]
        if operation == "hold":
            expected = await model.hold(owner, member, limits, ttl_s=LONG_S)
            assert await store.hold(owner, member, limits, ttl_s=LONG_S) == expected, (seed, step)
        elif operation == "renew":
            await store.renew(owner, leases, ttl_s=LONG_S)
            await model.renew(owner, leases, ttl_s=LONG_S)
        elif operation == "release":
            await release(store, owner, leases)
            await model.release(owner, leases)
        elif operation == "beat":
            assert await store.beat(owner, ttl_s=LONG_S) == await model.beat(owner, ttl_s=LONG_S), (seed, step)
        else:
            await store.end(owner)
            await model.end(owner)
            owners[owners.index(owner)] = owner = f"{owner}x"  # a name is not used again
            await live(store, owner)
            await live(model, owner)
        for key in keys:
            assert await replicas.one.count(key) == await model.count(key), (seed, step)


async def release(store: Store, owner: str, leases: list[Lease]) -> None:
    await store.beat("somebody", ttl_s=LONG_S)  # a release does not connect
    await store.release(owner, leases)


async def test_memory_store_refuses_values_when_it_is_full() -> None:
    now = 0.0
    store = MemoryStore(lambda: now)
    for number in range(VALUES_LIMIT):
        await store.put_once(str(number), b"", ttl_s=1.0)
    with pytest.raises(BrokerRefused) as full:
        await store.put_once("one more", b"", ttl_s=1.0)
    assert full.value.reason is Reason.OUT_OF_MEMORY
    now = 2.5
    assert await store.put_once("one more", b"", ttl_s=1.0)
    assert len(store) == 1


async def test_memory_store_refuses_notes_at_new_keys_when_it_is_full() -> None:
    now = 0.0
    store = MemoryStore(lambda: now)
    for number in range(VALUES_LIMIT):
        await store.note(str(number), b"x", at_s=1.0, ttl_s=1.0)
    with pytest.raises(BrokerRefused) as full:
        await store.note("one more", b"x", at_s=1.0, ttl_s=1.0)
    assert full.value.reason is Reason.OUT_OF_MEMORY
    await store.note("0", b"y", at_s=2.0, ttl_s=1.0)
    assert await store.notes(["0", "one more"]) == [b"x", b"y"]
    now = 2.5
    await store.note("one more", b"x", at_s=1.0, ttl_s=1.0)
    assert len(store) == 1


# -- servers ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def store_at(
    server: BrokerServer, credentials: str = "", *, timeout_s: float = 20.0
) -> AsyncIterator[RedisStore]:
    store = RedisStore(f"redis://{credentials}127.0.0.1:{server.port}/0", timeout_s=timeout_s)
    yield store
    await store.close()


def clients(server: BrokerServer) -> int:
    return tell(server, "CLIENT LIST").count(b"name=antiphon ")


@pytest.mark.every_loop
async def test_one_connection_serves_all_calls_and_is_closed(own_server: BrokerServer) -> None:
    async with store_at(own_server) as first:
        await first.beat("a", ttl_s=LONG_S)
    await until(lambda: clients(own_server) == 0)
    descriptors = len(os.listdir("/proc/self/fd"))
    async with store_at(own_server) as store:
        await asyncio.gather(*[store.put_once(str(number), b"x", ttl_s=LONG_S) for number in range(200)])
        assert clients(own_server) == 1
    await until(lambda: clients(own_server) == 0)
    assert len(asyncio.all_tasks()) == 1
    await until(lambda: len(os.listdir("/proc/self/fd")) == descriptors)


async def test_no_key_is_left_without_an_end(own_server: BrokerServer) -> None:
    async with store_at(own_server) as store:
        await store.put_once("value", b"x", ttl_s=LONG_S)
        await store.beat("a", ttl_s=LONG_S)
        await store.hold("a", "1", {"user": 1, "address": 1}, ttl_s=LONG_S)
        assert await store.hold("a", "2", {"user": 1}, ttl_s=LONG_S) == "user"
        await store.renew("a", [("more", "1")], ttl_s=LONG_S)
    info = tell(own_server, "INFO keyspace").decode()
    assert "keys=5,expires=5" in info, info


async def test_owner_with_an_odd_name_is_counted(own_server: BrokerServer) -> None:
    async with store_at(own_server) as store:
        await store.beat("ö \r\n*", ttl_s=LONG_S)
        assert await store.hold("ö \r\n*", "☃ \n", {"k \r\n": 1}, ttl_s=LONG_S) is None
        assert await store.count("k \r\n") == 1


async def test_calls_end_in_bounded_time_when_the_server_is_frozen(own_server: BrokerServer) -> None:
    async with store_at(own_server, timeout_s=0.5) as store:
        await store.beat("a", ttl_s=LONG_S)
        own_server.freeze()
        for _ in range(3):  # on the connection that there was, on a new one, and while it rests
            since = time.monotonic()
            tries = [store.hold("a", str(number), {"user": 1000}, ttl_s=LONG_S) for number in range(50)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert {type(result) for result in results} <= {BrokerTimeout, BrokerUnavailable}
            assert len(results) == 50
            assert time.monotonic() - since < 5.0
        own_server.thaw()
        assert await answered(lambda: store.hold("a", "new", {"another": 1}, ttl_s=LONG_S)) is None


async def test_store_finds_the_server_again_when_it_was_killed(own_server: BrokerServer) -> None:
    async with store_at(own_server) as store:
        assert await store.put_once("value", b"x", ttl_s=LONG_S)
        own_server.kill()
        with pytest.raises(BrokerUnavailable):
            await store.take("value")
        released = store.release("a", [("user", "1")])
        with pytest.raises(BrokerUnavailable):
            await released
        own_server.restart()
        assert await answered(lambda: store.put_once("value", b"y", ttl_s=LONG_S))
        assert await store.take("value") == b"y"


async def test_calls_fail_at_once_when_connecting_just_failed(own_server: BrokerServer) -> None:
    own_server.kill()
    async with store_at(own_server) as store:
        with pytest.raises(BrokerUnavailable) as first:
            await store.take("value")
        with pytest.raises(BrokerUnavailable) as second:
            await store.take("value")
    assert str(first.value) == str(second.value)
    assert first.value is not second.value


async def test_others_are_served_when_the_first_caller_goes_while_it_connects(own_server: BrokerServer) -> None:
    async with store_at(own_server) as store:
        first = asyncio.create_task(store.put_once("value", b"x", ttl_s=LONG_S))
        second = asyncio.create_task(store.put_once("value", b"y", ttl_s=LONG_S))
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert await store.take("value") == b"y"


async def test_callers_end_when_the_store_is_closed_under_them(own_server: BrokerServer) -> None:
    async with store_at(own_server) as store:
        await store.beat("a", ttl_s=LONG_S)
        own_server.freeze()
        asked = asyncio.create_task(store.take("value"))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(BrokerUnavailable):
            await asked
    async with store_at(own_server) as store:
        dialled = asyncio.create_task(store.take("value"))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(BrokerUnavailable):
            await dialled
    own_server.thaw()
    await until(lambda: clients(own_server) == 0)


async def test_call_is_refused_when_too_many_wait(own_server: BrokerServer) -> None:
    async with store_at(own_server, timeout_s=1.0) as store:
        await store.beat("a", ttl_s=LONG_S)
        own_server.freeze()
        results = await asyncio.gather(*[store.take("value") for _ in range(2_100)], return_exceptions=True)
        reasons = [result.reason for result in results if isinstance(result, BrokerError)]
        assert len(reasons) == 2_100
        assert reasons.count(Reason.BUSY) == 2_100 - 2_048
        own_server.thaw()


async def test_releases_are_refused_when_too_many_wait(own_server: BrokerServer) -> None:
    async with store_at(own_server, timeout_s=1.0) as store:
        await store.beat("a", ttl_s=LONG_S)
        own_server.freeze()
        for _ in range(20):
            store.release("a", [("user", str(number)) for number in range(1_000)])
        with pytest.raises(BrokerUnavailable) as busy:
            await store.release("a", [("user", "1")])
        assert busy.value.reason is Reason.BUSY
        waiting = store.release("a", [])
        await waiting
        with pytest.raises(BrokerTimeout):
            await store.take("value")
        own_server.thaw()


async def test_these_commands_are_enough_for_a_user(own_server: BrokerServer) -> None:
    """Least privilege: the keys' prefix and no other command; and it shows what may not be done with it."""
    tell(own_server, f"ACL SETUSER app on >pw resetchannels ~antiphon:* -@all {COMMANDS}")
    async with store_at(own_server, "app:pw@") as store:
        assert await store.put_once("value", b"x", ttl_s=LONG_S)
        assert await store.take("value") == b"x"
        assert not await store.beat("a", ttl_s=LONG_S)
        assert await store.hold("a", "1", {"user": 1}, ttl_s=LONG_S) is None
        await store.renew("dead", [("user", "1")], ttl_s=LONG_S)
        assert await store.hold("a", "2", {"user": 1}, ttl_s=LONG_S) == "user"
        assert await store.hold("a", "2", {"other": 1, "user": 1}, ttl_s=LONG_S) == "user"
        assert await store.count("user") == 1
        await store.release("a", [("user", "1")])
        assert await store.count("user") == 0
        await store.end("a")


async def test_missing_permission_is_named_and_the_connection_goes_on(own_server: BrokerServer) -> None:
    tell(own_server, f"ACL SETUSER app on >pw resetchannels ~antiphon:* -@all {COMMANDS} -zadd")
    async with store_at(own_server, "app:pw@") as store:
        await store.beat("a", ttl_s=LONG_S)
        with pytest.raises(BrokerRefused, match="refuses ZADD") as refused:
            await store.hold("a", "1", {"user": 1}, ttl_s=LONG_S)
        assert refused.value.reason is Reason.PERMISSION
        assert await store.beat("a", ttl_s=LONG_S)
        assert clients(own_server) == 0  # CLIENT is not among the commands: the connection has no name


@pytest.mark.parametrize("parser", ["hiredis", "plain"])
async def test_reply_of_another_kind_is_an_error(
    own_server: BrokerServer, parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parser == "plain":
        monkeypatch.setattr(_redis_wire, "open_replies", PlainReplies)
    tell(own_server, "SET antiphon:places:user x", "LPUSH antiphon:once:value x")
    async with store_at(own_server) as store:
        await store.beat("a", ttl_s=LONG_S)
        with pytest.raises(BrokerRefused, match="WRONGTYPE"):
            await store.hold("a", "1", {"user": 1}, ttl_s=LONG_S)
        with pytest.raises(BrokerRefused, match=r"refuses GET.*WRONGTYPE"):
            await store.take("value")
        assert await store.hold("a", "1", {"other": 1}, ttl_s=LONG_S) is None
        assert await store.hold("a", "2", {"other": 1}, ttl_s=LONG_S) == "other"


async def test_connection_is_made_anew_when_an_answer_belongs_to_something_else() -> None:
    """A proxy that does not know MULTI, or drops answers."""
    queued = b"+QUEUED\r\n"
    answers: dict[str, Answer] = {"MULTI": b"+OK\r\n", "GET": queued, "DEL": queued, "EXEC": b"*1\r\n$1\r\nx\r\n"}
    with ScriptedRedis(answers) as server:
        store = RedisStore(server.url, timeout_s=20.0)
        for number in (1, 2):
            with pytest.raises(BrokerUnavailable, match="does not belong"):
                await store.take("value")
            assert server.accepted == number
        server.answers["MULTI"] = b"-ERR unknown command 'MULTI'\r\n"
        with pytest.raises(BrokerRefused, match="refuses MULTI"):
            await store.take("value")
        await store.close()


async def test_store_finds_the_primary_again_when_its_server_became_a_replica(
    own_server: BrokerServer, start_own_server: StartServer
) -> None:
    other = start_own_server(own_server.kind)
    async with store_at(own_server) as store:
        await store.beat("a", ttl_s=LONG_S)
        tell(own_server, f"REPLICAOF 127.0.0.1 {other.port}")
        for _ in range(2):
            with pytest.raises(BrokerError) as refused:
                await store.put_once("value", b"x", ttl_s=LONG_S)
            assert refused.value.reason is Reason.READ_ONLY
        tell(own_server, "REPLICAOF NO ONE")
        assert await answered(lambda: store.put_once("value", b"x", ttl_s=LONG_S))


async def test_password_is_nowhere_to_be_read(own_server: BrokerServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    tell(own_server, "ACL SETUSER app on >c4n4ry ~* &* +@all")
    texts = []
    async with store_at(own_server, "app:c4n4ry@", timeout_s=1.0) as store:
        await store.beat("a", ttl_s=LONG_S)
        texts += [repr(store), str(store), store.address, repr(vars(store))]
        tell(own_server, "ACL SETUSER app resetpass >other")
        own_server.freeze()
        for _ in range(2):
            with pytest.raises(BrokerError) as error:
                await store.take("value")
            texts.append(f"{error.value!s} {error.value!r} {error.value.__cause__!r}")
        own_server.thaw()

        async def reason() -> bool:
            with pytest.raises(BrokerError) as error:
                await store.take("value")
            texts.append(f"{error.value!s} {error.value!r} {error.value.__cause__!r}")
            return error.value.reason is Reason.AUTHENTICATION

        await eventually(reason)
    assert "c4n4ry" not in "".join(texts)
    assert "c4n4ry" not in caplog.text


# -- loops and processes ---------------------------------------------------------------------------------------------


def test_one_store_serves_one_loop_after_another(own_server: BrokerServer) -> None:
    store = RedisStore(own_server.url, timeout_s=20.0)

    async def put(key: str) -> bool:
        return await store.put_once(key, b"x", ttl_s=LONG_S)

    assert asyncio.run(put("a"))
    gc.collect()
    assert clients(own_server) == 0
    assert asyncio.run(put("b"))
    asyncio.run(store.close())


def test_second_loop_is_refused_while_the_first_runs(own_server: BrokerServer) -> None:
    store = RedisStore(own_server.url, timeout_s=20.0)

    async def main() -> None:
        await store.beat("a", ttl_s=LONG_S)
        with pytest.raises(WrongEventLoop):
            await asyncio.to_thread(lambda: asyncio.run(store.beat("a", ttl_s=LONG_S)))
        await store.close()

    asyncio.run(main())


CHILD = """
import asyncio, os, sys
from antiphon.brokers.redis_store import RedisStore

async def one(store):
    assert await store.put_once("before", b"x", ttl_s=600.0)

async def child(store):
    assert await store.take("before") == b"x"
    await store.close()

store = RedisStore(sys.argv[1], timeout_s=20.0)
loop = asyncio.new_event_loop()
loop.run_until_complete(one(store))
pid = os.fork()
if pid == 0:
    asyncio.run(child(store))
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
assert loop.run_until_complete(store.put_once("after", b"x", ttl_s=600.0))
loop.run_until_complete(store.close())
loop.close()
"""


def test_forked_process_gets_a_connection_of_its_own(own_server: BrokerServer) -> None:
    command = [sys.executable, "-W", "error", "-c", CHILD, own_server.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HOLDER = """
import asyncio, sys
from antiphon.brokers.redis_store import RedisStore

async def main():
    store = RedisStore(sys.argv[1], timeout_s=20.0)
    await store.beat("killed", ttl_s=0.5)
    for number in range(10):
        assert await store.hold("killed", str(number), {"user": 10}, ttl_s=600.0) is None
    print("held", flush=True)
    while True:
        await store.beat("killed", ttl_s=0.5)
        await asyncio.sleep(0.1)

asyncio.run(main())
"""


async def test_places_of_a_killed_process_are_free_when_its_beat_has_worn_off(own_server: BrokerServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDER, own_server.url, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await asyncio.wait_for(process.stdout.readline(), DEADLINE_S) == b"held\n"
    async with store_at(own_server) as store:
        await live(store, "a")
        assert await store.hold("a", "1", {"user": 10}, ttl_s=LONG_S) == "user"
        process.send_signal(signal.SIGKILL)
        await process.wait()

        async def gets_in() -> bool:
            return await store.hold("a", "1", {"user": 10}, ttl_s=LONG_S) is None

        await eventually(gets_in)
        assert await store.count("user") == 1


# -- addresses -------------------------------------------------------------------------------------------------------


async def test_store_for_an_address_is_of_the_right_kind(tmp_path: Path) -> None:
    assert isinstance(store_for(None), MemoryStore)
    store = store_for("redis://app:c4n4ry@127.0.0.1:1/3")
    assert isinstance(store, RedisStore)
    assert store.address == "127.0.0.1:1/3"
    assert repr(store) == "<RedisStore 127.0.0.1:1/3>"
    with pytest.raises(InvalidBrokerURL):
        store_for("http://localhost")
    with pytest.raises(ConfigurationError):
        RedisStore("redis://127.0.0.1:1/0", timeout_s=0)
    with pytest.raises(BrokerUnavailable) as away:
        await store.take("value")
    assert "c4n4ry" not in f"{away.value!r}{away.value.__cause__!r}"
    await store.close()


async def test_unix_socket_works_for_a_store(start_own_server: StartServer, tmp_path: Path) -> None:
    path = tmp_path / "s"
    start_own_server("redis", "--unixsocket", str(path))
    store = RedisStore(f"unix://{path}?db=1", timeout_s=20.0)
    assert await store.put_once("value", b"x", ttl_s=LONG_S)
    assert await store.take("value") == b"x"
    await store.close()

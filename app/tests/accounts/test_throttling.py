"""How tries are counted: in the process, in Redis, and when Redis goes away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from types import SimpleNamespace

import pytest
import pytest_asyncio
from limits import RateLimitItemPerHour

from antiphon.dev.broker_server import BrokerServer
from encore.accounts import throttling
from encore.accounts.throttling import Patience, Throttle
from encore.errors import TooManyRequests

PATIENCE = Patience(free=3, longest_s=20)


class LongPatience(Patience):
    """Its first wait is as long as the longest: no slow machine outlasts it where time is real."""

    def wait_s(self, tries: int) -> int:
        return min(super().wait_s(tries), 1) * self.longest_s


LONG = LongPatience(free=3, longest_s=60)


class Clock:
    """The time that the counters in this process go by."""

    def __init__(self) -> None:
        self.now_s = time.time()

    def time(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    stand_in = SimpleNamespace(time=clock.time, monotonic=time.monotonic)
    for module in ("limits.aio.storage.memory", "encore.accounts.throttling"):
        monkeypatch.setattr(f"{module}.time", stand_in)
    return clock


@pytest.fixture(autouse=True)
def _patient_with_redis(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that tests may stand still for longer than the half second that Redis has for an answer."""
    if "hangs" not in request.node.name:
        monkeypatch.setattr(throttling, "ANSWER_S", 20.0)


@pytest_asyncio.fixture
async def alone() -> AsyncIterator[Throttle]:
    throttle = Throttle()
    yield throttle
    await throttle.close()


@pytest.fixture(scope="module")
def broker() -> Iterator[BrokerServer]:
    with BrokerServer.start("valkey") as server:
        yield server


def test_the_wait_grows_with_every_try_up_to_a_limit() -> None:
    assert [PATIENCE.wait_s(tries) for tries in range(1, 11)] == [0, 0, 2, 4, 8, 16, 20, 20, 20, 20]
    assert PATIENCE.wait_s(10_000_000) == 20


async def test_a_try_is_looked_at_again_whenever_the_wait_is_over(alone: Throttle, clock: Clock) -> None:
    waits = []
    for _ in range(12):
        assert await alone.count("ann", patience=PATIENCE)
        wait_s = await alone.wait_s("ben", "ann")
        waits.append(round(wait_s))
        clock.now_s += wait_s
    assert waits == [0, 0, 2, 4, 8, 16, 20, 20, 20, 20, 20, 20]
    assert await alone.wait_s("ann") == 0


async def test_everything_is_forgotten_when_the_right_password_came(alone: Throttle) -> None:
    for _ in range(4):
        await alone.count("ann", patience=PATIENCE)
    assert await alone.wait_s("ann") > 0
    await alone.forgive("ann")
    assert await alone.wait_s("ann") == 0
    assert await alone.count("ann", patience=PATIENCE)
    assert await alone.wait_s("ann") == 0


async def test_one_of_many_tries_at_once_is_looked_at_when_they_are_one_too_many(broker: BrokerServer) -> None:
    replicas = [Throttle(broker.url), Throttle(broker.url)]
    counted = await asyncio.gather(*(replicas[number % 2].count("many", patience=LONG) for number in range(20)))
    # Two are free, the third begins the wait; all others come too late.
    assert sum(counted) == 3
    for replica in replicas:
        assert 0 < await replica.wait_s("many") <= LONG.longest_s
        await replica.close()


async def test_replicas_count_together_when_they_have_a_broker(broker: BrokerServer) -> None:
    one, other = Throttle(broker.url), Throttle(broker.url)
    for throttle in (one, other, one):
        await throttle.count("together", patience=LONG)
    assert await other.wait_s("together") > 0
    await other.forgive("together")
    assert await one.wait_s("together") == 0
    await one.limit("x", RateLimitItemPerHour(2), detail="enough")
    await other.limit("x", RateLimitItemPerHour(2), detail="enough")
    with pytest.raises(TooManyRequests, match="enough") as refused:
        await one.limit("x", RateLimitItemPerHour(2), detail="enough")
    assert refused.value.retry_after_s is not None
    assert 3000 < refused.value.retry_after_s <= 3600
    assert one.is_shared
    await one.close()
    await other.close()


async def test_a_replica_counts_for_itself_when_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with BrokerServer.start("valkey") as server:
        throttle = Throttle(server.url)
        assert await throttle.count("ann", patience=LONG)
        assert throttle.is_shared
        server.kill()
        for _ in range(3):
            await throttle.count("ann", patience=LONG)
        assert throttle._away_until_s > time.monotonic()
        assert 0 < await throttle.wait_s("ann") <= LONG.longest_s
        assert caplog.text.count("Redis is away") == 1
        monkeypatch.setattr(throttling, "AWAY_S", 0.0)
        throttle._away_until_s = 0.0
        assert not await throttle.count("ann", patience=LONG)
        assert caplog.text.count("Redis is away") == 1  # once in an outage, however often it is asked
        server.restart()
        assert await throttle.count("ben", patience=LONG)
        server.kill()
        await throttle.count("ben", patience=LONG)
        assert caplog.text.count("Redis is away") == 2
        await throttle.close()


async def test_nobody_waits_long_when_the_broker_hangs() -> None:
    async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    throttle = Throttle(f"redis://127.0.0.1:{port}/0")
    began_s = time.monotonic()
    for _ in range(20):
        await throttle.count("ann", patience=PATIENCE)
    assert time.monotonic() - began_s < 5.0
    assert await throttle.wait_s("ann") > 0
    await throttle.close()
    server.close()
    await server.wait_closed()


async def test_counters_begin_anew_when_a_flood_has_filled_them(
    alone: Throttle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(throttling, "OWN_KEYS", 50)
    for number in range(120):
        await alone.count(f"name {number}", patience=PATIENCE)
    assert alone.forgotten == 2
    assert caplog.text.count("begin anew") == 2


async def test_what_people_typed_is_not_written_into_the_broker(broker: BrokerServer) -> None:
    throttle = Throttle(broker.url)
    await throttle.count("my-secret-name\ud800", patience=PATIENCE)
    assert throttle._pool is not None
    import redis.asyncio

    client = redis.asyncio.Redis(connection_pool=throttle._pool)
    keys = [key async for key in client.scan_iter("encore-throttle*")]
    assert keys
    assert not any(b"secret" in key for key in keys)
    await throttle.close()

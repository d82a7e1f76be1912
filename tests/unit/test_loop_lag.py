"""The event loop's lag: seen, never under-reported, one timer for each loop, and nothing left."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref

import pytest

from antiphon.loop_lag import INTERVAL_S, WINDOW_S, LoopLag
from antiphon.testing.virtual_time import VirtualTimeLoop
from tests.unit.browsers import until


def virtual() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


@pytest.mark.virtual_time
async def test_a_loop_that_is_on_time_has_no_lag() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(10 * INTERVAL_S + 0.01)
    lag.stop()
    assert lag.seconds.count == 10
    assert lag.worst_s == pytest.approx(0.0, abs=1e-6)


@pytest.mark.virtual_time
@pytest.mark.parametrize("before_s", [0.0, 0.01, 0.125, 0.24])
async def test_a_loop_that_stood_still_is_never_reported_as_better_than_it_was(before_s: float) -> None:
    """F28c"""
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(4 * INTERVAL_S + before_s)
    virtual().stand_still(5.0)
    assert lag.worst_s > 4.99  # before the loop has come to look
    await asyncio.sleep(0.001)
    lag.stop()
    assert 5.0 <= lag.worst_s <= 5.0 + INTERVAL_S + 0.01
    assert sum(lag.seconds.counts[-4:]) == 1  # above 2.5 s
    assert lag.seconds.sum == pytest.approx(lag.worst_s, abs=0.01)


@pytest.mark.virtual_time
async def test_what_blocks_for_less_than_an_interval_shows_as_lateness() -> None:
    lag = LoopLag()
    lag.start()
    await asyncio.sleep(INTERVAL_S - 0.01)
    virtual().stand_still(0.06)
    await asyncio.sleep(0.001)
    lag.stop()
    assert lag.worst_s == pytest.approx(0.05, abs=0.005)


@pytest.mark.virtual_time
async def test_the_worst_is_forgotten_after_two_minutes_at_most() -> None:
    lag = LoopLag()
    lag.start()
    virtual().stand_still(3.0)
    await asyncio.sleep(WINDOW_S - 5)
    assert lag.worst_s > 2.99
    await asyncio.sleep(WINDOW_S + 10)
    assert lag.worst_s < 0.1
    lag.stop()


@pytest.mark.virtual_time
async def test_holders_share_one_timer_and_the_last_one_ends_it() -> None:
    first, second = LoopLag.acquire(), LoopLag.acquire()
    assert first is second
    await asyncio.sleep(1.01)
    first.release()
    await asyncio.sleep(1.0)
    assert first.seconds.count == 8
    second.release()
    await asyncio.sleep(1.0)
    assert first.seconds.count == 8
    again = LoopLag.acquire()
    assert again is not first
    again.release()


@pytest.mark.virtual_time
async def test_start_and_stop_may_be_called_twice() -> None:
    lag = LoopLag()
    lag.start()
    lag.start()
    await asyncio.sleep(1.01)
    lag.stop()
    lag.stop()
    assert lag.seconds.count == 4
    assert lag.late_s == 0.0


def test_a_loop_that_was_closed_without_a_release_is_forgotten() -> None:
    async def use() -> weakref.ref[asyncio.AbstractEventLoop]:
        LoopLag.acquire()
        return weakref.ref(asyncio.get_running_loop())

    async def use_and_release() -> None:
        LoopLag.acquire().release()

    ended = asyncio.run(use())
    asyncio.run(use_and_release())
    gc.collect()
    assert ended() is None


@pytest.mark.every_loop
async def test_a_blocking_call_shows_without_a_task() -> None:
    tasks = asyncio.all_tasks()
    lag = LoopLag.acquire()
    assert asyncio.all_tasks() == tasks
    time.sleep(0.6)
    await until(lambda: lag.seconds.count > 0)
    assert lag.worst_s > 0.599
    lag.release()

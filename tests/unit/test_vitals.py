"""What is measured of a manager while it works: state times, detection, recovery, latency, bytes, queues, lag."""

from __future__ import annotations

import asyncio

import pytest
from starlette.exceptions import WebSocketException

from antiphon.codes import State
from antiphon.health.gate import close_gate, open_gate
from antiphon.health.history import SAMPLE_MASK, LinkHistory
from antiphon.manager import WebSocketManager
from tests.unit.browsers import Browser, Fleet, settle, until


def history_of(manager: WebSocketManager) -> LinkHistory:
    history = manager.vitals().history
    assert history is not None
    return history


@pytest.mark.virtual_time
async def test_an_outage_shows_in_the_time_in_each_state_and_in_detection_and_recovery() -> None:
    async with Fleet(1) as fleet:
        history = history_of(fleet.managers[0])
        assert (history.state, history.recover.count, history.detect.count) == (State.UP, 0, 0)
        await fleet.lose_broker()
        assert (history.state, history.detect.count) == (State.DEGRADED, 1)
        await asyncio.sleep(1)
        await fleet.regain_broker()
        assert (history.state, history.recover.count) == (State.UP, 1)
        assert fleet.managers[0].health().status == "ok"


@pytest.mark.virtual_time
async def test_a_broker_that_freezes_is_detected_after_its_deadline() -> None:
    async with Fleet(1) as fleet:
        history = history_of(fleet.managers[0])
        await asyncio.sleep(5)
        fleet.server.freeze()
        await until(lambda: history.state is State.DEGRADED)
        assert history.detect.count == 1
        assert 1.5 < history.detect.sum < 4
        health = fleet.managers[0].health(red_when_degraded=True)
        assert (health.status, health.ready) == ("degraded", False)


@pytest.mark.virtual_time
async def test_one_publication_in_sixty_four_is_timed_by_its_own_replica_and_by_the_others() -> None:
    async with Fleet(2) as fleet:
        for replica in range(2):
            await fleet.join(replica)
        for number in range(10 * (SAMPLE_MASK + 1)):
            await fleet.managers[0].broadcast({"n": number})
        here, there = map(history_of, fleet.managers)
        assert 9 <= here.own.count <= 11
        assert 9 <= there.others.count <= 11
        assert (here.others.count, there.own.count) == (0, 0)


@pytest.mark.virtual_time
async def test_bytes_are_counted_for_each_socket() -> None:
    manager = WebSocketManager("c")
    browsers = [Browser() for _ in range(3)]
    connections = [await manager.connect(browser.websocket, str(index)) for index, browser in enumerate(browsers)]
    await manager.subscribe(connections[0], "t")
    await manager.broadcast("12345")
    assert manager.vitals().sent_bytes == 15
    await manager.broadcast("12345", {"1", "2"})
    assert manager.vitals().sent_bytes == 25
    await manager.broadcast("12345", topic="t")
    await manager.send_personal_message("12345", connections[0])
    assert manager.vitals().sent_bytes == 35
    await manager.close()


@pytest.mark.virtual_time
async def test_what_waits_for_a_client_that_does_not_read_is_seen() -> None:
    manager = WebSocketManager("c")
    browsers = [Browser() for _ in range(3)]
    for browser in browsers:
        await manager.connect(browser.websocket)
    browsers[1].is_stuck = True
    await manager.broadcast("x" * 100)
    await settle()
    await manager.broadcast("x" * 100)
    await settle()
    vitals = manager.vitals()
    assert (vitals.queued_connections, vitals.queued_bytes) == (1, 200)
    await manager.close()


@pytest.mark.virtual_time
async def test_refused_sockets_are_counted_by_reason() -> None:
    loop = asyncio.get_running_loop()
    manager = WebSocketManager("c")
    await manager.start()
    close_gate(loop)
    for _ in range(2):
        with pytest.raises(WebSocketException):
            await manager.connect(Browser().websocket)
    open_gate(loop)
    assert manager.vitals().refused_connections == {"draining": 2}
    await manager.close()


@pytest.mark.virtual_time
async def test_managers_of_a_loop_share_one_lag_and_give_it_back() -> None:
    managers = [WebSocketManager(f"c{number}") for number in range(3)]
    for manager in managers:
        await manager.start()
    lags = [manager.vitals().loop_lag for manager in managers]
    assert lags[0] is not None
    assert lags[0] is lags[1] is lags[2]
    await asyncio.sleep(2)
    seen = lags[0].seconds.count
    assert seen >= 7
    for manager in managers:
        await manager.close()
    await asyncio.sleep(2)
    assert lags[0].seconds.count == seen

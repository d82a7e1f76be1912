"""The good-bye: refused, spread, closed with 1012, flushed; and who may ask for it."""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.exceptions import WebSocketException
from starlette.routing import Route
from starlette.testclient import TestClient

from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import CloseCode, State
from antiphon.connection import Connection
from antiphon.drain import Drain, drain_endpoint, health_endpoint, liveness_endpoint, readiness
from antiphon.drain.sequence import REASON, TOKEN_VARIABLE, DrainReport
from antiphon.drain.waves import VARIABLE, WINDOW_S, moments, read_window, window_for
from antiphon.errors import ConfigurationError
from antiphon.manager import WebSocketManager
from tests.unit.browsers import Browser, until

TOKEN = "0123456789abcdef"


@pytest.fixture(autouse=True)
def own_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a process that does not drain yet."""
    for name in (VARIABLE, TOKEN_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Drain, "_current", None)


async def crowd(manager: WebSocketManager, count: int) -> list[Browser]:
    """So many clients, connected."""
    browsers = [Browser(str(number)) for number in range(count)]
    for browser in browsers:
        await manager.connect(browser.websocket)
    return browsers


def drain(*managers: WebSocketManager, window_s: float | None = None, seed: int = 1, **options: Any) -> Drain:
    return Drain(window_s=window_s, managers=lambda: managers, rng=random.Random(seed), **options)


# -- waves ------------------------------------------------------------------------------------------------------------


def test_window_is_twenty_seconds_unless_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_window(None, {}) == WINDOW_S == 20.0
    assert read_window(None, {VARIABLE: " 7.5 "}) == 7.5
    assert read_window(3, {VARIABLE: "7.5"}) == 3.0
    assert read_window(None, {VARIABLE: ""}) == 20.0
    monkeypatch.setenv(VARIABLE, "0")
    assert Drain().window_s == 0.0


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf", "1e999"])
def test_window_that_is_no_number_of_seconds_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=VARIABLE):
        read_window(None, {VARIABLE: value})


@pytest.mark.parametrize("option", ["window_s", "flush_s"])
def test_options_that_are_no_number_of_seconds_are_refused(option: str) -> None:
    for value in (-1, True, "x", float("nan")):
        with pytest.raises(ConfigurationError, match=option):
            Drain(**{option: value})  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize(
    ("count", "window_s"), [(0, 0.0), (1, 0.04), (25, 1.0), (26, 2.0), (150, 6.0), (500, 20.0), (100_000, 20.0)]
)
def test_window_is_shorter_when_sockets_are_few(count: int, window_s: float) -> None:
    assert window_for(count, longest_s=20.0) == pytest.approx(window_s)
    assert window_for(count, longest_s=0.0) == 0.0


@given(st.integers(0, 3_000), st.integers(0, 2**32), st.sampled_from([0.0, 5.0, 20.0]))
def test_no_second_has_more_than_twice_the_average(count: int, seed: int, longest_s: float) -> None:
    """F27"""
    window_s = window_for(count, longest_s=longest_s)
    found = moments(count, window_s=window_s, rng=random.Random(seed))
    assert len(found) == count
    assert found == sorted(found)
    assert all(0 <= moment <= window_s for moment in found)
    if window_s > 1:
        average = count / window_s
        for shift in (0.0, 0.25, 0.5, 0.75):
            bins = Counter(int(moment + shift) for moment in found)
            assert max(bins.values()) <= 2 * average


# -- the sequence -----------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_every_socket_is_asked_to_come_back_and_the_closes_are_spread_over_the_window() -> None:
    """F27"""
    loop = asyncio.get_running_loop()
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 150)
    await manager.subscribe(browsers[0].websocket, "t")
    began, closed_at = loop.time(), []
    stay = manager._stay
    assert stay is not None
    expel = stay.expel

    def noting(connection: Connection, *, code: int, reason: str) -> bool:
        closed_at.append(loop.time() - began)
        return expel(connection, code=code, reason=reason)

    stay.expel = noting  # type: ignore[method-assign]
    report = await drain(manager).run()
    assert (report.closed, report.settled) == (150, True)
    assert report == DrainReport(150, report.seconds, True)
    assert {browser.close_code for browser in browsers} == {CloseCode.DRAINING}
    assert {event["reason"] for browser in browsers for event in browser.events if "reason" in event} == {REASON}
    assert 5.0 <= closed_at[-1] <= 6.1
    assert max(Counter(map(int, closed_at)).values()) <= 2 * 150 / 6
    assert manager.get_connection_count() == 0
    assert manager.stats().topics == 0
    await manager.close()


@pytest.mark.virtual_time
async def test_sockets_are_not_closed_in_the_order_in_which_they_came() -> None:
    manager = WebSocketManager("c")
    await crowd(manager, 50)
    order: list[str] = []
    stay = manager._stay
    assert stay is not None
    expel = stay.expel

    def noting(connection: Connection, *, code: int, reason: str) -> bool:
        order.append(connection.id)
        return expel(connection, code=code, reason=reason)

    stay.expel = noting  # type: ignore[method-assign]
    came = [connection.id for connection in manager._hub.connections()]
    await drain(manager).run()
    assert sorted(order) == sorted(came)
    assert order != came
    await manager.close()


@pytest.mark.virtual_time
@pytest.mark.parametrize("count", [0, 3, 1000])
async def test_it_is_over_at_once_without_sockets_or_without_a_window(count: int) -> None:
    loop = asyncio.get_running_loop()
    manager = WebSocketManager("c")
    browsers = await crowd(manager, count)
    began = loop.time()
    report = await drain(manager, window_s=0 if count else 20).run()
    assert report.closed == count
    assert loop.time() - began < 0.2
    assert all(browser.close_code == 1012 for browser in browsers)
    await manager.close()


@pytest.mark.virtual_time
async def test_new_sockets_are_refused_with_1012_from_its_first_moment() -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 30)
    held = Browser()
    held.accepting = asyncio.Event()
    connecting = asyncio.create_task(manager.connect(held.websocket))
    await until(lambda: held.websocket.client_state.name == "CONNECTED")
    running = drain(manager).begin()
    held.accepting.set()
    late = Browser()
    for refused in (connecting, manager.connect(late.websocket)):
        with pytest.raises(WebSocketException) as caught:
            await refused
        assert caught.value.code == 1012
    assert late.accepted is not None  # a browser sees the code only of a socket that was accepted
    assert (await running).closed == 30
    assert all(browser.close_code == 1012 for browser in browsers)
    assert manager.get_connection_count() == 0
    await manager.close()


@pytest.mark.virtual_time
async def test_clients_that_leave_meanwhile_are_not_counted() -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 10)
    running = drain(manager).begin()
    for browser in browsers[:4]:
        manager.disconnect(browser.websocket)
    assert (await running).closed == 6
    await manager.close()


@pytest.mark.virtual_time
async def test_what_was_sent_before_reaches_the_clients_before_they_are_closed() -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 5)
    await manager.broadcast({"n": 1})
    await drain(manager).run()
    for browser in browsers:
        assert [event["type"] for event in browser.events] == ["websocket.accept", "websocket.send", "websocket.close"]
    await manager.close()


@pytest.mark.virtual_time
async def test_the_outbox_is_flushed_when_the_broker_comes_back_in_time() -> None:
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    await manager.start()
    await until(lambda: manager.state is State.UP)
    server.down = True
    server.kill()
    await until(lambda: manager.state is State.DEGRADED)
    assert (await manager.broadcast({"n": 1})).queued
    running = drain(manager, flush_s=10).begin()
    await asyncio.sleep(1)
    assert not running.done()
    server.down = False
    report = await running
    link = manager.stats().link
    assert link is not None
    assert (report.settled, link.outbox_messages, link.flushed) == (True, 0, 1)
    await manager.close()


@pytest.mark.virtual_time
async def test_waiting_for_the_broker_is_bounded() -> None:
    loop = asyncio.get_running_loop()
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    await manager.start()
    server.down = True
    server.kill()
    await until(lambda: manager.state is State.DEGRADED)
    await manager.broadcast({"n": 1})
    began = loop.time()
    report = await drain(manager, flush_s=2).run()
    assert not report.settled
    assert 1.9 < loop.time() - began < 3
    await manager.close()


@pytest.mark.virtual_time
async def test_a_client_that_does_not_read_holds_it_up_no_longer_than_its_limit() -> None:
    loop = asyncio.get_running_loop()
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 3)
    browsers[1].is_stuck = True
    began = loop.time()
    report = await drain(manager).run()
    assert report.closed == 3
    assert loop.time() - began < 5
    assert [browser.close_code for browser in browsers] == [1012, None, 1012]
    await manager.close()


@pytest.mark.virtual_time
async def test_a_socket_that_cannot_be_closed_keeps_the_others_from_nothing(caplog: pytest.LogCaptureFixture) -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 5)
    bad = manager._hub.connections()[2]
    stay = manager._stay
    assert stay is not None
    expel = stay.expel

    def failing(connection: Connection, *, code: int, reason: str) -> bool:
        if connection is bad:
            raise ZeroDivisionError
        return expel(connection, code=code, reason=reason)

    stay.expel = failing  # type: ignore[method-assign]
    with caplog.at_level(logging.INFO, "antiphon"):
        assert (await drain(manager).run()).closed == 4
    assert sum(browser.close_code == 1012 for browser in browsers) == 4
    assert "could not be closed while draining" in caplog.text
    await manager.close()


@pytest.mark.virtual_time
async def test_it_runs_once_however_often_it_is_asked_for() -> None:
    manager = WebSocketManager("c")
    await crowd(manager, 5)
    draining = drain(manager)
    first, second = await asyncio.gather(draining.run(), draining.run())
    assert first is second is draining.report
    assert draining.draining
    asking = asyncio.create_task(draining.run())
    asking.cancel()
    assert await draining.run() is first
    await manager.close()


@pytest.mark.virtual_time
async def test_cancelling_who_waits_for_it_stops_nothing() -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 100)
    draining = drain(manager)
    asking = asyncio.create_task(draining.run())
    await asyncio.sleep(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await draining.run()
    assert all(browser.close_code == 1012 for browser in browsers)
    await manager.close()


@pytest.mark.virtual_time
async def test_cut_short_it_leaves_the_rest_to_the_server() -> None:
    manager = WebSocketManager("c")
    await crowd(manager, 100)
    draining = drain(manager)
    task = draining.begin()
    await asyncio.sleep(1)
    draining.cut_short()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert 0 < manager.get_connection_count() < 100
    await manager.close()


@pytest.mark.virtual_time
async def test_a_manager_that_is_first_used_while_it_drains_lets_nobody_in() -> None:
    unused = WebSocketManager("c")
    draining = drain(unused)
    await draining.run()
    with pytest.raises(WebSocketException):
        await unused.connect(Browser().websocket)
    assert unused.vitals().draining
    draining.rearm()
    await unused.connect(Browser().websocket)
    assert not unused.vitals().draining
    await unused.close()


def test_another_event_loop_of_the_process_is_left_alone() -> None:
    elsewhere = WebSocketManager("c")
    loop = asyncio.new_event_loop()
    (browser,) = loop.run_until_complete(crowd(elsewhere, 1))
    assert asyncio.run(_drained(drain(elsewhere))).closed == 0
    assert browser.close_code is None
    loop.run_until_complete(crowd(elsewhere, 1))
    assert elsewhere.get_connection_count() == 2
    loop.run_until_complete(elsewhere.close())
    loop.close()


async def _drained(draining: Drain) -> DrainReport:
    return await draining.run()


@pytest.mark.virtual_time
async def test_it_may_run_again_when_the_application_starts_again() -> None:
    draining = drain()
    draining.rearm()
    await draining.run()
    assert Drain.has_begun()
    draining.rearm()
    assert not Drain.has_begun()
    assert draining.report is None
    assert (await draining.run()).closed == 0


@pytest.mark.virtual_time
async def test_what_it_does_is_logged_in_two_lines(caplog: pytest.LogCaptureFixture) -> None:
    manager = WebSocketManager("c")
    await crowd(manager, 50)
    with caplog.at_level(logging.INFO, "antiphon"):
        await drain(manager).run()
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["draining", "drained in 2.0 s"]
    await manager.close()


def test_the_last_one_made_is_that_of_the_process() -> None:
    assert not Drain.has_begun()
    first = Drain.current()
    assert Drain.current() is first
    own = Drain(window_s=1)
    assert Drain.current() is own


# -- the pre-stop hook ------------------------------------------------------------------------------------------------


def site(draining: Drain) -> Starlette:
    return Starlette(routes=[Route("/drain", draining.endpoint, methods=["GET", "POST"])])


def test_hook_answers_when_it_is_done() -> None:
    client = TestClient(site(drain()), client=("127.0.0.1", 1))
    answer = client.post("/drain")
    assert answer.status_code == 200
    assert answer.json() == {"status": "drained", "closed": 0, "seconds": answer.json()["seconds"], "settled": True}


async def test_hook_answers_at_once_when_asked_to() -> None:
    manager = WebSocketManager("c")
    browsers = await crowd(manager, 5)
    draining = drain(manager)
    import httpx2

    transport = httpx2.ASGITransport(app=site(draining), client=("127.0.0.1", 1))
    async with httpx2.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.post("/drain?wait=0")
        assert (answer.status_code, answer.json()) == (202, {"status": "draining"})
        done = await client.post("/drain")
        assert (done.status_code, done.json()["closed"]) == (200, 5)
        assert (await client.post("/drain?wait=0")).json()["status"] == "drained"
    assert all(browser.close_code == 1012 for browser in browsers)
    await manager.close()


@pytest.mark.parametrize("given_token", [None, "Bearer wrong-wrong-wrong", f"Basic {TOKEN}"])
def test_hook_changes_nothing_for_who_does_not_know_the_token(given_token: str | None) -> None:
    """S48"""
    draining = drain(token=TOKEN)
    client = TestClient(site(draining), client=("127.0.0.1", 1))
    answer = client.post("/drain", headers={} if given_token is None else {"Authorization": given_token})
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert not draining.draining
    assert TOKEN not in answer.text


def test_hook_obeys_who_knows_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    client = TestClient(site(drain()), client=("203.0.113.9", 1))
    assert client.post("/drain", headers={"Authorization": f"Bearer {TOKEN}"}).json()["status"] == "drained"


def test_hook_without_a_token_is_for_this_machine_alone() -> None:
    """S48"""
    draining = drain()
    answer = TestClient(site(draining), client=("203.0.113.9", 1)).post("/drain")
    assert answer.status_code == 403
    assert TOKEN_VARIABLE in answer.json()["error"]
    proxied = TestClient(site(draining), client=("127.0.0.1", 1), headers={"X-Forwarded-For": "127.0.0.1"})
    assert proxied.post("/drain").status_code == 403
    assert not draining.draining


def test_hook_does_nothing_for_a_request_that_only_reads() -> None:
    draining = drain()
    answer = TestClient(site(draining), client=("127.0.0.1", 1)).get("/drain")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    assert not draining.draining


def test_hook_of_the_process_is_that_of_its_drain() -> None:
    draining = drain()
    app = Starlette(routes=[Route("/drain", drain_endpoint, methods=["POST"])])
    assert TestClient(app, client=("127.0.0.1", 1)).post("/drain").status_code == 200
    assert draining.report is not None


# -- readiness --------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_readiness_is_green_then_degraded_then_draining() -> None:
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    app = Starlette(
        routes=[
            Route("/readyz", health_endpoint),
            Route("/strict", readiness(red_when_degraded=True)),
            Route("/livez", liveness_endpoint),
        ]
    )
    import httpx2

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://x") as client:
        await manager.start()
        await until(lambda: manager.state is State.UP)
        green = await client.get("/readyz")
        assert (green.status_code, green.json()["status"]) == (200, "ok")
        assert green.headers["cache-control"] == "no-store"
        server.down = True
        server.kill()
        await until(lambda: manager.state is State.DEGRADED)
        degraded = await client.get("/readyz")
        assert (degraded.status_code, degraded.json()["status"]) == (200, "degraded")
        assert degraded.json()["brokers"][0]["since_s"] >= 0
        assert (await client.get("/strict")).status_code == 503
        drain(manager, flush_s=0).begin()
        draining = await client.get("/readyz")
        assert (draining.status_code, draining.json()["status"]) == (503, "draining")
        assert (await client.get("/livez")).json() == {"status": "alive"}
    await manager.close()

"""The lifespan: all managers are connected before the first request and stopped at the end."""

from __future__ import annotations

import asyncio
import gc
import threading

import pytest
from fastapi import FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient

import antiphon
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import State
from antiphon.manager import WebSocketManager, managers_here
from tests.unit.browsers import Browser, until


@pytest.fixture(autouse=True)
def no_other_managers() -> None:
    """What other tests left for the garbage collector is no part of these applications."""
    gc.collect()


@pytest.mark.virtual_time
async def test_managers_are_up_before_the_first_request_and_stopped_at_the_end() -> None:
    server = MemoryServer()
    managers = [WebSocketManager(f"c{number}", broker=MemoryBroker(server)) for number in range(3)]
    browser = Browser()
    async with antiphon.lifespan(FastAPI()):
        await until(lambda: all(manager.state is State.UP for manager in managers))
        await managers[0].connect(browser.websocket)

    assert (browser.close_code, server.connections) == (1001, 0)
    assert {manager.state for manager in managers} == {State.DEGRADED}


@pytest.mark.virtual_time
async def test_the_start_takes_about_a_second_at_most_when_the_brokers_hang() -> None:
    servers = [MemoryServer() for _ in range(5)]
    managers = [WebSocketManager("c", broker=MemoryBroker(server)) for server in servers]
    for server in servers:
        server.freeze()
    loop = asyncio.get_running_loop()
    start = loop.time()
    async with antiphon.lifespan():
        assert loop.time() - start <= 2
        assert {manager.state for manager in managers} == {State.DEGRADED}
        for server in servers:
            server.thaw()

    assert [server.connections for server in servers] == [0] * 5


@pytest.mark.virtual_time
async def test_managers_are_stopped_when_the_application_ends_with_an_error() -> None:
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    with pytest.raises(ZeroDivisionError):
        async with antiphon.lifespan():
            assert manager.state is State.UP
            raise ZeroDivisionError

    assert (manager.state, server.connections) == (State.DEGRADED, 0)


@pytest.mark.virtual_time
async def test_all_managers_are_stopped_when_stopping_one_of_them_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    servers = [MemoryServer() for _ in range(3)]
    managers = [WebSocketManager("c", broker=MemoryBroker(server)) for server in servers]
    stop = WebSocketManager.stop

    async def failing(manager: WebSocketManager) -> None:
        await stop(manager)
        if manager is managers[0]:
            raise ZeroDivisionError

    monkeypatch.setattr(WebSocketManager, "stop", failing)
    with pytest.raises(ZeroDivisionError):
        async with antiphon.lifespan():
            assert [server.connections for server in servers] == [2, 2, 2]

    assert [server.connections for server in servers] == [0, 0, 0]


@pytest.mark.virtual_time
async def test_a_manager_that_was_closed_before_is_left_alone() -> None:
    manager = WebSocketManager("c")
    await manager.close()
    async with antiphon.lifespan():
        assert manager.state is State.CLOSED


def test_managers_of_another_running_loop_are_left_alone() -> None:
    elsewhere = WebSocketManager("c")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(elsewhere.start(), loop).result(30)
        here, there = Browser(), Browser()
        manager = WebSocketManager("c")
        asyncio.run_coroutine_threadsafe(elsewhere.connect(there.websocket), loop).result(30)

        async def application() -> None:
            async with antiphon.lifespan():
                await manager.connect(here.websocket)

        asyncio.run(application())
        assert (elsewhere.get_connection_count(), manager.get_connection_count()) == (1, 0)
        assert (there.close_code, here.close_code) == (None, 1001)
        asyncio.run_coroutine_threadsafe(elsewhere.close(), loop).result(30)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.mark.parametrize("framework", [FastAPI, Starlette])
def test_an_application_starts_and_ends_with_it(framework: type[Starlette]) -> None:
    manager = WebSocketManager("chat")

    async def endpoint(websocket: WebSocket) -> None:
        await manager.serve(websocket, on_message=lambda connection, message: manager.broadcast(message))

    app = framework(lifespan=antiphon.lifespan, routes=[WebSocketRoute("/ws", endpoint)])
    with TestClient(app) as client:
        assert manager in managers_here()
        with client.websocket_connect("/ws") as websocket:
            websocket.send_text('{"a": 1}')
            assert websocket.receive_json() == {"a": 1}
            assert manager.get_connection_count() == 1

    assert manager.get_connection_count() == 0


def test_the_same_managers_serve_again_when_the_application_is_started_again() -> None:
    manager = WebSocketManager("chat")
    app = FastAPI(lifespan=antiphon.lifespan)

    @app.websocket("/ws")
    async def endpoint(websocket: WebSocket) -> None:
        await manager.connect(websocket)
        await manager.broadcast(await websocket.receive_text())

    for _ in range(3):  # as in a test suite: one module, a client for each test
        with TestClient(app) as client, client.websocket_connect("/ws") as websocket:
            websocket.send_text("x")
            assert websocket.receive_text() == "x"


async def test_what_exists_at_start_up_is_kept_out_of_the_collector_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = gc.get_freeze_count()
    async with antiphon.lifespan():
        assert gc.get_freeze_count() > before + 1_000
    assert gc.get_freeze_count() == 0
    monkeypatch.setenv("ANTIPHON_GC_FREEZE", "false")
    async with antiphon.lifespan():
        assert gc.get_freeze_count() == 0

"""`manager.serve(on_connect=…)`: what comes before it and after it, how long it may take, what it raises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from antiphon.auth import Forbidden
from antiphon.connection import Connection
from antiphon.manager import WebSocketManager
from antiphon.transports.base import SendLimits
from tests.unit.browsers import Browser, nothing_left, settle, until

pytestmark = pytest.mark.virtual_time


@pytest.fixture
async def manager() -> AsyncIterator[WebSocketManager]:
    before = asyncio.all_tasks()
    manager = WebSocketManager("c", send_limits=SendLimits(close_s=2.0))
    yield manager
    await manager.close()
    await nothing_left(before)


def speaker_of_v1() -> Browser:
    browser = Browser()
    browser.websocket.scope["subprotocols"] = ["antiphon.v1"]
    return browser


def types_of(browser: Browser) -> list[object]:
    return [json.loads(text)["type"] for text in browser.texts]


async def test_welcome_is_the_first_frame_before_the_greeting_and_before_what_is_published_meanwhile(
    manager: WebSocketManager,
) -> None:
    async def on_connect(connection: Connection) -> None:
        await manager.broadcast({"to": "all"})
        await manager.send_personal_message({"type": "hello"}, connection)

    browser = speaker_of_v1()
    serving = asyncio.create_task(manager.serve(browser.websocket, on_connect=on_connect))
    await until(lambda: len(browser.texts) == 3)
    assert types_of(browser) == ["welcome", "message", "message"]
    assert [json.loads(text)["message"] for text in browser.texts[1:]] == [{"to": "all"}, {"type": "hello"}]
    browser.leaves()
    await serving


async def test_nobody_is_taken_for_silent_who_is_still_being_greeted(manager: WebSocketManager) -> None:
    async def on_connect(connection: Connection) -> None:
        await asyncio.sleep(120)

    got: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        got.append(message)

    browser = speaker_of_v1()
    serving = asyncio.create_task(manager.serve(browser.websocket, on_connect=on_connect, on_message=on_message))
    browser.says('{"type":"message","message":{"n":1}}')
    await until(lambda: got == [{"n": 1}], within_s=150)
    assert browser.close_code is None
    assert "ping" in types_of(browser)
    browser.leaves()
    await serving


async def test_what_the_client_said_before_it_left_is_handled_after_the_greeting(manager: WebSocketManager) -> None:
    go_on, notes = asyncio.Event(), []

    async def on_connect(connection: Connection) -> None:
        await go_on.wait()
        notes.append("greeted")

    async def on_message(connection: Connection, message: object) -> None:
        notes.append("message")

    browser = Browser()
    serving = asyncio.create_task(
        manager.serve(
            browser.websocket,
            on_connect=on_connect,
            on_message=on_message,
            on_close=lambda connection: notes.append("closed"),
        )
    )
    browser.says("{}")
    browser.leaves()
    await settle()
    assert notes == []
    go_on.set()
    await serving
    assert notes == ["greeted", "message", "closed"]


async def test_greeting_that_raises_is_raised_and_the_client_is_told_unless_a_refusal_is_told_by_starlette(
    manager: WebSocketManager,
) -> None:
    async def refusing(connection: Connection) -> None:
        raise Forbidden("not today")

    async def broken(connection: Connection) -> None:
        raise ZeroDivisionError("greeting")

    closed: list[Connection] = []
    refused, failed = Browser(), Browser()
    with pytest.raises(Forbidden):
        await manager.serve(refused.websocket, "1", on_connect=refusing, on_close=closed.append)
    with pytest.raises(ZeroDivisionError):
        await manager.serve(failed.websocket, "1", on_connect=broken, on_close=closed.append)
    assert (refused.close_code, failed.close_code) == (None, 1011)
    assert (manager.get_connection_count(), closed) == (0, [])
    assert manager.stats().handler_errors == 1
    assert manager.vitals().ended_connections == {"FORBIDDEN": 1}
    await manager.broadcast("x")
    await settle()
    assert refused.texts == failed.texts == []


async def test_the_error_of_a_greeting_is_raised_although_the_client_takes_no_close_frame(
    manager: WebSocketManager,
) -> None:
    loop = asyncio.get_running_loop()
    browser = Browser()

    async def broken(connection: Connection) -> None:
        browser.is_stuck = True
        raise ZeroDivisionError("greeting")

    before = loop.time()
    with pytest.raises(ZeroDivisionError):
        await manager.serve(browser.websocket, on_connect=broken)
    assert 2.0 <= loop.time() - before < 4.0
    gone = Browser()

    async def broken_by_the_client(connection: Connection) -> None:
        gone.is_gone = True
        raise ZeroDivisionError("greeting")

    with pytest.raises(ZeroDivisionError):
        await manager.serve(gone.websocket, on_connect=broken_by_the_client)
    assert manager.get_connection_count() == 0


async def test_a_greeting_that_is_cancelled_lets_go_of_its_socket(manager: WebSocketManager) -> None:
    began = asyncio.Event()

    async def on_connect(connection: Connection) -> None:
        began.set()
        await asyncio.get_running_loop().create_future()

    browser = Browser()
    serving = asyncio.create_task(manager.serve(browser.websocket, "1", on_connect=on_connect))
    await began.wait()
    assert manager.is_user_connected("1")
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert not manager.is_user_connected("1")
    assert browser.close_code is None


async def test_stop_waits_for_a_greeting_and_nothing_starts_again_after_it(manager: WebSocketManager) -> None:
    began, go_on, greeted = asyncio.Event(), asyncio.Event(), []

    async def on_connect(connection: Connection) -> None:
        began.set()
        await go_on.wait()
        await manager.subscribe(connection, "t")  # which starts nothing again
        await manager.send_personal_message("hello", connection)
        greeted.append(connection)

    browser = Browser()
    serving = asyncio.create_task(manager.serve(browser.websocket, on_connect=on_connect))
    await began.wait()
    stopping = asyncio.create_task(manager.stop())
    await until(lambda: browser.close_code == 1001)
    await settle()
    assert not stopping.done()
    go_on.set()
    await stopping
    assert len(greeted) == 1
    assert manager._stay is None
    assert browser.texts == []
    browser.leaves()
    await serving

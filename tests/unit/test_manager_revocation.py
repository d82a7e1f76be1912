"""Ending sockets through the manager: on all replicas, with the code, and in step with endpoints and sessions."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.auth import Revoked
from antiphon.manager import WebSocketManager
from antiphon.revocation import Disconnected
from tests.unit.browsers import Browser, Fleet, settle, until

pytestmark = pytest.mark.virtual_time


async def test_sockets_of_a_user_are_closed_on_all_replicas_with_the_code() -> None:
    async with Fleet(3) as fleet:
        his = [await fleet.join(replica, "42", topics=("t",)) for replica in range(3)]
        others = [await fleet.join(replica, "4") for replica in range(3)]
        done = await fleet.managers[1].disconnect_user("42")

        assert done == Disconnected(3, 3, True)
        await until(lambda: [browser.close_code for browser in his] == [4502] * 3)
        assert [manager.get_connection_count() for manager in fleet.managers] == [1] * 3
        await fleet.managers[0].broadcast("later")
        await fleet.everybody(*others, have=["later"])
        assert [browser.texts for browser in his] == [[]] * 3
        fleet.managers[0].unsubscribe(his[0].websocket, "t")
        await fleet.managers[0].send_personal_message("x", his[0].websocket)  # it has just gone: nothing happens
        fleet.managers[0].disconnect(his[0].websocket)


async def test_session_of_a_served_socket_ends_and_on_close_is_called_once() -> None:
    async with Fleet(2) as fleet:
        browser, closed = Browser(), []
        serving = asyncio.create_task(
            fleet.managers[0].serve(browser.websocket, "42", on_close=lambda connection: closed.append(connection.id))
        )
        await until(lambda: fleet.managers[0].get_connection_count() == 1)
        assert (await fleet.managers[1].disconnect_user("42")).connections == 1
        await until(lambda: browser.close_code == 4502)
        browser.leaves(4502)
        await serving
        await settle()
        assert len(closed) == 1


async def test_who_is_just_connecting_is_refused_when_revoked() -> None:
    async with Fleet(2) as fleet:
        browser = Browser()
        browser.accepting = asyncio.Event()
        connecting = asyncio.create_task(fleet.managers[0].connect(browser.websocket, "42"))
        await settle()
        await fleet.managers[1].disconnect_user("42")
        browser.accepting.set()
        with pytest.raises(Revoked):
            await connecting
        assert fleet.managers[0].get_connection_count() == 0
        assert await fleet.managers[1].disconnect_user("42") == Disconnected(0, 2, True)


async def test_user_is_cut_when_there_is_no_broker_and_after_a_new_start() -> None:
    manager = WebSocketManager("c")
    for _ in range(2):
        browser = Browser()
        await manager.connect(browser.websocket, "42")
        assert await manager.disconnect_user("42") == Disconnected(1, 1, True)
        await until(lambda browser=browser: browser.close_code == 4502)  # type: ignore[misc]  # bound at once
        await manager.stop()
    await manager.close()


async def test_a_slow_client_that_is_revoked_gets_nothing_more_of_what_waited() -> None:
    async with Fleet(1) as fleet:
        his, others = await fleet.join(0, "42"), await fleet.join(0, "4")
        his.gate = asyncio.Event()
        for number in range(5):
            await fleet.managers[0].broadcast(f"{number}")
        await settle()
        assert (await fleet.managers[0].disconnect_user("42")).connections == 1
        his.gate.set()
        await until(lambda: his.close_code == 4502)
        assert his.texts == ["0"]  # that one was with the server
        await fleet.everybody(others, have=["0", "1", "2", "3", "4"])

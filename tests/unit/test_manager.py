"""The manager: its sockets, who they are, what they hear, and counting them on this replica."""

from __future__ import annotations

import asyncio

import pytest
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from starlette.testclient import TestClient
from starlette.websockets import WebSocketState

from antiphon.auth import BadRequest
from antiphon.connection import Connection
from antiphon.errors import ConfigurationError, InvalidTopicName, InvalidUserId, ManagerClosed, NotConnected, UsageError
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.transports.base import SendLimits
from tests.unit.browsers import Browser, Fleet, settle, until

pytestmark = pytest.mark.virtual_time


# -- the framework tutorial's class -----------------------------------------------------------------------------------


def tutorial() -> tuple[FastAPI, WebSocketManager]:
    """The tutorial's chat, letter for letter but for the manager."""
    app = FastAPI()
    manager = WebSocketManager(channel="chat")

    @app.websocket("/ws/{client_id}")
    async def websocket_endpoint(websocket: WebSocket, client_id: int) -> None:
        await manager.connect(websocket)
        try:
            while True:
                data = await websocket.receive_text()
                await manager.send_personal_message(f"You wrote: {data}", websocket)
                await manager.broadcast(f"Client #{client_id} says: {data}")
        except WebSocketDisconnect:
            manager.disconnect(websocket)
            await manager.broadcast(f"Client #{client_id} left the chat")

    return app, manager


def test_the_tutorials_chat_works_when_only_the_class_is_replaced() -> None:
    app, manager = tutorial()
    with TestClient(app) as client:
        with client.websocket_connect("/ws/1") as one:
            with client.websocket_connect("/ws/2") as two:
                assert manager.get_connection_count() == 2
                two.send_text("hello")
                assert [two.receive_text(), two.receive_text()] == ["You wrote: hello", "Client #2 says: hello"]
                assert one.receive_text() == "Client #2 says: hello"
            assert one.receive_text() == "Client #2 left the chat"
            assert (manager.get_connection_count(), manager.get_user_count()) == (1, 0)
        assert client.portal is not None
        client.portal.call(manager.close)


def test_the_tutorials_chat_works_when_each_socket_has_a_loop_of_its_own() -> None:
    app, manager = tutorial()
    client = TestClient(app)
    for _ in range(2):
        with client.websocket_connect("/ws/1") as one:
            one.send_text("x")
            assert [one.receive_text(), one.receive_text()] == ["You wrote: x", "Client #1 says: x"]
    assert manager.get_connection_count() == 0


# -- connecting -------------------------------------------------------------------------------------------------------


async def test_connect_accepts_the_socket_and_names_the_connection() -> None:
    async with Fleet(1) as fleet:
        browser, connection = await fleet.join_as(0, "42", topics=("track:7",))

        assert browser.websocket.application_state is WebSocketState.CONNECTED
        assert (connection.user_id, connection.queued_bytes) == ("42", 0)
        assert connection.topics == {"track:7"}
        assert connection.id in repr(connection)


async def test_connect_answers_with_the_subprotocol_when_one_is_given() -> None:
    async with Fleet(1) as fleet:
        browser = Browser()
        await fleet.managers[0].connect(browser.websocket, subprotocol="b")

        assert browser.accepted is not None
        assert browser.accepted["subprotocol"] == "b"


async def test_connect_accepts_nothing_when_the_application_has_done_it() -> None:
    async with Fleet(1) as fleet:
        browser = Browser()
        await browser.websocket.accept()
        await fleet.managers[0].connect(browser.websocket, accept=False)
        await fleet.managers[0].broadcast("x")

        assert [event["type"] for event in browser.events] == ["websocket.accept", "websocket.send"]


async def test_a_user_is_counted_once_when_he_holds_many_sockets() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        first = await fleet.join(0, "1")
        others = [await fleet.join(0, user) for user in ("1", "1", "2", None)]

        assert (manager.get_connection_count(), manager.get_user_count()) == (5, 2)
        manager.disconnect(first.websocket)
        assert (manager.get_connection_count(), manager.get_user_count()) == (4, 2)
        assert manager.is_user_connected("1")
        for other in others:
            manager.disconnect(other.websocket)
        assert (manager.get_connection_count(), manager.get_user_count()) == (0, 0)
        assert not manager.is_user_connected("1")


async def test_connection_ids_differ_when_managers_share_a_replica() -> None:
    manager = WebSocketManager("c")
    twin = WebSocketManager("c")
    ids = [(await each.connect(Browser().websocket)).id for each in (manager, twin, manager, twin)]
    for each in (manager, twin):
        await each.close()

    assert len(set(ids)) == 4


async def test_a_socket_is_refused_when_it_is_connected_already() -> None:
    async with Fleet(1) as fleet:
        browser = await fleet.join()

        with pytest.raises(UsageError, match="connected already"):
            await fleet.managers[0].connect(browser.websocket, accept=False)

        assert fleet.managers[0].get_connection_count() == 1


async def test_a_socket_is_connected_once_when_two_tasks_try_at_the_same_time() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = Browser()
        await browser.websocket.accept()
        results = await asyncio.gather(
            *[manager.connect(browser.websocket, accept=False, topics=["t"]) for _ in range(2)], return_exceptions=True
        )

        assert {type(result) for result in results} == {Connection, UsageError}
        await manager.broadcast("x", topic="t")
        assert browser.texts == ["x"]
        manager.disconnect(browser.websocket)
        await until(lambda: fleet.server.listeners("c/t") == 0)


@pytest.mark.parametrize("user_id", [42, None.__class__, b"42", True])
async def test_connect_refuses_before_the_handshake_when_the_user_id_is_no_text(user_id: str) -> None:
    browser = Browser()
    manager = WebSocketManager("c")
    with pytest.raises(InvalidUserId):
        await manager.connect(browser.websocket, user_id)

    assert browser.events == []
    await manager.close()


async def test_the_error_says_what_to_pass_when_the_user_id_is_a_number() -> None:
    manager = WebSocketManager("c")
    with pytest.raises(InvalidUserId, match=r"pass str\(42\)"):
        await manager.connect(Browser().websocket, user_id=42)  # type: ignore[arg-type]  # the mistake
    await manager.close()


async def test_connect_leaves_nothing_when_the_client_goes_during_the_handshake() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = Browser()
        browser.is_gone = True
        with pytest.raises((OSError, WebSocketDisconnect)):
            await manager.connect(browser.websocket, topics=["t"])

        assert manager.get_connection_count() == 0
        assert fleet.server.listeners("c/t") == 0


async def test_connect_leaves_nothing_when_it_is_cancelled() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        fleet.server.freeze()
        connecting = asyncio.create_task(manager.connect(Browser().websocket, topics=["t"]))
        await settle()
        connecting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await connecting
        fleet.server.thaw()

        assert manager.get_connection_count() == 0
        await until(lambda: fleet.server.listeners("c/t") == fleet.server.listeners("c") == 0)


async def test_connect_is_refused_when_the_manager_was_closed_meanwhile() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = Browser()
        browser.accepting = asyncio.Event()
        connecting = asyncio.create_task(manager.connect(browser.websocket))
        await settle()
        await manager.close()
        browser.accepting.set()

        with pytest.raises(ManagerClosed):
            await connecting
        assert manager.get_connection_count() == 0


# -- the first message ------------------------------------------------------------------------------------------------


async def test_the_applications_first_message_comes_first_when_others_publish_all_the_time() -> None:
    async with Fleet(2) as fleet:
        here, other = fleet.managers
        await fleet.join(0)

        async def publish() -> None:
            while True:
                await other.broadcast("channel")
                await other.broadcast("topic", topic="t")
                await asyncio.sleep(0.001)

        publishing = asyncio.create_task(publish())
        for _ in range(20):
            browser = Browser()
            await here.connect(browser.websocket, topics=["t"])
            await here.send_personal_message("connected", browser.websocket)
            await until(lambda browser=browser: {"channel", "topic"} <= set(browser.texts))  # type: ignore[misc]  # bound now

            assert browser.texts[0] == "connected"
            here.disconnect(browser.websocket)
        publishing.cancel()


@pytest.mark.parametrize("topic", [None, "t"])
async def test_nothing_is_missed_when_it_is_published_after_connect_returned(topic: str | None) -> None:
    async with Fleet(2) as fleet:
        here, other = fleet.managers
        for _ in range(10):
            browser = Browser()
            await here.connect(browser.websocket, topics=["t"])
            await other.broadcast("x", topic=topic)
            await fleet.everybody(browser, have=["x"])
            here.disconnect(browser.websocket)


# -- leaving ----------------------------------------------------------------------------------------------------------


async def test_disconnect_is_harmless_when_it_is_repeated_or_the_socket_unknown() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join(0, "1")
        for _ in range(3):
            manager.disconnect(browser.websocket)
        manager.disconnect(Browser().websocket)

        assert manager.get_connection_count() == 0
        assert (manager.stats().connects, manager.stats().disconnects) == (1, 1)


def test_disconnect_is_harmless_before_the_first_use() -> None:
    manager = WebSocketManager("c")
    manager.disconnect(Browser().websocket)

    assert manager.get_connection_count() == 0


async def test_a_socket_hears_nothing_when_it_was_disconnected() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        leaver, stayer = await fleet.join(topics=("t",)), await fleet.join(topics=("t",))
        await manager.broadcast("before")
        manager.disconnect(leaver.websocket)
        await manager.broadcast("after")
        await manager.broadcast("topic", topic="t")

        await fleet.everybody(stayer, have=["before", "after", "topic"])
        assert leaver.texts == ["before"]


async def test_a_socket_may_come_back_when_it_was_disconnected() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join()
        manager.disconnect(browser.websocket)
        await manager.connect(browser.websocket, accept=False)
        await manager.broadcast("x")

        await fleet.everybody(browser, have=["x"])


async def test_a_farewell_and_the_close_frame_leave_when_the_socket_is_disconnected_and_closed() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join()
        await manager.send_personal_message("bye", browser.websocket)
        manager.disconnect(browser.websocket)
        await browser.websocket.close(4501)

        assert (browser.texts, browser.close_code) == (["bye"], 4501)


async def test_a_dead_socket_is_forgotten_when_sending_finds_out() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        dead, good = await fleet.join(0, "1", topics=("t",)), await fleet.join(0, "2")
        dead.is_gone = True
        await manager.broadcast("x")
        await until(lambda: manager.get_connection_count() == 1)
        await manager.broadcast("y")

        await fleet.everybody(good, have=["x", "y"])
        assert not manager.is_user_connected("1")
        assert (manager.stats().lost, manager.stats().disconnects) == ({}, 1)
        assert manager.stats().topics == 0
        await until(lambda: fleet.server.listeners("c/t") == 0)
        manager.disconnect(dead.websocket)


async def test_a_stuck_socket_delays_nobody_and_is_cut_off() -> None:
    async with Fleet(1, send_limits=SendLimits(queued_age_s=5)) as fleet:
        [manager] = fleet.managers
        stuck, good = await fleet.join(0), await fleet.join(0)
        stuck.is_stuck = True
        for number in range(50):
            await manager.broadcast(str(number))
        await fleet.everybody(good, have=[str(number) for number in range(50)])
        assert manager.get_connection_count() == 2
        await until(lambda: manager.get_connection_count() == 1)

        assert manager.stats().lost == {"slow": 1}


async def test_a_socket_is_cut_off_when_more_waits_for_it_than_it_may() -> None:
    async with Fleet(1, send_limits=SendLimits(queued_bytes=10_000)) as fleet:
        [manager] = fleet.managers
        stuck, connection = await fleet.join_as(0)
        good = await fleet.join(0)
        stuck.is_stuck = True
        most = 0
        for _ in range(100):
            await manager.broadcast("x" * 1_000)
            await settle()
            most = max(most, connection.queued_bytes)

        assert len(good.texts) == 100
        assert most <= 11_000
        assert (manager.get_connection_count(), manager.stats().lost) == (1, {"slow": 1})


# -- topics -----------------------------------------------------------------------------------------------------------


async def test_a_topics_message_reaches_its_listeners_alone_when_they_are_on_many_replicas() -> None:
    async with Fleet(3) as fleet:
        on_7 = [await fleet.join(replica, topics=("track:7",)) for replica in range(3)]
        on_8 = await fleet.join(0, topics=("track:8",))
        on_both = await fleet.join(1, topics=("track:7", "track:8"))
        receipt = await fleet.managers[0].broadcast("x", topic="track:7")

        await fleet.everybody(*on_7, on_both, have=["x"])
        assert on_8.texts == []
        assert (receipt.scope, receipt.replicas, receipt.connections) == ("cluster", 3, 1)


async def test_a_replica_hears_a_topic_only_while_somebody_there_listens() -> None:
    async with Fleet(2) as fleet:
        browser = await fleet.join(0, topics=("t",))
        assert fleet.server.listeners("c/t") == 1
        assert (await fleet.managers[1].broadcast("x", topic="t")).replicas == 1
        fleet.managers[0].disconnect(browser.websocket)

        await until(lambda: fleet.server.listeners("c/t") == 0)
        assert (await fleet.managers[1].broadcast("y", topic="t")).replicas == 0
        assert browser.texts == ["x"]


async def test_subscribe_adds_a_topic_and_unsubscribe_takes_it_away() -> None:
    async with Fleet(2) as fleet:
        here, other = fleet.managers
        browser, connection = await fleet.join_as(0)
        await here.subscribe(browser.websocket, "t")
        await here.subscribe(browser.websocket, "t")
        assert connection.topics == {"t"}
        await other.broadcast("1", topic="t")
        await fleet.everybody(browser, have=["1"])
        here.unsubscribe(browser.websocket, "t")
        here.unsubscribe(browser.websocket, "t")
        await other.broadcast("2", topic="t")
        await other.broadcast("3")

        await fleet.everybody(browser, have=["1", "3"])
        assert connection.topics == frozenset()


async def test_a_topic_stays_when_another_socket_still_hears_it() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        leaver, stayer = await fleet.join(topics=("t",)), await fleet.join(topics=("t",))
        manager.unsubscribe(leaver.websocket, "t")
        await asyncio.sleep(60)
        await manager.broadcast("x", topic="t")

        await fleet.everybody(stayer, have=["x"])
        assert leaver.texts == []


async def test_subscribe_is_refused_when_the_socket_is_not_connected() -> None:
    async with Fleet(1) as fleet:
        with pytest.raises(NotConnected, match=r"call connect\(\) first"):
            await fleet.managers[0].subscribe(Browser().websocket, "t")


async def test_unsubscribe_is_harmless_when_the_socket_is_not_connected() -> None:
    async with Fleet(1) as fleet:
        browser = Browser()
        fleet.managers[0].unsubscribe(browser.websocket, "t")

        assert fleet.managers[0].stats().topics == 0


async def test_one_topic_more_is_refused_when_a_connection_has_as_many_as_allowed() -> None:
    async with Fleet(1, limits=Limits(topics_per_connection=2)) as fleet:
        [manager] = fleet.managers
        browser, connection = await fleet.join_as(0, topics=("a", "b"))
        await manager.subscribe(browser.websocket, "a")
        with pytest.raises(UsageError, match="2 topics"):
            await manager.subscribe(browser.websocket, "c")
        refused = Browser()
        with pytest.raises(BadRequest, match="3 topics"):
            await manager.connect(refused.websocket, topics=["a", "b", "c"])

        assert connection.topics == {"a", "b"}
        await manager.connect(Browser().websocket, topics=["a", "b", "a"])
        assert manager.get_connection_count() == 2


@pytest.mark.parametrize("topic", ["", "a b", "a\n", "ä", "x" * 129, "a/b", 7, "nul\x00"])
async def test_a_topics_name_is_refused_when_it_is_none(topic: str) -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join()
        refused = Browser()
        with pytest.raises(InvalidTopicName):
            await manager.subscribe(browser.websocket, topic)
        with pytest.raises(InvalidTopicName):
            await manager.broadcast("x", topic=topic)
        is_text = type(topic) is str
        with pytest.raises(BadRequest if is_text else InvalidTopicName):
            await manager.connect(refused.websocket, topics=[topic])

        assert (refused.accepted is not None) is is_text
        await fleet.everybody(browser, have=[])


async def test_one_text_is_refused_when_topics_are_a_collection() -> None:
    browser = Browser()
    manager = WebSocketManager("c")
    try:
        with pytest.raises(ConfigurationError, match="track:7"):
            await manager.connect(browser.websocket, topics="track:7")
        assert browser.events == []
    finally:
        await manager.close()


async def test_a_managers_text_says_which_it_is_and_how_it_is() -> None:
    async with Fleet(1, channel="chat") as fleet:
        await fleet.join()

        assert repr(fleet.managers[0]) == "<WebSocketManager channel='chat' state=up connections=1>"


async def test_the_last_words_of_a_client_are_taken_when_its_loss_was_noticed_first() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        gone, good = await fleet.join(0), await fleet.join(0)
        gone.is_gone = True
        await manager.broadcast("x")
        await until(lambda: manager.get_connection_count() == 1)

        await manager.send_personal_message("You wrote: bye", gone.websocket)
        await manager.subscribe(gone.websocket, "t")
        await manager.broadcast("somebody says: bye")
        manager.disconnect(gone.websocket)

        await fleet.everybody(good, have=["x", "somebody says: bye"])
        with pytest.raises(NotConnected):
            await manager.send_personal_message("more", gone.websocket)

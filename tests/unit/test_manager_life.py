"""The manager from its construction to its end: no broker, one link for many, event loops that come and go, closing."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Awaitable, Callable

import pytest
import redis

from antiphon.auth import Identity, Revoked
from antiphon.brokers.memory import MemoryBroker, MemoryServer
from antiphon.codes import Reason, State
from antiphon.connection import Connection
from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import ConfigurationError, ManagerClosed, NotConnected, UsageError, WrongEventLoop
from antiphon.manager import WebSocketManager
from antiphon.outbox import OutboxLimits
from antiphon.security import Security
from antiphon.settings import Timings
from antiphon.tickets import Tickets
from antiphon.transports.base import SendLimits
from tests.unit.browsers import Browser, Fleet, nothing_left, settle, until


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every attempt to connect fails the test."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"an attempt to connect: {arguments}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", refuse)


def connections_of(server: BrokerServer, name: str) -> int:
    """Connections at the server of clients that call themselves so."""
    with redis.Redis.from_url(server.url) as client:
        return sum(entry["name"] == name for entry in client.client_list())


# -- without a broker -------------------------------------------------------------------------------------------------


async def exercise(manager: WebSocketManager) -> list[str]:
    """One use of everything that sends or counts."""
    browser = Browser()
    await manager.start()
    await manager.connect(browser.websocket, "1", topics=["t"])
    await manager.broadcast("all")
    await manager.broadcast("topic", topic="t")
    await manager.send_to_user("1", "user")
    await manager.send_personal_message("me", browser.websocket)
    counts = await manager.cluster_counts()
    assert (counts.connections, counts.users, counts.replicas, counts.complete) == (1, 1, 1, True)
    assert await manager.is_user_connected_anywhere("1")
    assert not await manager.is_user_connected_anywhere("2")
    assert manager.state is State.LOCAL
    await settle()
    await manager.close()
    return browser.texts


async def test_nothing_is_dialled_and_nothing_logged_when_there_is_no_address(
    no_network: None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    before = asyncio.all_tasks()

    assert await exercise(WebSocketManager("c")) == ["all", "topic", "user", "me"]
    await nothing_left(before)
    assert caplog.messages == []


@pytest.mark.parametrize("word", ["false", "FALSE", "0", "no", "off"])
async def test_the_switch_wins_over_every_address(
    word: str, no_network: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("USE_REDIS_WEBSOCKET", word)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("ANTIPHON_BROKER_URL", "no address at all")
    caplog.set_level(logging.DEBUG)
    caplog.clear()

    assert await exercise(WebSocketManager("c", url="redis://127.0.0.1:1/0")) == ["all", "topic", "user", "me"]
    assert caplog.messages == []


def test_a_word_in_the_switch_is_refused_when_it_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_REDIS_WEBSOCKET", "flase")
    with pytest.raises(ConfigurationError, match="USE_REDIS_WEBSOCKET='flase'"):
        WebSocketManager("c")


def test_the_redis_client_is_not_even_loaded_when_there_is_no_address() -> None:
    program = (
        "import asyncio, sys\n"
        "from antiphon import WebSocketManager\n"
        "manager = WebSocketManager('c')\n"
        "asyncio.run(manager.broadcast('x'))\n"
        "assert not {name.split('.')[0] for name in sys.modules} & {'redis', 'hiredis', 'uvicorn', 'fastapi'}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env=_environment(), capture_output=True, text=True, check=False, timeout=60
    )

    assert (done.returncode, done.stderr) == (0, "")


def _environment() -> dict[str, str]:
    import os

    return {
        name: value
        for name, value in os.environ.items()
        if name not in ("REDIS_URL", "ANTIPHON_BROKER_URL", "USE_REDIS_WEBSOCKET")
    } | {"PYTHONPATH": ":".join(path for path in sys.path if path)}


# -- before the first use ---------------------------------------------------------------------------------------------


def test_a_manager_needs_no_event_loop_and_no_connection_when_it_is_constructed(no_network: None) -> None:
    manager = WebSocketManager("c", url="redis://127.0.0.1:1/0")

    assert (manager.state, manager.get_connection_count(), manager.get_user_count()) == (State.DEGRADED, 0, 0)
    assert not manager.is_user_connected("1")
    assert (manager.stats().published, manager.stats().link) == (0, None)
    manager.set_message_filter(None)
    manager.disconnect(Browser().websocket)
    assert WebSocketManager("c").state is State.LOCAL


async def test_closing_is_enough_when_a_manager_was_never_used(no_network: None) -> None:
    manager = WebSocketManager("c", url="redis://127.0.0.1:1/0")
    await manager.close()
    await manager.close()

    assert manager.state is State.CLOSED


# -- one link for many ------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_managers_of_one_broker_share_its_two_connections() -> None:
    server = MemoryServer()
    broker = MemoryBroker(server)
    managers = [WebSocketManager(f"c{number}", broker=broker) for number in range(5)]
    browsers = [Browser() for _ in managers]
    for manager, browser in zip(managers, browsers, strict=True):
        await manager.connect(browser.websocket)
        await manager.broadcast(manager.channel)
    assert server.connections == 2
    for manager in managers[1:]:
        await manager.close()
    assert server.connections == 2
    assert (await managers[0].broadcast("still")).scope == "cluster"
    await settle()
    await managers[0].close()

    assert server.connections == 0
    assert [browser.texts for browser in browsers] == [["c0", "still"], ["c1"], ["c2"], ["c3"], ["c4"]]


async def test_managers_of_one_address_share_two_connections_at_the_server(server: BrokerServer) -> None:
    url = f"{server.url}?client_name=shared"
    managers = [WebSocketManager(f"c{number}", url=url) for number in range(5)]
    await asyncio.gather(*[manager.start() for manager in managers])
    receipts = [await manager.broadcast("x") for manager in managers]

    assert {receipt.scope for receipt in receipts} == {"cluster"}
    assert connections_of(server, "shared") == 2
    for manager in managers:
        await manager.close()
    await until(lambda: connections_of(server, "shared") == 0)


@pytest.mark.virtual_time
@pytest.mark.parametrize(
    "options",
    [{"timings": Timings(dead_after_s=9)}, {"outbox_limits": OutboxLimits(messages=1)}],
    ids=["timings", "outbox"],
)
async def test_managers_have_links_of_their_own_when_their_settings_differ(options: dict[str, Timings]) -> None:
    server = MemoryServer()
    broker = MemoryBroker(server)
    managers = [WebSocketManager("c", broker=broker), WebSocketManager("c", broker=broker, **options)]  # type: ignore[arg-type]  # one of two
    browsers = [Browser(), Browser()]
    for manager, browser in zip(managers, browsers, strict=True):
        await manager.connect(browser.websocket)
    receipt = await managers[0].broadcast("x")
    await settle()

    assert (server.connections, receipt.replicas) == (4, 2)
    assert [browser.texts for browser in browsers] == [["x"], ["x"]]
    for manager in managers:
        await manager.close()
    assert server.connections == 0


@pytest.mark.virtual_time
async def test_every_client_gets_a_message_once_when_two_managers_have_one_channel() -> None:
    broker = MemoryBroker()
    managers = [WebSocketManager("c", broker=broker) for _ in range(2)]
    browsers = [Browser(), Browser()]
    for manager, browser in zip(managers, browsers, strict=True):
        await manager.connect(browser.websocket, "1")
    receipt = await managers[0].broadcast("1")
    await managers[1].send_to_user("1", "2")
    await settle()
    assert (receipt.replicas, receipt.connections) == (1, 2)
    await managers[0].close()
    await managers[1].broadcast("3")
    await settle()
    await managers[1].close()

    assert [browser.texts for browser in browsers] == [["1", "2"], ["1", "2", "3"]]


async def test_every_client_gets_a_message_once_when_two_managers_have_one_channel_and_no_broker() -> None:
    managers = [WebSocketManager("c") for _ in range(2)]
    other_channel = WebSocketManager("d")
    browsers = [Browser() for _ in range(3)]
    for manager, browser in zip([*managers, other_channel], browsers, strict=True):
        await manager.connect(browser.websocket)
    assert (await managers[0].broadcast("x")).connections == 2
    await settle()
    for manager in [*managers, other_channel]:
        await manager.close()

    assert [browser.texts for browser in browsers] == [["x"], ["x"], []]


# -- event loops ------------------------------------------------------------------------------------------------------


class OtherLoop:
    """An event loop that runs in a thread of its own."""

    def __enter__(self) -> OtherLoop:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        return self

    def run(self, work: Callable[[], object]) -> None:
        asyncio.run_coroutine_threadsafe(work(), self.loop).result(30)  # type: ignore[arg-type]  # a coroutine

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


async def test_another_loop_is_refused_when_the_first_one_still_runs() -> None:
    manager = WebSocketManager("c")
    with OtherLoop() as other:
        other.run(manager.start)
        refused = Browser()
        for use in (
            manager.start,
            lambda: manager.broadcast("x"),
            lambda: manager.connect(refused.websocket),
            manager.cluster_counts,
        ):
            with pytest.raises(WrongEventLoop, match="one manager for each loop"):
                await use()
        assert refused.events == []
        assert manager.state is State.LOCAL
        other.run(manager.close)


async def test_closing_is_refused_on_another_loop_when_the_first_one_still_runs() -> None:
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    with OtherLoop() as other:
        other.run(manager.start)
        with pytest.raises(WrongEventLoop):
            await manager.close()
        assert manager.state is State.UP
        other.run(manager.close)
    assert (manager.state, server.connections) == (State.CLOSED, 0)


def test_a_manager_serves_the_next_loop_when_its_first_one_has_ended() -> None:
    manager = WebSocketManager("c")

    async def use() -> list[str]:
        browser = Browser()
        await manager.connect(browser.websocket, "1")
        assert (manager.get_connection_count(), manager.get_user_count()) == (1, 1)
        await manager.broadcast("x")
        await settle()
        return browser.texts

    assert [asyncio.run(use()) for _ in range(3)] == [["x"]] * 3


def test_a_manager_finds_its_broker_again_when_its_first_loop_has_ended(server: BrokerServer) -> None:
    manager = WebSocketManager("c", url=f"{server.url}?client_name=loops")
    connections = []

    async def use() -> None:
        browser = Browser()
        await manager.connect(browser.websocket, "1", topics=["t"])
        assert manager.get_connection_count() == 1
        receipt = await manager.broadcast("x", topic="t")
        connections.append(connections_of(server, "loops"))
        assert (receipt.scope, receipt.replicas) == ("cluster", 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            asyncio.run(use())
            gc.collect()
    asyncio.run(manager.close())

    assert connections == [3, 3, 3]  # two of the link, one for what replicas count together
    assert connections_of(server, "loops") == 0


@pytest.mark.parametrize("url", [None, "redis://127.0.0.1:1/0"])
def test_a_socket_may_be_disconnected_when_its_loop_has_ended(url: str | None) -> None:
    manager = WebSocketManager("c", url=url)
    browser = Browser()
    asyncio.run(_connect(manager, browser))
    manager.disconnect(browser.websocket)
    manager.unsubscribe(browser.websocket, "t")

    assert manager.get_connection_count() == 0


async def _connect(manager: WebSocketManager, browser: Browser) -> None:
    await manager.connect(browser.websocket, "1", topics=["t"])


def test_closing_is_enough_when_the_loop_has_ended() -> None:
    manager = WebSocketManager("c")
    asyncio.run(_connect(manager, Browser()))
    asyncio.run(manager.close())

    assert (manager.state, manager.get_connection_count(), manager.get_user_count()) == (State.CLOSED, 0, 0)


# -- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.virtual_time
async def test_close_ends_sockets_tasks_and_connections() -> None:
    before = asyncio.all_tasks()
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    browsers = [Browser() for _ in range(3)]
    for browser in browsers:
        await manager.connect(browser.websocket, "1", topics=["t"])
    await manager.close()

    assert [browser.close_code for browser in browsers] == [1001] * 3
    assert browsers[0].events[-1]["reason"] == "the server is shutting down"
    assert (manager.state, manager.get_connection_count(), manager.get_user_count()) == (State.CLOSED, 0, 0)
    assert server.connections == 0
    await nothing_left(before)
    await manager.close()
    assert [len(browser.events) for browser in browsers] == [2, 2, 2]


@pytest.mark.virtual_time
@pytest.mark.parametrize("broker", [None, MemoryBroker])
async def test_close_sends_what_was_queued_and_then_the_close_frame(broker: type[MemoryBroker] | None) -> None:
    manager = WebSocketManager("c", broker=broker() if broker else None)
    browser = Browser()
    await manager.connect(browser.websocket)
    for number in range(100):
        await manager.broadcast(str(number))
    await manager.send_personal_message("me", browser.websocket)
    await manager.close(code=1012, reason="back soon")

    assert browser.texts == [*map(str, range(100)), "me"]
    assert browser.events[-1] == {"type": "websocket.close", "code": 1012, "reason": "back soon"}


@pytest.mark.virtual_time
async def test_close_waits_no_longer_than_its_limit_when_a_client_does_not_read() -> None:
    before = asyncio.all_tasks()
    manager = WebSocketManager("c", send_limits=SendLimits(close_s=1.0))
    stuck, good = Browser(), Browser()
    for browser in (stuck, good):
        await manager.connect(browser.websocket)
    stuck.is_stuck = True
    await manager.broadcast("x")
    await settle()
    loop = asyncio.get_running_loop()
    start = loop.time()
    await manager.close()

    assert loop.time() - start < 3
    assert (good.texts, good.close_code) == (["x"], 1001)
    await nothing_left(before)


@pytest.mark.virtual_time
async def test_close_is_done_once_when_several_tasks_ask_for_it() -> None:
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    browser = Browser()
    await manager.connect(browser.websocket)
    await asyncio.gather(*[manager.close() for _ in range(3)])

    assert [event["type"] for event in browser.events] == ["websocket.accept", "websocket.close"]
    assert server.connections == 0


@pytest.mark.virtual_time
@pytest.mark.parametrize("end", [WebSocketManager.close, WebSocketManager.stop])
async def test_another_manager_keeps_the_link_when_one_is_ended_by_several_tasks(
    end: Callable[[WebSocketManager], Awaitable[None]],
) -> None:
    server = MemoryServer()
    broker = MemoryBroker(server)
    managers = [WebSocketManager("c", broker=broker), WebSocketManager("c", broker=broker)]
    browsers = [Browser(), Browser()]
    for manager, browser in zip(managers, browsers, strict=True):
        await manager.connect(browser.websocket)
    server.freeze()
    under_way = asyncio.create_task(managers[0].broadcast("x"))
    await settle()
    asyncio.get_running_loop().call_later(0.1, server.thaw)
    await asyncio.gather(*[end(managers[0]) for _ in range(3)])
    assert (await under_way).scope == "cluster"
    receipt = await managers[1].broadcast("y")
    await settle()

    assert (receipt.scope, receipt.connections, server.connections) == ("cluster", 1, 2)
    assert [browser.texts for browser in browsers] == [["x"], ["x", "y"]]
    await managers[1].close()
    assert server.connections == 0


@pytest.mark.virtual_time
async def test_every_use_says_so_when_the_manager_was_closed() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = await fleet.join()
        await manager.close()
        refused = Browser()
        for use in (
            manager.start,
            manager.cluster_counts,
            lambda: manager.broadcast("x"),
            lambda: manager.send_to_user("1", "x"),
            lambda: manager.connect(refused.websocket),
            lambda: manager.serve(refused.websocket),
            lambda: manager.is_user_connected_anywhere("1"),
        ):
            with pytest.raises(ManagerClosed, match="construct a new one"):
                await use()
        with pytest.raises(NotConnected):
            await manager.send_personal_message("x", browser.websocket)
        with pytest.raises(NotConnected):
            await manager.subscribe(browser.websocket, "t")
        manager.disconnect(browser.websocket)
        manager.unsubscribe(browser.websocket, "t")

        assert refused.events == []
        assert (manager.get_connection_count(), manager.stats().state) == (0, State.CLOSED)


@pytest.mark.virtual_time
async def test_publications_under_way_get_an_outcome_when_the_manager_is_closed() -> None:
    async with Fleet(2) as fleet:
        manager = fleet.managers[0]
        fleet.server.freeze()
        callers = [asyncio.create_task(manager.broadcast(number)) for number in range(3)]
        await settle()
        await manager.close()
        receipts = await asyncio.gather(*callers)

        assert {(receipt.scope, receipt.queued, receipt.reason) for receipt in receipts} == {
            ("local", False, Reason.CLOSED)
        }


@pytest.mark.virtual_time
async def test_a_client_gets_what_was_published_before_when_the_manager_is_closed_under_way() -> None:
    async with Fleet(2) as fleet:
        browser = await fleet.join(0)
        fleet.server.freeze()
        callers = [asyncio.create_task(fleet.managers[0].broadcast(str(number))) for number in range(3)]
        await settle()
        await fleet.managers[0].close()
        await asyncio.gather(*callers)

        assert (browser.texts, browser.close_code) == (["0", "1", "2"], 1001)


@pytest.mark.virtual_time
async def test_another_replica_goes_on_when_one_is_closed() -> None:
    async with Fleet(3) as fleet:
        browsers = [await fleet.join(1), await fleet.join(2)]
        await fleet.managers[0].close()
        receipt = await fleet.managers[1].broadcast("x")

        await fleet.everybody(*browsers, have=["x"])
        assert receipt.replicas == 2


@pytest.mark.virtual_time
async def test_a_manager_that_was_stopped_starts_again_with_the_next_use() -> None:
    before = asyncio.all_tasks()
    server = MemoryServer()
    manager = WebSocketManager("c", broker=MemoryBroker(server))
    for _ in range(3):
        browser = Browser()
        await manager.connect(browser.websocket, "1", topics=["t"])
        assert (await manager.broadcast("x", topic="t")).scope == "cluster"
        await manager.stop()
        await manager.stop()

        assert (browser.texts, browser.close_code) == (["x"], 1001)
        assert (manager.get_connection_count(), manager.get_user_count(), manager.stats().topics) == (0, 0, 0)
        assert (manager.state, server.connections) == (State.DEGRADED, 0)
    await nothing_left(before)
    await manager.close()
    with pytest.raises(ManagerClosed):
        await manager.broadcast("x")


@pytest.mark.virtual_time
async def test_connect_is_refused_when_the_manager_was_stopped_meanwhile() -> None:
    async with Fleet(1) as fleet:
        [manager] = fleet.managers
        browser = Browser()
        browser.accepting = asyncio.Event()
        connecting = asyncio.create_task(manager.connect(browser.websocket, topics=["t"]))
        await settle()
        await manager.stop()
        browser.accepting.set()

        with pytest.raises(UsageError):
            await connecting
        assert (manager.get_connection_count(), manager.stats().topics) == (0, 0)


async def test_a_ticket_from_before_a_revocation_is_refused_by_a_manager_that_nobody_used_then(
    server: BrokerServer,
) -> None:
    used, unused = (WebSocketManager("c", url=server.url, timings=timings) for timings in (None, Timings(linger_s=4)))
    tickets = Tickets(server.url)

    async def enter(ticket: str) -> Connection:
        browser = Browser()
        browser.websocket.scope["query_string"] = f"ticket={ticket}".encode()
        security = Security(authenticators=[tickets], refusal_s=0)
        return await unused.connect(browser.websocket, identity=await security(browser.websocket))

    early, other = [await tickets.issue(Identity(user_id=user, session_id="s")) for user in ("42", "7")]
    assert (await used.disconnect_user("42")).complete
    later = await tickets.issue(Identity(user_id="42", session_id="s2"))
    with pytest.raises(Revoked):
        await enter(early)
    for ticket in (other, later):
        assert (await enter(ticket)).identity is not None
    assert unused.vitals().refused_connections == {"revoked": 1}
    for owner in (used, unused, tickets):
        await owner.close()


async def test_what_waits_for_a_first_use_is_told_of_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("antiphon.manager.on_first_use", [lambda: told.append("used")])
    manager = WebSocketManager("c")
    assert told == []
    await manager.broadcast("x")
    await manager.broadcast("x")
    assert told == ["used"]
    await manager.close()


def test_a_loop_that_goes_on_in_another_thread_is_noticed_where_that_costs_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As from Python 3.12 on."""
    monkeypatch.setattr("antiphon.attachment._ASKS_QUICKLY", True)
    manager, first = WebSocketManager("c"), asyncio.new_event_loop()
    assert first.run_until_complete(manager.broadcast("x")).scope == "local"
    is_running = threading.Event()
    first.call_soon(is_running.set)
    thread = threading.Thread(target=first.run_forever)
    thread.start()
    try:
        assert is_running.wait(30)
        with pytest.raises(WrongEventLoop):
            asyncio.run(manager.broadcast("y"))
    finally:
        asyncio.run_coroutine_threadsafe(manager.close(), first).result(30)
        first.call_soon_threadsafe(first.stop)
        thread.join(30)
        first.close()

"""One client's conversation where the library reads the socket: `manager.serve`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest

from antiphon.auth import BadRequest, OriginRefused, Revoked, UnsupportedVersion
from antiphon.codes import State
from antiphon.connection import Connection
from antiphon.conversation import Actions, ClientPublishing, Conversations
from antiphon.errors import InvalidUserId
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.roster import Roster
from antiphon.session import MOST_WAITING, TURN_MESSAGES, WAITING, OnClose, Sessions
from antiphon.transports.asgi import AsgiLane
from antiphon.transports.base import Receiver, SendLimits
from antiphon.wire.frames import Frame, Policy
from tests.unit.browsers import Browser, Event, nothing_left, settle, until

pytestmark = pytest.mark.virtual_time

REFUSED = "a message must be a JSON object in UTF-8, at most 64 levels deep"
Handler = Callable[[Connection, object], Awaitable[object]]


@pytest.fixture
async def manager() -> AsyncIterator[WebSocketManager]:
    before = asyncio.all_tasks()
    manager = WebSocketManager("c")
    yield manager
    await manager.close()
    await nothing_left(before)


@asynccontextmanager
async def served(
    manager: WebSocketManager, on_message: Handler | None = None, user_id: str | None = None
) -> AsyncIterator[Browser]:
    """A client whose socket `serve` reads; at the end it leaves, and `serve` must return."""
    browser = Browser()
    serving = asyncio.create_task(manager.serve(browser.websocket, user_id, on_message=on_message))
    await until(lambda: browser.accepted is not None)
    yield browser
    browser.leaves()
    await asyncio.wait_for(serving, 30)


def n(value: object) -> str:
    """A message that says this."""
    return json.dumps({"n": value})


def said(message: object) -> object:
    """What a message of `n` says."""
    assert isinstance(message, dict)
    return message["n"]


def noting(notes: list[object]) -> Handler:
    async def on_message(connection: Connection, message: object) -> None:
        notes.append(said(message))

    return on_message


async def test_serve_connects_the_socket_and_lets_go_of_it_when_the_client_leaves(manager: WebSocketManager) -> None:
    browser = Browser()
    serving = asyncio.create_task(
        manager.serve(browser.websocket, "42", topics=["t"], subprotocol="a", on_message=noting([]))
    )
    await until(lambda: manager.is_user_connected("42"))
    assert (manager.get_connection_count(), manager.stats().topics) == (1, 1)
    assert browser.accepted is not None
    assert browser.accepted["subprotocol"] == "a"
    await manager.broadcast("x", topic="t")
    browser.leaves()
    await serving

    assert browser.texts == ["x"]
    assert (manager.get_connection_count(), manager.stats().topics) == (0, 0)


async def test_serve_refuses_what_connect_refuses(manager: WebSocketManager) -> None:
    browser = Browser()
    with pytest.raises(InvalidUserId):
        await manager.serve(browser.websocket, 42)  # type: ignore[arg-type]  # the mistake

    assert browser.events == []
    with pytest.raises(BadRequest):
        await manager.serve(browser.websocket, "")
    assert browser.accepted is not None
    newer = Browser()
    newer.websocket.scope["subprotocols"] = ["antiphon.v2", "antiphon.v3"]
    with pytest.raises(UnsupportedVersion):
        await manager.serve(newer.websocket)
    assert newer.accepted is not None
    assert newer.accepted["subprotocol"] == "antiphon.v2"
    foreign = Browser()
    foreign.websocket.scope["subprotocols"] = ["antiphon.v2"]
    foreign.websocket.scope["headers"] = [(b"host", b"site.example"), (b"origin", b"https://evil.example")]
    with pytest.raises(OriginRefused):
        await manager.serve(foreign.websocket)
    assert foreign.accepted is None
    assert manager.vitals().refused_connections == {"bad_request": 1, "version": 1}


async def test_the_handler_gets_each_message_decoded_and_the_connection(manager: WebSocketManager) -> None:
    got: list[tuple[str | None, object]] = []

    async def on_message(connection: Connection, message: object) -> None:
        got.append((connection.user_id, message))

    async with served(manager, on_message, "42") as browser:
        browser.says('{"type": "ping", "é": [1, null]}')
        browser.says(" {} ")
        await until(lambda: len(got) == 2)

    assert got == [("42", {"type": "ping", "é": [1, None]}), ("42", {})]


async def test_messages_are_handled_one_at_a_time_and_in_order_when_they_come_together(
    manager: WebSocketManager,
) -> None:
    notes: list[object] = []
    at_work = 0

    async def on_message(connection: Connection, message: object) -> None:
        nonlocal at_work
        at_work += 1
        assert at_work == 1
        await asyncio.sleep(1 if said(message) == 0 else 0)
        notes.append(said(message))
        at_work -= 1

    async with served(manager, on_message) as browser:
        for number in range(20):
            browser.says(n(number))
        await until(lambda: len(notes) == 20)

    assert notes == list(range(20))
    assert manager.stats().handler_errors == 0


async def test_a_slow_handler_holds_up_its_own_client_alone(manager: WebSocketManager) -> None:
    notes: list[object] = []
    never = asyncio.Event()

    async def on_message(connection: Connection, message: object) -> None:
        if said(message) == "wait":
            await never.wait()
        notes.append(said(message))

    async with served(manager, on_message) as slow, served(manager, on_message) as other:
        slow.says(n("wait"))
        slow.says(n("later"))
        other.says(n("at once"))
        await until(lambda: notes == ["at once"])
        await manager.broadcast("x")
        await settle()
        assert (slow.texts, other.texts) == (["x"], ["x"])
        never.set()
        await until(lambda: notes == ["at once", "wait", "later"])


async def test_a_handler_may_answer_and_publish(manager: WebSocketManager) -> None:
    async def on_message(connection: Connection, message: object) -> None:
        await manager.broadcast({"echo": message}, exclude=connection)

    async with served(manager, on_message) as one, served(manager, on_message) as other:
        one.says(n(1))
        await until(lambda: other.texts == ['{"echo":{"n":1}}'])
        assert one.texts == []


@pytest.mark.parametrize(
    "text",
    [
        "no json",
        "",
        "{'a': 1}",
        '{"a": NaN}',
        '"\ud800"',
        '"\\ud800"',
        "[" * 1_000 + "]" * 1_000,
        "[" * 60_000,
        '{"a": 1} {"b": 2}',
        "7",
        "null",
        '["a"]',
    ],
)
async def test_the_client_is_told_and_the_connection_goes_on_when_a_message_is_no_object(
    manager: WebSocketManager, text: str
) -> None:
    notes: list[object] = []
    async with served(manager, noting(notes)) as browser:
        browser.says(text)
        browser.says(n(1))
        await until(lambda: notes == [1])
        await settle()

        [answer] = map(json.loads, browser.texts)
        assert answer == {"type": "error", "code": "bad_request", "message": REFUSED}
    assert manager.stats().handler_errors == 0


async def test_binary_is_refused_and_nothing_more_is_taken(manager: WebSocketManager) -> None:
    notes: list[object] = []
    async with served(manager, noting(notes)) as browser, served(manager, noting(notes)) as other:
        browser.says(n(1))
        browser.says(binary=b"2")
        browser.says(n(3))
        await until(lambda: browser.close_code == 1003)
        other.says(n(4))
        await until(lambda: notes[-1:] == [4])

    assert notes == [1, 4]


async def test_everything_is_read_and_nothing_answered_when_there_is_no_handler(manager: WebSocketManager) -> None:
    async with served(manager) as browser:
        browser.says("no json")
        browser.says("{}")
        await settle()

        assert browser.texts == []
        assert manager.get_connection_count() == 1


async def test_a_handler_that_raises_is_counted_and_the_connection_goes_on(
    manager: WebSocketManager, caplog: pytest.LogCaptureFixture
) -> None:
    notes: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        number = said(message)
        if isinstance(number, int) and number % 10 == 0:
            raise ZeroDivisionError(f"message {number}")
        notes.append(said(message))

    async with served(manager, on_message) as browser, served(manager, on_message) as other:
        for number in range(50):
            browser.says(n(number))
        await until(lambda: bool(notes) and notes[-1] == 49)
        await manager.broadcast("x")
        await settle()
        assert browser.texts == other.texts == ["x"]

    assert len(notes) == 45
    assert manager.stats().handler_errors == 5
    [record] = [record for record in caplog.records if "on_message" in record.getMessage()]
    assert record.exc_info is not None
    assert "message 0" in str(record.exc_info[1])


async def test_serve_returns_when_a_handler_disconnects_and_the_client_goes(manager: WebSocketManager) -> None:
    async def on_message(connection: Connection, message: object) -> None:
        manager.disconnect(browser.websocket)

    async with served(manager, on_message) as browser:
        browser.says("{}")
        await until(lambda: manager.get_connection_count() == 0)
        await manager.broadcast("x")
        await settle()

        assert browser.texts == []


async def test_the_socket_is_let_go_when_the_task_that_serves_it_is_cancelled(manager: WebSocketManager) -> None:
    browser = Browser()
    serving = asyncio.create_task(manager.serve(browser.websocket, "1"))
    await until(lambda: manager.is_user_connected("1"))
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

    assert manager.get_connection_count() == 0


async def test_serve_returns_when_the_client_leaves_after_the_manager_was_closed(manager: WebSocketManager) -> None:
    async with served(manager, noting([])) as browser:
        await manager.close()

        assert browser.close_code == 1001


async def test_a_message_that_comes_after_the_end_is_not_handled(manager: WebSocketManager) -> None:
    notes: list[object] = []
    browser = Browser()
    serving = asyncio.create_task(manager.serve(browser.websocket, on_message=noting(notes)))
    await until(lambda: browser.accepted is not None)
    browser.says(n(1))
    browser.leaves(1006)
    browser.says(n(2))
    await serving

    assert notes == [1]


async def test_nothing_that_a_client_sent_reaches_the_handler_once_it_is_cut_off(manager: WebSocketManager) -> None:
    got, leave = [], asyncio.Event()

    async def on_message(connection: Connection, message: object) -> None:
        got.append(said(message))
        await leave.wait()

    async with served(manager, on_message, "42") as browser:
        for number in range(3):
            browser.says(n(number))
        await until(lambda: got == [0])
        assert (await manager.disconnect_user("42")).connections == 1
        browser.says(n(3))  # a server hands over what it has received, and what still comes
        leave.set()
        await settle()
    assert got == [0]


async def test_a_client_that_is_cut_off_while_the_rule_is_asked_publishes_nothing() -> None:
    asked, answers = asyncio.Event(), asyncio.Event()

    async def may_publish(connection: Connection, topic: str) -> bool:
        asked.set()
        await answers.wait()
        return True

    publishing = ClientPublishing(may_publish=may_publish, fields={"text"})
    manager, browser = WebSocketManager("c", client_publishing=publishing), Browser()
    browser.websocket.scope["subprotocols"] = ["antiphon.v1"]
    serving = asyncio.create_task(manager.serve(browser.websocket, "42"))
    browser.says(json.dumps({"type": "publish", "topic": "t", "message": {"text": "x"}, "ref": 1}))
    await asked.wait()
    await manager.disconnect_user("42")
    answers.set()
    await settle()
    assert manager.stats().published == 0
    browser.leaves()
    await serving
    await manager.close()


async def test_stop_waits_for_the_handler_that_an_endpoint_runs() -> None:
    manager, browser = WebSocketManager("c"), Browser()
    began, leave, ended = asyncio.Event(), asyncio.Event(), []

    async def on_message(connection: Connection, message: object) -> None:
        began.set()
        await leave.wait()
        ended.append(said(message))

    serving = asyncio.create_task(manager.serve(browser.websocket, on_message=on_message))
    browser.says(n(1))
    await began.wait()
    stopping = asyncio.create_task(manager.stop())
    await until(lambda: browser.close_code is not None)
    await settle()
    assert not stopping.done()
    leave.set()
    await stopping
    assert ended == [1]
    browser.leaves()
    await serving


async def test_stop_waits_no_longer_than_its_limit_and_leaves_the_handler_to_its_endpoint() -> None:
    manager, browser = WebSocketManager("c", send_limits=SendLimits(close_s=2.0)), Browser()
    loop = asyncio.get_running_loop()
    began, leave, ended = asyncio.Event(), asyncio.Event(), []

    async def on_message(connection: Connection, message: object) -> None:
        began.set()
        await leave.wait()
        ended.append(said(message))

    serving = asyncio.create_task(manager.serve(browser.websocket, on_message=on_message))
    browser.says(n(1))
    await began.wait()
    before = loop.time()
    await manager.stop()
    assert 2.0 <= loop.time() - before < 4.5
    leave.set()
    browser.leaves()
    await serving
    assert ended == [1]


async def test_stop_does_not_wait_for_the_endpoint_whose_handler_calls_it() -> None:
    manager, browser, loop = WebSocketManager("c"), Browser(), asyncio.get_running_loop()
    took: list[float] = []

    async def on_message(connection: Connection, message: object) -> None:
        before = loop.time()
        await manager.stop()
        took.append(loop.time() - before)

    serving = asyncio.create_task(manager.serve(browser.websocket, on_message=on_message))
    browser.says(n(1))
    await until(lambda: bool(took))
    assert took[0] < 0.5
    browser.leaves()
    await serving


class Flooding(Browser):
    """A client that notes how many of its messages its endpoint had not read when it got the close frame."""

    unread = 0

    async def _send(self, event: Event) -> None:
        if event["type"] == "websocket.close":
            self.unread = self._incoming.qsize()
        await super()._send(event)


async def test_close_frame_leaves_before_everything_is_read_that_the_server_has_received(
    manager: WebSocketManager,
) -> None:
    browser = Flooding()
    for _ in range(10 * TURN_MESSAGES):
        browser.says("{}")
    browser.leaves()
    await manager.serve(browser.websocket)
    assert browser.close_code == 4505
    assert browser.unread >= 7 * TURN_MESSAGES


# Adopted sockets: called with each event instead of reading.


class Reading:
    """A transport whose socket the library reads."""

    def __init__(self) -> None:
        self.lane = AsgiLane()
        self.queued_bytes = 0
        self.is_reading = True
        self.limit_bytes: int | None = None
        self.closed: list[tuple[int, str]] = []

    def send(self, frame: Frame) -> None:
        """Nobody looks at it."""

    def send_or_drop(self, frame: Frame, policy: Policy) -> None:
        """Nor at this."""

    def close(self, code: int, reason: str, *, discard: bool = False) -> None:
        self.closed.append((code, reason))

    def adopt(self, receiver: Receiver) -> bool:
        return True

    def limit_messages(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes

    def pause_reading(self) -> None:
        self.is_reading = False

    def resume_reading(self) -> None:
        self.is_reading = True

    def detach(self) -> None:
        """It goes on."""


async def _never(*_: object) -> NoReturn:
    raise AssertionError("nobody asks for it")


def _nothing(*_: object) -> None:
    """Nobody asks for it."""


class Adopted:
    """Sessions of one manager, their hub, and one session whose socket is adopted."""

    def __init__(self, on_message: Handler | None = None, on_close: OnClose | None = None) -> None:
        self.forgotten: list[Connection] = []
        self.hub = Hub("c")
        self.sessions = Sessions(self.hub, journal=Journal(), forget=self.forgotten.append)
        self.transport = Reading()
        self.connection = Connection("1", user_id=None, transport=self.transport)
        conversations = Conversations(
            self.hub,
            actions=Actions(subscribe=_never, unsubscribe=_nothing, publish=_never),
            limits=Limits(),
            journal=Journal(),
            state=lambda: State.UP,
        )
        self.counters = conversations.counters
        self.session = self.sessions.open(self.connection, conversations, on_message=on_message, on_close=on_close)

    def says(self, *texts: str) -> None:
        for text in texts:
            self.session({"type": "websocket.receive", "text": text})

    def leaves(self, code: int = 1001) -> None:
        self.session({"type": "websocket.disconnect", "code": code})


async def test_end_of_an_adopted_socket_is_told_once() -> None:
    told: list[Connection] = []
    adopted = Adopted(on_close=told.append)
    adopted.leaves()
    adopted.leaves()
    assert told == adopted.forgotten == [adopted.connection]


async def wrong_on_close(connection: Connection) -> None:
    """Must not be `async def`."""


def broken_on_close(connection: Connection) -> None:
    raise ZeroDivisionError("on_close")


@pytest.mark.parametrize("on_close", [wrong_on_close, broken_on_close])
async def test_on_close_that_fails_is_logged_and_counted_and_harms_nobody(
    on_close: OnClose, caplog: pytest.LogCaptureFixture
) -> None:
    adopted = Adopted(on_close=on_close)
    adopted.leaves()
    adopted.leaves()
    assert adopted.forgotten == [adopted.connection]
    assert adopted.hub.counters.handler_errors == 1
    [record] = [record for record in caplog.records if "on_close" in record.getMessage()]
    assert record.exc_info is not None


def paused(notes: list[object]) -> Handler:
    """Takes its time before it notes a message."""

    async def on_message(connection: Connection, message: object) -> None:
        await asyncio.sleep(0.2)
        notes.append(said(message))

    return on_message


async def test_end_is_told_behind_what_waits_and_the_connection_is_let_go_at_once() -> None:
    notes: list[object] = []
    adopted = Adopted(paused(notes), on_close=lambda connection: notes.append("closed"))
    adopted.says(n(1), n(2), n(3))
    adopted.leaves()
    adopted.leaves()
    adopted.says(n(4))
    assert adopted.forgotten == [adopted.connection]
    assert notes == []
    await until(lambda: "closed" in notes)
    await until(lambda: not adopted.sessions.at_work)
    adopted.leaves()
    adopted.says(n(5))
    assert notes == [1, 2, 3, "closed"]
    assert adopted.forgotten == [adopted.connection]
    assert adopted.hub.counters.handler_errors == 0


@pytest.mark.parametrize("code", [4501, 4502, 4503])
async def test_what_waits_of_a_client_that_may_not_be_here_any_more_is_not_handled(code: int) -> None:
    notes: list[object] = []
    adopted = Adopted(paused(notes), on_close=lambda connection: notes.append("closed"))
    adopted.says(n(1), n(2), n(3))
    await settle()
    adopted.leaves(code)
    await until(lambda: not adopted.sessions.at_work)
    assert notes == [1, "closed"]


@pytest.mark.parametrize("limit_s", [30.0, 0.3])
async def test_finish_tells_the_end_of_clients_whose_messages_wait(limit_s: float) -> None:
    notes: list[object] = []
    adopted = Adopted(paused(notes), on_close=lambda connection: notes.append("closed"))
    adopted.says(n(1), n(2), n(3))
    adopted.leaves()
    await adopted.sessions.finish(limit_s=limit_s)
    assert notes == ([1, 2, 3, "closed"] if limit_s > 1 else [1, "closed"])
    assert not adopted.sessions.at_work


async def test_too_large_for_the_server_is_counted_once_behind_what_waits() -> None:
    notes: list[object] = []
    adopted = Adopted(paused(notes))
    adopted.says(n(1), n(2))
    adopted.leaves(1009)
    await until(lambda: not adopted.sessions.at_work)
    assert notes == [1, 2]
    assert adopted.counters.closed == {"TOO_BIG": 1}


async def test_what_waits_is_bounded_although_the_server_does_not_stop_reading() -> None:
    go_on = asyncio.Event()

    async def on_message(connection: Connection, message: object) -> None:
        await go_on.wait()

    told: list[Connection] = []
    adopted = Adopted(on_message, on_close=told.append)
    adopted.says(*["{}"] * (1 + MOST_WAITING))
    assert adopted.counters.refused == {}
    adopted.says(*["{}"] * 5)
    assert adopted.counters.refused == {"too_fast": 5}
    adopted.leaves()
    go_on.set()
    await until(lambda: told == [adopted.connection])
    assert not adopted.sessions.at_work


async def test_reading_stops_while_many_messages_wait_for_the_handler() -> None:
    notes: list[object] = []
    go_on = asyncio.Event()

    async def on_message(connection: Connection, message: object) -> None:
        await go_on.wait()
        notes.append(said(message))

    adopted = Adopted(on_message)
    adopted.says(*map(n, range(WAITING - 1)))
    before = adopted.transport.is_reading
    adopted.says(n(WAITING - 1))
    assert (before, adopted.transport.is_reading) == (True, False)
    go_on.set()
    await until(lambda: adopted.transport.is_reading)
    await until(lambda: len(notes) == WAITING)
    assert notes == list(range(WAITING))
    await until(lambda: not adopted.sessions.at_work)


async def test_finish_lets_handlers_take_what_has_come_in() -> None:
    notes: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        await asyncio.sleep(0.2)
        notes.append(said(message))

    adopted = Adopted(on_message)
    adopted.says(n(1), n(2), n(3))
    await adopted.sessions.finish(limit_s=30)
    assert notes == [1, 2, 3]
    assert not adopted.sessions.at_work
    await adopted.sessions.finish(limit_s=30)


async def test_finish_cancels_handlers_that_take_too_long() -> None:
    ends: list[str] = []

    async def on_message(connection: Connection, message: object) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            ends.append("cancelled")
            raise

    adopted = Adopted(on_message)
    adopted.says(n(1), n(2))
    await settle()
    await adopted.sessions.finish(limit_s=1)
    assert ends == ["cancelled"]
    await until(lambda: not adopted.sessions.at_work)


async def test_finish_does_not_wait_for_the_handler_that_calls_it() -> None:
    notes: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        await adopted.sessions.finish(limit_s=30)
        notes.append(said(message))

    adopted = Adopted(on_message)
    adopted.says(n(1))
    await until(lambda: notes == [1])
    await until(lambda: not adopted.sessions.at_work)


async def test_message_that_was_read_before_its_client_was_cut_off_is_not_handled_after_it() -> None:
    got: list[object] = []

    async def on_message(connection: Connection, message: object) -> None:
        got.append(said(message))

    adopted = Adopted(on_message)
    adopted.says(n(1))  # its handler begins in the next turn of the loop
    Roster(adopted.hub).end(adopted.connection, Revoked())
    adopted.says(n(2))
    await settle()
    assert got == []
    adopted.leaves(4502)


async def test_binary_from_an_adopted_socket_is_refused_behind_what_came_before() -> None:
    notes: list[object] = []
    adopted = Adopted(noting(notes))
    adopted.says(n(1))
    adopted.session({"type": "websocket.receive", "bytes": b"2"})
    adopted.says(n(3))
    await until(lambda: bool(adopted.transport.closed))
    await until(lambda: not adopted.sessions.at_work)
    assert notes == [1]
    assert [code for code, _ in adopted.transport.closed] == [1003]

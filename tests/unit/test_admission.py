"""How sockets get in, at the moments at which something else happens too."""

from __future__ import annotations

import asyncio
import gc

import pytest
from starlette.websockets import WebSocket

from antiphon.auth import CookieSession, Forbidden, Revoked
from antiphon.identity import Identity
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.security import Security
from tests.unit.browsers import Browser, Event, settle, until

pytestmark = pytest.mark.virtual_time


class Question:
    """An `authorize` that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[str | None, str]] = []
        self.answers = asyncio.Event()
        self.allows = True

    async def __call__(self, identity: Identity | None, topic: str) -> bool:
        self.asked.append((identity.user_id if identity is not None else None, topic))
        allows = self.allows
        await self.answers.wait()
        return allows


@pytest.mark.parametrize("by", ["user_id", "identity"])
async def test_who_is_revoked_while_the_application_is_asked_is_not_let_in(by: str) -> None:
    question = Question()
    manager = WebSocketManager("c", security=Security(authorize=question))
    browser = Browser()
    who = {"user_id": "42"} if by == "user_id" else {"identity": Identity(user_id="42", session_id="s")}
    connecting = asyncio.create_task(manager.connect(browser.websocket, topics=["t"], **who))
    await until(lambda: bool(question.asked))
    done = await manager.disconnect_user("42")
    question.answers.set()
    with pytest.raises(Revoked):
        await connecting
    assert (done.connections, manager.get_connection_count()) == (0, 0)
    await manager.close()


async def test_sockets_of_this_replica_are_cut_before_the_broker_is_waited_for() -> None:
    manager = WebSocketManager("c")
    browser = Browser()
    await manager.connect(browser.websocket, "42")
    revoking = asyncio.create_task(manager.disconnect_user("42"))
    await asyncio.sleep(0)
    assert manager.get_connection_count() == 0
    assert (await revoking).connections == 1
    await manager.close()


async def test_topics_are_asked_about_for_the_user_whom_the_application_named_and_again_later() -> None:
    question = Question()
    question.answers.set()
    manager = WebSocketManager("c", security=Security(authorize=question, recheck_s=5.0))
    browser = Browser()
    connection = await manager.connect(browser.websocket, "42", topics=["t"])
    assert question.asked == [("42", "t")]
    question.allows = False
    await until(lambda: not connection.topics)
    with pytest.raises(Forbidden):
        await manager.subscribe(connection, "u")
    await manager.close()


async def test_topics_are_asked_about_again_when_the_roles_have_changed_while_connecting() -> None:
    roles = [frozenset({"team"}), frozenset[str]()]

    async def lookup(token: str) -> Identity | None:
        return Identity(user_id="42", session_id="s", roles=roles[0] if len(roles) > 1 else frozenset())

    def authorize(identity: Identity | None, topic: str) -> bool:
        return identity is not None and "team" in identity.roles

    manager = WebSocketManager("c", security=Security(authenticators=[CookieSession("s", lookup)], authorize=authorize))
    browser = Browser()
    browser.websocket.scope["headers"] = [(b"host", b"h"), (b"origin", b"http://h"), (b"cookie", b"s=1")]
    browser.accepting = asyncio.Event()
    connecting = asyncio.create_task(manager.connect(browser.websocket, topics=["mods"]))
    await settle()
    roles.pop()
    browser.accepting.set()
    with pytest.raises(Forbidden):
        await connecting
    assert manager.get_connection_count() == 0
    await manager.close()


@pytest.mark.parametrize("user_id", [None, "42"])
async def test_topics_are_asked_about_again_when_everybody_was_while_connecting(user_id: str | None) -> None:
    question = Question()
    question.answers.set()
    manager = WebSocketManager("c", security=Security(authorize=question))
    browser = Browser()
    browser.accepting = asyncio.Event()
    connecting = asyncio.create_task(manager.connect(browser.websocket, user_id, topics=["t"]))
    await until(lambda: bool(question.asked))
    await settle()
    question.allows = False
    manager.recheck()  # which cannot see who is not there yet
    await settle()
    assert question.asked == [(user_id, "t")]
    browser.accepting.set()
    with pytest.raises(Forbidden):
        await connecting
    assert manager.get_connection_count() == 0
    await manager.close()


async def test_nobody_is_kept_out_by_rounds_that_follow_one_another() -> None:
    manager: WebSocketManager

    class Busy:
        """Says yes, and has everybody asked about again each time."""

        asked = 0

        async def __call__(self, identity: Identity | None, topic: str) -> bool:
            self.asked += 1
            manager.recheck()
            await settle()
            return True

    busy = Busy()
    manager = WebSocketManager("c", security=Security(authorize=busy))
    browser = Browser()
    connection = await asyncio.wait_for(manager.connect(browser.websocket, "42", topics=["t"]), 30)
    assert connection.topics == {"t"}
    assert 2 <= busy.asked <= 4
    await manager.close()


async def test_security_that_a_dependency_asks_counts_for_a_manager_that_was_given_none() -> None:
    async def lookup(token: str) -> Identity | None:
        return Identity(user_id="42")

    security = Security(authenticators=[CookieSession("s", lookup)], authorize=lambda identity, topic: topic == "open")
    manager = WebSocketManager("c")
    for topic, lets_in in (("open", True), ("mods", False)):
        browser = Browser()
        browser.websocket.scope["headers"] = [(b"host", b"h"), (b"origin", b"http://h"), (b"cookie", b"s=1")]
        identity = await security(browser.websocket)
        if lets_in:
            await manager.connect(browser.websocket, identity=identity, topics=[topic])
        else:
            with pytest.raises(Forbidden):
                await manager.connect(browser.websocket, identity=identity, topics=[topic])
    assert manager.vitals().security is security.counters.refused
    await manager.close()


async def test_socket_whose_endpoint_has_ended_without_a_word_is_forgotten_with_its_place() -> None:
    manager = WebSocketManager("c", limits=Limits(connections_per_user=2))

    async def receive() -> Event:
        return {"type": "websocket.connect"}

    async def send(event: Event) -> None:
        """A server whose client has gone takes it all the same."""

    async def endpoint() -> None:
        websocket = WebSocket({"type": "websocket", "headers": []}, receive, send)
        await manager.connect(websocket, "42")
        raise ValueError("no JSON")

    for _ in range(5):
        with pytest.raises(ValueError, match="no JSON"):
            await endpoint()
        gc.collect()  # the exception held the frame
        await until(lambda: manager.get_connection_count() == 0)
    await manager.close()


async def test_socket_is_kept_while_its_endpoint_holds_it() -> None:
    manager = WebSocketManager("c")
    browser = Browser()
    await asyncio.wait_for(manager.connect(browser.websocket, "42"), 5)  # a task of its own, which has ended
    gc.collect()
    await settle()
    await manager.broadcast("x")
    await until(lambda: browser.texts == ["x"])
    await manager.close()

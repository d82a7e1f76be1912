"""What a client asks for when it connects: a stranger's text is refused, a developer's mistake raises."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from antiphon.auth import BadRequest, BearerToken, NotSignedIn, OriginRefused
from antiphon.errors import ConfigurationError, InvalidTopicName, InvalidUserId, UsageError
from antiphon.identity import Identity
from antiphon.limits import Limits
from antiphon.manager import WebSocketManager
from antiphon.security import Security
from tests.unit.browsers import Browser

TOPICS = [f"topic=t{number}" for number in range(128)]


def app_of(manager: WebSocketManager) -> Starlette:
    """An application that passes on what stands in the address, as those before it did."""

    async def listen(websocket: WebSocket) -> None:
        query = websocket.query_params
        await manager.serve(websocket, query.get("user_id"), topics=query.getlist("topic"))

    return Starlette(routes=[WebSocketRoute("/ws", listen)])


@pytest.mark.parametrize(
    "query",
    [
        "user_id=",
        "topic=",
        "topic=a%20b",
        "topic=a/b",
        "topic=" + "x" * 129,
        "topic=t&" + "&".join(TOPICS),
    ],
    ids=["user", "empty", "space", "slash", "long", "many"],
)
def test_what_stands_in_the_address_is_refused_with_a_code_and_without_a_traceback(
    query: str, caplog: pytest.LogCaptureFixture
) -> None:
    manager = WebSocketManager("c")
    with TestClient(app_of(manager)) as client:
        with client.websocket_connect(f"/ws?{query}") as socket:
            with pytest.raises(WebSocketDisconnect) as closed:
                socket.receive_text()
        assert (closed.value.code, closed.value.reason) == (4506, "bad request")
        assert manager.vitals().refused_connections == {"bad_request": 1}
        assert manager.get_connection_count() == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert caplog.records[0].exc_info is None
    assert "was refused" in caplog.messages[0]


async def test_from_where_and_who_it_is_come_before_what_it_asks_for() -> None:
    security = Security(authenticators=[BearerToken(lambda token: Identity(user_id="42"))], refusal_s=0)
    manager = WebSocketManager("c", security=security)
    foreign: list[Any] = [(b"host", b"site.example"), (b"origin", b"https://evil.example")]
    wrong: dict[str, Any] = {"user_id": "", "topics": ["a b"]}
    for headers, refusal in ((foreign, OriginRefused), ([(b"host", b"site.example")], NotSignedIn)):
        browser = Browser()
        browser.websocket.scope["headers"] = headers
        with pytest.raises(refusal):
            await manager.connect(browser.websocket, **wrong)
    browser = Browser()
    browser.websocket.scope["headers"] = [(b"host", b"site.example"), (b"authorization", b"Bearer x")]
    with pytest.raises(BadRequest, match="'a b'"):
        await manager.connect(browser.websocket, topics=["a b"])
    await manager.close()


async def test_nobody_is_asked_whether_a_topic_may_be_heard_that_is_none() -> None:
    asked: list[str] = []

    def authorize(identity: Identity | None, topic: str) -> bool:
        asked.append(topic)
        return True

    manager = WebSocketManager("c", security=Security(authorize=authorize), limits=Limits(topics_per_connection=2))
    for topics in (["a b"], ["a", "b", "c"]):
        with pytest.raises(BadRequest):
            await manager.connect(Browser().websocket, topics=topics)
    assert asked == []
    await manager.close()


async def test_another_user_than_the_identitys_is_refused() -> None:
    manager, browser = WebSocketManager("c"), Browser()
    with pytest.raises(NotSignedIn):
        await manager.connect(browser.websocket, "7", identity=Identity(user_id="42"))
    assert browser.accepted is not None
    assert manager.vitals().refused_connections == {"not_signed_in": 1}
    await manager.connect(Browser().websocket, "42", identity=Identity(user_id="42"))
    await manager.close()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"user_id": 42}, InvalidUserId),
        ({"user_id": b"42"}, InvalidUserId),
        ({"topics": "chat"}, ConfigurationError),
        ({"topics": [7]}, InvalidTopicName),
        ({"topics": [None]}, InvalidTopicName),
        ({"topics": [["chat"]]}, InvalidTopicName),
        ({"identity": "42"}, ConfigurationError),
        ({"subprotocol": "antiphon.v1"}, UsageError),
    ],
)
async def test_a_mistake_of_the_endpoint_raises_before_the_socket_is_accepted(
    given: dict[str, Any], error: type[Exception]
) -> None:
    manager, browser = WebSocketManager("c"), Browser()
    with pytest.raises(error):
        await manager.connect(browser.websocket, **given)
    assert browser.events == []
    assert manager.vitals().refused_connections == {}
    await manager.close()

"""The page on security shows only code that runs, and tells of the Origin rule what the code does."""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

import antiphon.auth
import antiphon.tickets
from antiphon.auth import ClientGone, Refused
from antiphon.codes import Reason
from antiphon.errors import BrokerUnavailable
from antiphon.identity import Identity
from antiphon.origins import OriginRule
from antiphon.redaction import SCAN_CHARACTERS, TEXT_CHARACTERS, mask
from antiphon.security import Security
from tests.test_docs import CODE, ROOT, block, blocks, no_environment, rows, section
from tests.unit.browsers import Browser
from tests.unit.browsers import until as settle_until

PAGE = ROOT / "docs/security.md"

__all__ = ["no_environment"]  # the fixture that every test here uses as well


def run_block(containing: str) -> dict[str, Any]:
    namespace: dict[str, Any] = {}
    exec(block(PAGE, "python", containing=containing), namespace)
    return namespace


def refusal_of(client: TestClient, path: str, **headers: str) -> int:
    """The close code of a socket that is not let in, or 403."""
    with pytest.raises(WebSocketDisconnect) as closed:
        with client.websocket_connect(path, headers=headers) as socket:
            socket.receive_text()
        raise AssertionError("let in")
    return closed.value.code


def test_every_block_of_the_page_is_run_here() -> None:
    marks = ['channel="chat"', 'channel="reports"', 'channel="board"', 'channel="events"', 'channel="inbox"']
    assert [sum(mark in body for mark in marks) for body in blocks(PAGE, "python")] == [1, 1, 1, 1, 1]


def until(condition: Callable[[], bool]) -> None:
    """The client hears of the acceptance before the endpoint has done all that connecting takes."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_recipe_with_a_cookie_lets_in_sockets_and_requests() -> None:
    namespace = run_block('channel="chat"')
    app = namespace["app"]
    assert isinstance(app, FastAPI)
    site = {"origin": "http://testserver", "cookie": "session=nU6mRr0Zc1"}
    with TestClient(app) as client:
        with client.websocket_connect("/ws", headers=dict(site)) as socket:
            until(lambda: namespace["manager"].is_user_connected("42"))
            assert client.post("/say?text=hello", headers=site).status_code == 200
            assert socket.receive_json() == {"from": "42", "text": "hello"}
        assert refusal_of(client, "/ws", origin="http://testserver") == 4501
        assert refusal_of(client, "/ws", origin="http://testserver", cookie="session=forged") == 4501
        assert refusal_of(client, "/ws", origin="https://evil.example", cookie="session=nU6mRr0Zc1") == 4503
        assert client.post("/say?text=hello").status_code == 401
        assert client.post("/say?text=x", headers={**site, "origin": "https://evil.example"}).status_code == 403


def test_the_recipe_with_tokens_lets_programs_in() -> None:
    namespace = run_block('channel="reports"')
    assert hashlib.sha256(b"a-long-random-token").hexdigest() in namespace["HASHED"]
    with TestClient(namespace["app"]) as client:
        with client.websocket_connect("/ws", headers={"authorization": "Bearer a-long-random-token"}):
            until(lambda: namespace["manager"].is_user_connected("nightly-report"))
        assert refusal_of(client, "/ws", authorization="Bearer another") == 4501
        assert refusal_of(client, "/ws?token=a-long-random-token") == 4501


def test_the_recipe_with_tickets_lets_each_in_once_and_answers_503_without_a_broker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    namespace = run_block('channel="board"')
    page = {"origin": "https://app.example"}
    with TestClient(namespace["app"]) as client:

        def ask(**headers: str) -> Any:
            return client.post("/ticket", headers={**page, "authorization": "Bearer a-long-random-token", **headers})

        assert ask(authorization="Bearer another").status_code == 401
        for _ in range(2):
            path = f"/ws?ticket={ask().json()}"
            with client.websocket_connect(path, headers=dict(page)):
                until(lambda: namespace["manager"].is_user_connected("42"))
            assert refusal_of(client, path, **page) == 4501
        other = f"/ws?ticket={ask(origin='https://other.example').json()}"
        assert refusal_of(client, other, **page) == 4501
        assert refusal_of(client, "/ws", **page) == 4501

        async def away(*_: object, **__: object) -> bool:
            raise BrokerUnavailable("away", reason=Reason.CONNECTION_LOST)

        monkeypatch.setattr(namespace["tickets"]._store, "put_once", away)
        answer = ask()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_the_recipe_for_the_end_of_a_session_cuts_its_sockets() -> None:
    namespace = run_block('channel="inbox"')
    manager = namespace["manager"]
    sockets = {session: Browser() for session in ("a", "b", "c")}
    for session, browser in sockets.items():
        await manager.connect(browser.websocket, identity=Identity(user_id="42", session_id=session))
    assert await namespace["password_changed"](Identity(user_id="42", session_id="a")) == 2
    assert await namespace["signed_out"]("a")
    await settle_until(lambda: [browser.close_code for browser in sockets.values()] == [4502] * 3)
    await manager.close()


def test_the_recipe_with_topics_asks_who_may_hear_them() -> None:
    app = run_block('channel="events"')["app"]
    headers = {"origin": "https://app.example", "cookie": "session=b7TzYp3Ve9"}
    staff = {**headers, "cookie": "session=qJw8Xk2Lf5"}
    with TestClient(app) as client:
        for path, who in (("/ws/user:42", headers), ("/ws/user:42", staff), ("/ws/moderation", staff)):
            with client.websocket_connect(path, headers=dict(who)) as socket:
                socket.close()
        assert refusal_of(client, "/ws/user:1", **headers) == 4503
        assert refusal_of(client, "/ws/moderation", **headers) == 4503
        assert refusal_of(client, "/ws/user:42", **{**headers, "origin": "https://other.example"}) == 4503


ORIGINS = rows(section(PAGE, "## The Origin rule"))


@pytest.mark.parametrize("row", ORIGINS, ids=lambda row: f"{row[1]} {row[2]}")
def test_the_table_of_origins_is_what_the_rule_does(row: list[str]) -> None:
    host, origin = CODE.findall(row[0])[0], CODE.findall(row[1])[0]
    without = OriginRule().decide([origin], host)
    listed = OriginRule(allowed=["https://app.example"]).decide([origin], host)
    answers = {
        "accepted": (True, True),
        "refused": (False, False),
        "accepted if listed": (False, True),
        "accepted if none is listed": (True, False),
        "refused if listed": (True, False),
    }
    assert (without.allowed, listed.allowed) == answers[row[2]]


def test_the_table_of_origins_shows_every_answer() -> None:
    assert len(ORIGINS) == 14


def test_the_table_of_refusals_is_that_of_the_code() -> None:
    table = {CODE.findall(row[0])[0]: row[1:] for row in rows(section(PAGE, "## What a client sees"))}
    kinds = {
        name: kind
        for name, kind in vars(antiphon.auth).items()
        if isinstance(kind, type) and issubclass(kind, Refused) and kind not in (Refused, ClientGone)
    }
    assert set(table) == set(kinds)
    for name, (socket, request, back) in table.items():
        kind = kinds[name]
        assert socket == ("HTTP 403" if name == "OriginRefused" else str(kind.close_code.value))
        assert request == str(kind.http_status)
        assert back.startswith("yes") is kind.close_code.client_returns


def test_the_log_line_of_the_page_is_the_one_that_is_written(caplog: pytest.LogCaptureFixture) -> None:
    security = run_block('channel="chat"')["security"]
    (line,) = blocks(PAGE, "text")
    app = FastAPI()
    app.add_api_websocket_route("/ws", security)
    with TestClient(app) as client:
        refusal_of(client, "/ws", host="api.example", origin="https://app.example", cookie="session=nU6mRr0Zc1")
    assert line.strip() in caplog.messages


def test_the_authenticators_of_the_page_exist() -> None:
    table = rows(section(PAGE, "## Who it is"))
    named = [CODE.findall(row[0])[0].partition("(")[0] for row in table]
    assert named == ["CookieSession", "BearerToken", "FirstMessage", "Tickets"]
    modules = [antiphon.auth, antiphon.auth, antiphon.auth, antiphon.tickets]
    assert all(hasattr(getattr(module, name), "authenticate") for module, name in zip(modules, named, strict=True))
    assert antiphon.tickets.Tickets().ttl_s == 30


def test_the_names_that_the_page_says_are_masked_are() -> None:
    part = section(PAGE, "## Secrets and logs")
    names = next(line for line in part.splitlines() if "name=value" in line)
    secret = [name for name in CODE.findall(names) if name != "name=value"]
    assert len(secret) == 7
    for name in secret:
        assert mask(f"?{name}=SECRET") == f"?{name}=***"
    assert (SCAN_CHARACTERS, TEXT_CHARACTERS) == (8 * 1024, 64 * 1024)


def test_the_client_of_the_page_for_tests_passes_the_origin_rule_with_a_cookie() -> None:
    namespace = run_block('channel="chat"')
    headers = {"origin": "http://testserver"}
    assert f'`TestClient(app, headers={{"origin": "{headers["origin"]}"}})`' in PAGE.read_text()
    with TestClient(namespace["app"], headers=headers, cookies={"session": "nU6mRr0Zc1"}) as client:
        with client.websocket_connect("/ws"):
            until(lambda: namespace["manager"].is_user_connected("42"))


def test_the_defaults_of_the_page_are_those_of_the_code() -> None:
    assert (Security()._refusal_s, Security()._answer_s) == (0.1, 5.0)
    first = antiphon.auth.FirstMessage(lambda token: None)
    assert (first.timeout_s, first.limit_bytes) == (5.0, 16 * 1024)

"""One replica of the guide's application without a broker: each endpoint, and what it refuses."""

from __future__ import annotations

import re
import runpy

import httpx2
import pytest

import antiphon
from antiphon.dev.ports import HOST
from tests.examples.guide import GUIDE, Replica

HELLOS = {
    "/ws/broadcasts": {"message": "Connected to broadcast live updates"},
    "/ws/comments/7": {"track_id": "7", "message": "Connected to comment updates"},
    "/ws/forum/9": {"thread_id": "9", "message": "Connected to thread updates"},
    "/ws/book-requests": {"message": "Connected to book request updates"},
    "/ws/book-requests/admin": {"message": "Connected to book request administration"},
}


@pytest.mark.parametrize("path", HELLOS)
async def test_socket_says_connected_first_and_answers_a_ping_when_dialled(single: Replica, path: str) -> None:
    async with single.dial(f"{path}?user_id=cleo&role=creator") as listener:
        assert await listener.next() == {"type": "connected", **HELLOS[path]}
        await listener.send('{"type": "ping"}')
        assert await listener.next() == {"type": "pong"}


@pytest.mark.parametrize("text", ["", "no JSON", "[1]", '"ping"', '{"type": "other"}', "[" * 50_000, b"\xff\x00"])
async def test_socket_goes_on_when_a_client_sends_what_means_nothing(single: Replica, text: str | bytes) -> None:
    async with single.listen("/ws/broadcasts") as listener:
        await listener.send(text)
        assert await listener.has_nothing_more()


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/ws/book-requests", 4501),
        ("/ws/book-requests?user_id=", 4501),
        ("/ws/book-requests/admin?user_id=ann", 4503),
        ("/ws/book-requests/admin?user_id=ann&role=listener", 4503),
        ("/ws/comments/no%20track", 4506),
        ("/ws/forum/%C3%BC", 4506),
        (f"/ws/forum/{'9' * 200}", 4506),
    ],
)
async def test_socket_is_closed_with_a_code_when_refused(single: Replica, path: str, code: int) -> None:
    async with single.dial(path) as listener:
        assert await listener.closed() == code


async def test_everything_is_delivered_here_when_there_is_no_broker(single: Replica) -> None:
    async with (
        single.listen("/ws/broadcasts") as broadcasts,
        single.listen("/ws/comments/7") as comments,
        single.listen("/ws/forum/9") as forum,
        single.listen("/ws/book-requests?user_id=ann") as requests,
        single.listen("/ws/book-requests/admin?role=creator") as admin,
    ):
        made = await single.make("POST", "/api/broadcasts", {"title": "a", "content": "b"})
        assert made["delivery"] == {"scope": "local", "replicas": None, "queued": False}
        assert (await broadcasts.next())["type"] == "new_broadcast"

        comment = await single.make("POST", "/api/comments", {"track_id": "7", "content": "c", "timestamp": 1})
        await single.make("PUT", f"/api/comments/{comment['id']}", {"content": "d"})
        await single.make("DELETE", f"/api/comments/{comment['id']}")
        types = [(await comments.next())["type"] for _ in range(3)]
        assert types == ["new_comment", "comment_updated", "comment_deleted"]

        await single.make("POST", "/api/forum/posts", {"thread_id": "9", "content": "e"})
        assert (await forum.next())["type"] == "new_post"

        request = await single.make("POST", "/api/book-requests", {"title": "f"})
        await single.make("PUT", f"/api/book-requests/{request['id']}/status", {"status": "approved"}, role="creator")
        assert [(await requests.next())["type"] for _ in range(2)] == ["request_created", "status_updated"]
        assert [(await admin.next())["type"] for _ in range(2)] == ["new_request", "request_updated"]

    stats = await single.make("GET", "/stats")
    assert {manager["state"] for manager in stats["managers"].values()} == {"local"}


POSTS: dict[str, dict[str, object]] = {
    "/api/broadcasts": {"title": "a", "content": "b"},
    "/api/comments": {"track_id": "7", "content": "c", "timestamp": 1},
    "/api/forum/posts": {"thread_id": "9", "content": "d"},
    "/api/book-requests": {"title": "e"},
}
NO_TEXT: tuple[object, ...] = (None, [], "", "  ")


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        *((path, {name: wrong}) for path, body in POSTS.items() for name in body for wrong in NO_TEXT),
        ("/api/broadcasts", {"title": "a" * 201}),
        ("/api/broadcasts", {"content": "a" * 5001}),
        ("/api/comments", {"track_id": "no track"}),
        ("/api/comments", {"track_id": "7\n8"}),
        ("/api/comments", {"timestamp": -1}),
        ("/api/comments", {"timestamp": "soon"}),
        ("/api/forum/posts", {"thread_id": "../9"}),
    ],
)
async def test_post_is_refused_when_a_field_is_wrong(single: Replica, path: str, wrong: dict[str, object]) -> None:
    response = await single.call("POST", path, {**POSTS[path], **wrong})
    assert response.status_code == 422
    assert [problem["loc"] for problem in response.json()["detail"]] == [["body", *wrong]]


@pytest.mark.parametrize("path", POSTS)
async def test_post_is_refused_when_the_body_or_the_user_is_missing(single: Replica, path: str) -> None:
    assert (await single.call("POST", path, {})).status_code == 422
    assert (await single.call("POST", path)).status_code == 422
    for user in (None, "", "a" * 129):
        response = await single.call("POST", path, POSTS[path], user=user)
        assert response.status_code == 422
        assert [problem["loc"] for problem in response.json()["detail"]] == [["query", "user_id"]]


@pytest.mark.parametrize("body", ["", "no JSON", '{"title": "\\ud800"}', '{"title": NaN}', '{"title": ' + "[" * 2000])
async def test_post_is_refused_when_the_body_is_not_what_json_can_carry(single: Replica, body: str) -> None:
    async with httpx2.AsyncClient(trust_env=False, timeout=30.0) as client:
        response = await client.post(
            f"http://{HOST}:{single.port}/api/book-requests?user_id=ann",
            content=body,
            headers={"Content-Type": "application/json"},
        )
    assert 400 <= response.status_code < 500
    assert response.json()["detail"]


async def test_request_is_not_found_when_the_id_is_unknown(single: Replica) -> None:
    for id in ("0", "x" * 1000, "a%20b", "%00"):
        assert (await single.call("PUT", f"/api/comments/{id}", {"content": "a"})).status_code == 404
        assert (await single.call("DELETE", f"/api/comments/{id}")).status_code == 404
        path = f"/api/book-requests/{id}/status"
        assert (await single.call("PUT", path, {"status": "approved"}, role="creator")).status_code == 404


async def test_status_is_refused_when_unknown_or_set_by_a_listener(single: Replica) -> None:
    request = await single.make("POST", "/api/book-requests", {"title": "Momo"})
    path = f"/api/book-requests/{request['id']}/status"
    assert (await single.call("PUT", path, {"status": "lost"}, role="creator")).status_code == 422
    for role in (None, "", "listener", "Creator"):
        response = await single.call("PUT", path, {"status": "approved"}, role=role)
        assert response.status_code == 403
        assert "role=creator" in response.json()["detail"]


async def test_page_needs_nothing_from_elsewhere_when_served(single: Replica) -> None:
    response = await single.call("GET", "/")
    assert response.is_success
    assert response.headers["content-type"].startswith("text/html")
    page = response.text
    assert 'lang="en"' in page
    assert not re.search(r"""(?:src|href|action)\s*=\s*["'](?!data:)""", page)
    assert not re.search(r"@import|url\(|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", page)


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost:8002", True),
        ("http://127.0.0.1:8002", True),
        ("http://localhost.evil.example", False),
        ("https://evil.example", False),
    ],
)
async def test_other_ports_of_this_machine_alone_may_post_when_the_browser_asks(
    single: Replica, origin: str, allowed: bool
) -> None:
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with httpx2.AsyncClient(trust_env=False, timeout=30.0) as client:
        response = await client.options(f"http://{HOST}:{single.port}/api/broadcasts", headers=asked)
    assert (response.headers.get("access-control-allow-origin") == origin) is allowed


def test_old_import_gives_the_same_class_when_the_one_line_file_is_there() -> None:
    assert runpy.run_path(str(GUIDE / "websocket_manager.py"))["WebSocketManager"] is antiphon.WebSocketManager

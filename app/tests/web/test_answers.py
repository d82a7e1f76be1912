"""What every answer carries, and what a request may carry."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
import pytest_asyncio
import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from encore import web
from encore.main import app as site
from encore.settings import Settings, read_settings
from encore.web.addresses import client_address
from encore.web.bodies import BODIES, JSON_BYTES, Bodies, BodyRule

log = logging.getLogger("encore.web.tests")


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"length": len(await request.body()), "id": web.request_id()})


async def stored(request: Request) -> PlainTextResponse:
    headers = {"Cache-Control": "public, max-age=60", "Content-Security-Policy": "sandbox"}
    return PlainTextResponse("x", headers=headers)


async def crash(request: Request) -> None:
    raise RuntimeError("secret detail")


def application(settings: Settings | None = None) -> Starlette:
    routes = [
        Route("/api/echo", echo, methods=["GET", "POST", "PUT"]),
        Route("/api/tracks", echo, methods=["POST"]),
        Route("/api/tracks/{track_id:int}/comments", echo, methods=["POST"]),
        Route("/api/stored", stored),
        Route("/page", echo),
        Route("/api/crash", crash),
    ]
    made = Starlette(routes=routes)
    web.install(made, settings or Settings())
    return made


@pytest_asyncio.fixture
async def visitor() -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=application(), raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://site.example:8000") as client:
        yield client


async def chunks(size: int, count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * size


async def test_every_answer_protects_its_visitor(visitor: httpx2.AsyncClient) -> None:
    answers = [
        await visitor.get("/page"),
        await visitor.get("/api/echo"),
        await visitor.get("/nowhere"),
        await visitor.post("/api/echo", headers={"origin": "https://evil.example"}),
        await visitor.get("/api/crash"),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 404, 403, 500]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'self'; connect-src 'self' ws://site.example:8000;")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "strict-origin-when-cross-origin"
        assert "strict-transport-security" not in answer.headers
        assert answer.headers["x-request-id"]
    assert "cache-control" not in answers[0].headers
    assert answers[1].headers["cache-control"] == "no-store"


async def test_an_answer_keeps_what_it_says_itself(visitor: httpx2.AsyncClient) -> None:
    answer = await visitor.get("/api/stored")
    assert answer.headers.get_list("cache-control") == ["public, max-age=60"]
    assert answer.headers.get_list("content-security-policy") == ["sandbox"]


async def test_only_a_plain_host_gets_into_the_policy(visitor: httpx2.AsyncClient) -> None:
    for host in ("evil.example; script-src *", "a b", "[::1]:80", ""):
        answer = await visitor.get("/page", headers={"host": host})
        assert "connect-src 'self';" in answer.headers["content-security-policy"]


async def test_browsers_are_told_to_come_back_by_https_in_production() -> None:
    transport = httpx2.ASGITransport(app=application(Settings(mode="production")))
    async with httpx2.AsyncClient(transport=transport, base_url="https://site.example") as client:
        answer = await client.get("/page")
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert "connect-src 'self' wss://site.example;" in answer.headers["content-security-policy"]


async def test_a_request_keeps_its_id_when_it_is_well_formed(visitor: httpx2.AsyncClient) -> None:
    answer = await visitor.get("/api/echo", headers={"x-request-id": "proxy-1234.A_b"})
    assert answer.headers.get_list("x-request-id") == ["proxy-1234.A_b"]
    assert answer.json()["id"] == "proxy-1234.A_b"
    made = set()
    for name in ("short", "x" * 65, 'a"b\\cdefgh', "new line\t12", ""):
        answer = await visitor.get("/api/echo", headers={"x-request-id": name})
        made.add(answer.headers["x-request-id"])
        assert answer.headers["x-request-id"] == answer.json()["id"] != name
    assert len(made) == 5
    assert web.request_id() == ""


async def test_lines_of_the_log_know_their_request_and_no_other() -> None:
    seen: list[object] = []

    async def look(request: Request) -> PlainTextResponse:
        web.set_user(int(request.query_params["user"]))
        await asyncio.sleep(0)
        seen.append(structlog.contextvars.get_contextvars())
        return PlainTextResponse("")

    made = Starlette(routes=[Route("/", look)])
    web.install(made, Settings())
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app=made), base_url="http://x") as client:
        names = [f"request-{number}" for number in range(5)]
        await asyncio.gather(
            *(
                client.get("/", params={"user": str(number)}, headers={"x-request-id": name})
                for number, name in enumerate(names)
            )
        )
    expected = [{"request_id": name, "user_id": number} for number, name in enumerate(names)]
    assert sorted(seen, key=str) == expected


async def test_a_crash_tells_its_number_and_nothing_else(visitor: httpx2.AsyncClient) -> None:
    answer = await visitor.get("/api/crash", headers={"x-request-id": "crash-0001"})
    assert answer.status_code == 500
    assert answer.json() == {
        "code": "internal_error",
        "detail": "this is our fault, and it is in our log as crash-0001",
    }


@pytest.mark.parametrize("is_streamed", [False, True], ids=["announced", "streamed"])
async def test_a_body_is_refused_when_it_is_too_large(visitor: httpx2.AsyncClient, is_streamed: bool) -> None:
    headers = {"content-type": "application/json"}

    async def send(size: int) -> httpx2.Response:
        body = chunks(1024, size // 1024) if is_streamed else b"x" * size
        return await visitor.post("/api/echo", content=body, headers=headers)

    assert (await send(JSON_BYTES)).status_code == 200
    answer = await send(JSON_BYTES + 1024)
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"
    assert answer.headers["connection"] == "close"
    answer = await visitor.request("GET", "/api/echo", content=chunks(1024, 100))
    assert answer.status_code == 413


async def test_no_more_is_read_of_a_body_than_its_limit() -> None:
    read = 0

    async def receive() -> Message:
        nonlocal read
        read += 1000
        return {"type": "http.request", "body": b"x" * 1000, "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json"), (b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/api/echo", "headers": headers, "query_string": b""}
    await Bodies(Starlette(routes=[Route("/api/echo", echo, methods=["POST"])]), json_bytes=5000)(scope, receive, send)
    assert read == 6000
    assert [message["status"] for message in sent if message["type"] == "http.response.start"] == [413]


async def test_a_body_is_refused_when_it_takes_too_long_and_then_nothing_hurries() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    async def wait_for_the_end(scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        while message["type"] == "http.request":
            message = await receive()
        await PlainTextResponse("gone")(scope, receive, send)

    async def ask(*messages: Message, end_s: float) -> list[int]:
        waiting = list(messages)

        async def receive() -> Message:
            if not waiting:
                await asyncio.sleep(end_s)
                return {"type": "http.disconnect"}
            return waiting.pop(0)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"100")]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers, "query_string": b""}
        sent.clear()
        await Bodies(wait_for_the_end, body_s=0.05)(scope, receive, send)
        return [message["status"] for message in sent if message["type"] == "http.response.start"]

    piece = {"type": "http.request", "body": b"{", "more_body": True}
    assert await ask(piece, end_s=60) == [408]
    assert b'"too_slow"' in sent[-1]["body"]
    assert (b"connection", b"close") in sent[0]["headers"]
    assert await ask(piece, {**piece, "more_body": False}, end_s=0.2) == [200]


async def test_an_upload_passes_as_it_comes_where_the_route_counts(visitor: httpx2.AsyncClient) -> None:
    answer = await visitor.post(
        "/api/tracks", content=chunks(64 * 1024, 4), headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert answer.json()["length"] == 256 * 1024
    assert (await visitor.post("/api/tracks", json={})).status_code == 415
    assert (await visitor.post("/api/tracks/7/comments", data={"content": "x"})).status_code == 200
    assert (await visitor.post("/api/tracks/7/comments", json={})).status_code == 415
    too_large = await visitor.post("/api/tracks/7/comments", data={"content": "x" * JSON_BYTES})
    assert too_large.status_code == 413


@pytest.mark.parametrize("length", ["-1", "1e3", "٣", "9" * 25])
async def test_a_length_that_is_no_number_is_refused(length: str) -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"content-length", length.encode("utf-8"))]
    scope = {"type": "http", "method": "POST", "path": "/api/echo", "headers": headers, "query_string": b""}
    await Bodies(application())(scope, receive, send)
    assert sent[0]["status"] == 400


def test_a_rule_matches_the_whole_path_and_no_slash_in_a_name() -> None:
    pattern = BodyRule("POST", "/api/tracks/{track_id}/comments", ()).pattern
    assert pattern.fullmatch("/api/tracks/7/comments")
    assert not pattern.fullmatch("/api/tracks/7/8/comments")
    assert not pattern.fullmatch("/api/tracks//comments")
    assert not pattern.fullmatch("/api/tracks/7/comments/9")


def test_the_table_of_bodies_says_what_the_routes_of_the_site_take() -> None:
    wanted = {}
    for path, operations in site.openapi()["paths"].items():
        for method, operation in operations.items():
            types = set(operation.get("requestBody", {}).get("content", ()))
            if types - {"application/json"}:
                wanted[method.upper(), path] = (types - {"application/json"}, "application/json" in types)
    table = {(rule.method, rule.path): (set(rule.content_types), rule.takes_json) for rule in BODIES}
    # A form may arrive in either of its two types, whatever the document says.
    form = {"application/x-www-form-urlencoded", "multipart/form-data"}
    assert {key: (types | form if types & form else types, json) for key, (types, json) in wanted.items()} == {
        key: (types | form if types & form else types, json) for key, (types, json) in table.items()
    }


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("ENCORE_TRUSTED_PROXIES", "10.0.0.0/8")
    read_settings.cache_clear()
    yield
    read_settings.cache_clear()


def request_from(peer: str, *forwarded: str) -> Request:
    headers = [(b"x-forwarded-for", text.encode()) for text in forwarded]
    return Request({"type": "http", "client": (peer, 4000), "headers": headers, "method": "GET", "path": "/"})


def test_the_address_is_that_of_the_peer_when_no_proxy_is_trusted() -> None:
    assert client_address(request_from("203.0.113.9", "198.51.100.1")) == "203.0.113.9"
    assert client_address(request_from("2001:db8:1:2:3:4:5:6")) == "2001:db8:1:2::/64"
    assert client_address(request_from("::ffff:203.0.113.9")) == "203.0.113.9"
    assert client_address(request_from("testclient")) == "testclient"
    assert client_address(Request({"type": "http", "client": None, "headers": []})) == ""


@pytest.mark.usefixtures("proxied")
def test_the_address_is_the_one_that_a_trusted_proxy_wrote() -> None:
    assert client_address(request_from("10.1.2.3", "1.1.1.1, 198.51.100.1")) == "198.51.100.1"
    assert client_address(request_from("10.1.2.3", "1.1.1.1", "198.51.100.1, 10.9.9.9")) == "198.51.100.1"
    assert client_address(request_from("203.0.113.9", "198.51.100.1")) == "203.0.113.9"
    assert client_address(request_from("10.1.2.3", "2001:db8:1:2:3::1")) == "2001:db8:1:2::/64"

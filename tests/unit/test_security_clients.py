"""Letting in: what a client sees of every refusal, over plain Starlette, FastAPI and real servers."""

# No `from __future__ import annotations` here: FastAPI could not resolve `Depends(guard)`, local to a function.

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from antiphon.auth import (
    ClientGone,
    FirstMessage,
    Forbidden,
    Identity,
    NotSignedIn,
    OriginRefused,
    Refused,
    SignInUnavailable,
    TooManyConnections,
)
from antiphon.security import RequestRefused, Security, refuse
from tests.transports.servers import HANDSHAKE, WAIT_S, Way, serving
from tests.unit.guards import BEARER, COOKIE, EVIL, SITE, TOM, Store, security
from tests.unit.handshakes import Handshake, request

# -- plain requests ---------------------------------------------------------------------------------------------------


async def test_requests_that_change_something_by_cookie_are_held_to_their_origin() -> None:
    guard = security()
    for headers, method in (
        ({**SITE, **COOKIE}, "POST"),
        ({**EVIL, **COOKIE}, "GET"),
        ({**EVIL, **COOKIE}, "HEAD"),
        ({**EVIL, **BEARER}, "POST"),
        (COOKIE, "POST"),
        (COOKIE, "GET"),
    ):
        assert await guard(request(headers, method=method)) == TOM
    for method in ("POST", "PUT", "PATCH", "DELETE", "x"):
        with pytest.raises(RequestRefused) as refused:
            await guard(request({**EVIL, **COOKIE}, method=method))
        assert refused.value.status_code == 403


async def test_a_request_gets_a_status() -> None:
    with pytest.raises(RequestRefused) as refused:
        await security()(request())
    assert (refused.value.status_code, refused.value.detail) == (401, "not signed in")
    assert refused.value.headers == {"WWW-Authenticate": "Bearer"}
    assert isinstance(refused.value.refusal, NotSignedIn)
    with pytest.raises(RequestRefused) as refused:
        await refuse(request(), SignInUnavailable())
    assert (refused.value.status_code, refused.value.headers) == (503, {"Retry-After": "5"})
    with pytest.raises(RequestRefused) as refused:
        await refuse(request(), TooManyConnections())
    assert refused.value.status_code == 429


# -- what clients see: Starlette and FastAPI --------------------------------------------------------------------------


def starlette_app(guard: Security) -> Starlette:
    async def socket(websocket: WebSocket) -> None:
        identity = await guard(websocket)
        await websocket.accept()
        await websocket.send_text("guest" if identity is None else str(identity.user_id))

    async def page(request: Request) -> Response:
        identity = await guard(request)
        return JSONResponse("guest" if identity is None else identity.user_id)

    return Starlette(routes=[WebSocketRoute("/ws", socket), Route("/me", page, methods=["GET", "POST"])])


def fastapi_app(guard: Security) -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, identity: Annotated[Identity, Depends(guard)]) -> None:
        await websocket.accept()
        await websocket.send_text(str(identity.user_id))

    @app.get("/me", operation_id="me")
    @app.post("/me", operation_id="post_me")
    async def me(identity: Annotated[Identity, Depends(guard)]) -> str | None:
        return identity.user_id

    return app


Framework = Callable[[Security], Any]


@pytest.mark.parametrize("framework", [starlette_app, fastapi_app])
def test_a_client_sees_why_it_is_not_let_in(framework: Framework) -> None:
    store = Store(good=TOM)
    with TestClient(framework(security(store)), base_url="http://good.example") as client:
        with client.websocket_connect("/ws", headers={**SITE, **COOKIE}) as socket:
            assert socket.receive_text() == "tom"
        with client.websocket_connect("/ws", headers=dict(BEARER)) as socket:
            assert socket.receive_text() == "tom"
        with pytest.raises(WebSocketDisconnect) as before, client.websocket_connect("/ws", headers={**EVIL, **COOKIE}):
            raise AssertionError("accepted")
        assert not isinstance(before.value, WebSocketDenialResponse)
        for headers in ({**SITE}, {**SITE, "Cookie": "session=bad"}):
            with client.websocket_connect("/ws", headers=headers) as socket:
                with pytest.raises(WebSocketDisconnect) as after:
                    socket.receive_text()
                assert (after.value.code, after.value.reason) == (4501, "not signed in")
        store.error = ConnectionError("away")
        with client.websocket_connect("/ws", headers=dict(BEARER)) as socket:
            with pytest.raises(WebSocketDisconnect) as after:
                socket.receive_text()
            assert after.value.code == 1013


@pytest.mark.parametrize("framework", [starlette_app, fastapi_app])
def test_a_plain_request_is_answered_by_the_same_dependency(framework: Framework) -> None:
    store = Store(good=TOM)
    with TestClient(framework(security(store)), base_url="http://good.example") as client:
        assert client.get("/me", headers=COOKIE).json() == "tom"
        assert client.get("/me", headers=BEARER).json() == "tom"
        assert client.post("/me", headers={**SITE, **COOKIE}).json() == "tom"
        refused = client.get("/me")
        assert (refused.status_code, refused.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert "not signed in" in refused.text
        assert client.get("/me?token=good&session=good&ticket=good").status_code == 401
        assert client.post("/me", headers={**EVIL, **COOKIE}).status_code == 403
        store.error = ConnectionError("away")
        assert client.get("/me", headers=BEARER).status_code == 503


def test_the_dependency_asks_the_client_for_nothing_in_the_api_description() -> None:
    description = fastapi_app(security()).openapi()
    assert "parameters" not in description["paths"]["/me"]["get"]


# -- what clients see: real servers -----------------------------------------------------------------------------------

WAYS: tuple[Way, ...] = ("asgi", "protocol")


async def status_of(url: str, *, origin: str | None = None, **options: Any) -> int:
    """The status of a refused handshake."""
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, origin=origin, open_timeout=WAIT_S, **options)  # type: ignore[arg-type] # any text
    return refused.value.response.status_code


async def closed_with(url: str, *messages: str, **options: Any) -> tuple[int, str]:
    """The code and reason of the close frame that an accepted client gets."""
    async with connect(url, open_timeout=WAIT_S, **options) as socket:
        for message in messages:
            await socket.send(message)
        async with asyncio.timeout(WAIT_S):
            with pytest.raises(ConnectionClosed) as closed:
                await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


@pytest.mark.parametrize("way", WAYS)
async def test_a_real_client_gets_403_for_its_origin_and_a_code_for_its_session(way: Way) -> None:
    guard = security()

    async def endpoint(websocket: WebSocket) -> None:
        identity = await guard(websocket)
        await websocket.accept()
        await websocket.send_text(str(identity and identity.user_id))

    async with serving(way, endpoint) as (_, url):
        own = url.replace("ws:", "http:").removesuffix("/")
        good = {"Cookie": "session=good"}
        async with connect(url, origin=own, additional_headers=good) as socket:  # type: ignore[arg-type] # any text
            assert await socket.recv() == "tom"
        async with connect(url, additional_headers=BEARER) as socket:
            assert await socket.recv() == "tom"
        for origin in ("https://evil.example", "null", "https://", f"{own}.evil.example", f"{own}/"):
            assert await status_of(url, origin=origin, additional_headers=good) == 403
        assert await status_of(url, additional_headers=good) == 403
        twice = [("Origin", own), ("Origin", own), ("Cookie", "session=good")]
        # This server refuses that itself.
        assert await status_of(url, additional_headers=twice) == 400
        for headers in ({}, {"Authorization": "Bearer bad"}):
            assert await closed_with(url, additional_headers=headers) == (4501, "not signed in")
        assert await closed_with(f"{url}?token=good&session=good") == (4501, "not signed in")
        assert guard.counters.refused["origin"] == 6


@pytest.mark.parametrize("way", WAYS)
async def test_a_refusal_before_the_upgrade_has_its_own_status(way: Way) -> None:
    refusals: list[Refused] = []

    async def endpoint(websocket: WebSocket) -> None:
        await refuse(websocket, refusals.pop())

    async with serving(way, endpoint) as (_, url):
        for refusal, status in (
            (TooManyConnections(before_upgrade=True), 429),
            (SignInUnavailable(before_upgrade=True), 503),
            (Forbidden(before_upgrade=True), 403),
            (OriginRefused(), 403),
        ):
            refusals.append(refusal)
            assert await status_of(url) == status


@pytest.mark.parametrize("way", WAYS)
async def test_a_proxy_in_front_of_a_real_server_may_say_host_and_address_if_it_is_trusted(way: Way) -> None:
    trusting, plain = Security(trusted_proxies=["127.0.0.1"]), Security()
    guards = [plain, trusting]

    async def endpoint(websocket: WebSocket) -> None:
        guard = guards.pop()
        await guard(websocket)
        await websocket.accept()
        await websocket.send_text(str(guard.address_of(websocket)))

    # This server puts the address from X-Forwarded-For in the place of the peer's by itself, since the peer is local.
    forwarded = {"X-Forwarded-For": "198.51.100.1, 203.0.113.9", "X-Forwarded-Host": "good.example"}
    async with serving(way, endpoint) as (_, url):
        origin: Any = "https://good.example"
        async with connect(url, origin=origin, additional_headers=forwarded) as socket:
            assert await socket.recv() == "203.0.113.9"
        assert await status_of(url, origin=origin, additional_headers=forwarded) == 403
    assert plain.counters.origins == {"other_host": 1}


@pytest.mark.parametrize("way", WAYS)
async def test_a_browser_that_offers_subprotocols_sees_the_code_too(way: Way) -> None:
    async def endpoint(websocket: WebSocket) -> None:
        await security()(websocket)

    async with serving(way, endpoint) as (_, url):
        for offered, chosen in ((["chat", "antiphon.v1"], "antiphon.v1"), (["chat", "x"], "chat")):
            async with connect(url, subprotocols=offered) as socket:  # type: ignore[arg-type] # any texts
                assert socket.subprotocol == chosen
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 4501


async def test_a_server_without_the_extension_answers_403() -> None:
    for extensions, kind in ((["websocket.http.response"], RequestRefused), ([], TooManyConnections)):
        handshake = Handshake(extensions=extensions)
        with pytest.raises(kind):
            await refuse(handshake.websocket, TooManyConnections(before_upgrade=True))
        assert handshake.events == []


FIRST = '{"type":"auth","token":"good"}'


@pytest.mark.parametrize("way", WAYS)
async def test_the_first_message_of_a_real_client_signs_in_or_ends_it(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    guard = Security(authenticators=[FirstMessage(Store(good=TOM).lookup, timeout_s=0.5)], refusal_s=0)
    left = asyncio.Event()

    async def endpoint(websocket: WebSocket) -> None:
        try:
            identity = await guard(websocket)
        except ClientGone:
            left.set()
            raise
        await websocket.send_text(str(identity and identity.user_id))
        await websocket.receive()

    async with serving(way, endpoint) as (_, url):
        async with connect(url) as socket:
            await socket.send(FIRST)
            assert await socket.recv() == "tom"
        for message in ('{"type":"ping"}', "no JSON", '{"type":"auth","token":"bad"}'):
            assert await closed_with(url, message, FIRST) == (4501, "not signed in")
        # With the protocol class such a message is not even received as a whole.
        code, _ = await closed_with(url, "x" * 20_000, FIRST)
        assert code == 1009
        started = time.monotonic()
        assert await closed_with(url) == (4501, "not signed in")
        assert 0.4 < time.monotonic() - started < 10
        async with connect(url):
            pass
        async with asyncio.timeout(WAIT_S):
            await left.wait()
    assert "Traceback" not in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("way", WAYS)
async def test_a_client_that_writes_byte_by_byte_is_cut_off_in_time(way: Way) -> None:
    guard = Security(authenticators=[FirstMessage(Store(good=TOM).lookup, timeout_s=0.5)], refusal_s=0)

    async def endpoint(websocket: WebSocket) -> None:
        await guard(websocket)
        raise AssertionError("let in")

    async with serving(way, endpoint) as (_, url):
        port = int(url.removesuffix("/").rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        started = time.monotonic()
        reading = asyncio.create_task(reader.read(4))
        masked_frame = bytes([0x81, 0x80 | len(FIRST), 0, 0, 0, 0]) + FIRST.encode()
        async with asyncio.timeout(WAIT_S):
            for byte in masked_frame[:-1]:
                if not reading.done():
                    writer.write(bytes([byte]))
                await asyncio.wait([reading], timeout=0.05)
            frame = await reading
        assert frame[0] == 0x88
        assert int.from_bytes(frame[2:4], "big") == 4501
        assert 0.4 < time.monotonic() - started < 10
        writer.close()

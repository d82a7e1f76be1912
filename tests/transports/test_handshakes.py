"""Handshakes as clients write them, and as nobody should: our protocol classes answer each as uvicorn's own does.

The application gets the same scope, and the client the same answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from tests.transports.raw_client import RawClient, close, close_frame, frame, text, unconnected_client
from tests.transports.servers import DOORS, HANDSHAKE, WAIT_S, Way, serving, until

HEAD, FIELDS = HANDSHAKE.split(b"\r\n", 1)
KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
SCOPE = (
    *("type", "asgi", "http_version", "scheme", "root_path", "path", "raw_path", "query_string"),
    *("headers", "subprotocols"),
)


def with_line(*lines: bytes) -> bytes:
    return HANDSHAKE[:-2] + b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def with_target(target: bytes) -> bytes:
    return HANDSHAKE.replace(b"GET / ", b"GET " + target + b" ")


def instead(old: bytes, new: bytes) -> bytes:
    assert old in HANDSHAKE
    return HANDSHAKE.replace(old, new)


CONNECTION, UPGRADE, VERSION = b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13"
REQUESTS = {
    "plain": HANDSHAKE,
    "lower case": HEAD + b"\r\n" + FIELDS.replace(b"Sec-WebSocket-Version", b"sec-websocket-version"),
    "space around values": instead(b"Host: 127.0.0.1", b"Host: \t 127.0.0.1 \t "),
    "no space": HANDSHAKE.replace(b": ", b":"),
    **{
        f"connection {value!r}": instead(CONNECTION, b"Connection: " + value)
        for value in (
            b"upgrade",
            b"UPGRADE",
            b"keep-alive, Upgrade",
            b"keep-alive,upgrade",
            b"Upgrade, keep-alive",
            b"close, Upgrade",
            b"keep-alive,, Upgrade",
            b"keep-alive Upgrade",
            b"keep-alive",
        )
    },
    "two connection lines": instead(CONNECTION, b"Connection: keep-alive\r\nConnection: Upgrade"),
    "no connection": instead(CONNECTION + b"\r\n", b""),
    **{
        f"upgrade {value!r}": instead(UPGRADE, b"Upgrade: " + value)
        for value in (b"WebSocket", b"WEBSOCKET", b"websocket, h2c", b"websocket/13", b"h2c", b"")
    },
    **{
        f"version {value!r}": instead(VERSION, b"Sec-WebSocket-Version: " + value)
        for value in (b"8", b"14", b"013", b"13, 8", b"13.0", b" 13 ", b"")
    },
    "two versions": with_line(b"Sec-WebSocket-Version: 13"),
    "no version": instead(VERSION + b"\r\n", b""),
    **{
        f"key {value!r}": instead(KEY, value)
        for value in (
            b"c2hvcnQ=",
            b"dGhlIHNhbXBsZSBub25jZR==",
            b"dGhlIHNhbXBsZSBub25jZQ",
            b"dGhlIHNhbXBsZSBub25jZQ= =",
            b"_-hlIHNhbXBsZSBub25jZQ==",
            b"dGhlIHNhbXBsZSBub25jZVE=",
            b"no base64",
            b"",
            b"\xff" * 24,
        )
    },
    "two keys": with_line(b"Sec-WebSocket-Key: " + KEY),
    "no key": instead(b"Sec-WebSocket-Key: " + KEY + b"\r\n", b""),
    **{
        f"protocol {value!r}": with_line(b"Sec-WebSocket-Protocol: " + value)
        for value in (b"chat", b"chat, superchat", b"chat,superchat", b"chat ,  superchat", b"a,,b", b"", b",", b"a b")
    },
    "protocol no token": with_line(b'Sec-WebSocket-Protocol: "quoted"'),
    "two protocol lines": with_line(b"Sec-WebSocket-Protocol: one", b"Sec-WebSocket-Protocol: two, three"),
    "extension that nobody knows": with_line(b"Sec-WebSocket-Extensions: x-webkit-deflate-frame"),
    **{
        f"target {target!r}": with_target(target)
        for target in (
            b"/?token=a&b=%20c",
            b"/?",
            b"/??",
            b"/a/b/../c/./d",
            b"//double",
            b"/%C3%A4%2F%25?%C3%A4",
            b"/%ff%fe%",
            b"/a;b=c,d!$&'()*+:@",
            b"/#fragment",
            b"http://other.example/path?query",
            b"/" + b"x" * 2000 + b"?" + b"y" * 2000,
        )
    },
    "cookies": with_line(b"Cookie: a=1; b=2", b"Cookie: c=3"),
    "origin": with_line(b"Origin: https://example.org"),
    "two origins": with_line(b"Origin: https://example.org", b"Origin: https://evil.example"),
    "latin-1": with_line(b"X-Name: Gr\xfc\xdfe"),
    "UTF-8": with_line("X-Name: 世界".encode()),
    "empty value": with_line(b"X-Empty:"),
    "tab within": with_line(b"X-Tab: a\tb"),
    "odd names": with_line(b"X_under.score!#$%&'*+^`|~: 1"),
    "a space in a name": with_line(b"X Space: 1"),
    "a space before the colon": with_line(b"X-Space : 1"),
    "no colon": with_line(b"X-Nothing"),
    "folded": with_line(b"X-Folded: a\r\n b"),
    "NUL": with_line(b"X-Nul: a\0b"),
    "two hosts": with_line(b"Host: evil.example"),
    "no host": instead(b"Host: 127.0.0.1\r\n", b""),
    "forwarded": with_line(b"X-Forwarded-For: 10.0.0.1", b"X-Forwarded-Proto: https"),
    "hundred lines": with_line(*(b"X-%d: %d" % (number, number) for number in range(100))),
    "long value": with_line(b"X-Long: " + b"x" * 7000),
    "empty body": with_line(b"Content-Length: 0"),
    "HTTP/1.0": HANDSHAKE.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "POST": HANDSHAKE.replace(b"GET ", b"POST "),
    "HEAD": HANDSHAKE.replace(b"GET ", b"HEAD "),
    "refused": with_target(b"/refuse"),
    "answered": with_target(b"/answer?x"),
    "raised": with_target(b"/raise"),
    "returned": with_target(b"/return"),
    "accepted with more": with_target(b"/more"),
}


@dataclass
class Reply:
    """What came of one request."""

    status: int
    fields: list[tuple[str, str]]
    scope: dict[str, object] | None
    works: bool
    """Whether a message goes either way."""


async def endpoint(websocket: WebSocket) -> None:
    await websocket.receive()
    match websocket.scope["path"]:
        case "/refuse":
            await websocket.close()
            return
        case "/answer":
            await websocket.send_denial_response(PlainTextResponse("first log in", 401, {"X-Why": "because"}))
            return
        case "/raise":
            raise ValueError("on purpose")
        case "/return":
            return
        case "/more":
            await websocket.accept("chosen", [(b"X-More", b"one"), (b"x-more", b"two"), (b"Set-Cookie", b"a=b")])
        case _:
            offered = websocket.scope["subprotocols"]
            await websocket.accept(subprotocol=offered[-1] if offered else None)
    await websocket.send_text(await websocket.receive_text())
    await websocket.receive()


class Place:
    """One server, and the scopes that its application got."""

    def __init__(self, port: int, scopes: list[dict[str, object]]) -> None:
        self.port = port
        self._scopes = scopes

    async def reply(self, request: bytes) -> Reply:
        self._scopes.clear()
        async with unconnected_client(self.port) as client:
            async with asyncio.timeout(WAIT_S):
                await client.shake_hands(request)
            fields = sorted(pair for pair in client.pairs() if pair[0] != "date")
            works = client.status == 101 and await _echoes(client)
        scope = self._scopes[0] if self._scopes else None
        assert len(self._scopes) <= 1
        return Reply(client.status, fields, scope, works)


async def _echoes(client: RawClient) -> bool:
    await client.send(frame(1, b"hello"))
    heard = await client.answer()
    await client.send(close_frame(1000))
    return heard == text("hello") and await client.answers() == [close(1000)]


@asynccontextmanager
async def place(way: Way) -> AsyncIterator[Place]:
    scopes: list[dict[str, object]] = []

    async def noting(websocket: WebSocket) -> None:
        scopes.append({name: websocket.scope[name] for name in SCOPE})
        await endpoint(websocket)

    async with serving(way, noting, deflate=False) as (_, url):
        yield Place(int(url.removesuffix("/").rpartition(":")[2]), scopes)


@pytest.mark.every_loop
@pytest.mark.parametrize("way", DOORS)
async def test_handshake_is_answered_as_uvicorn_answers_it(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    # Any path at all, instead of the one that the tests of other things need.
    monkeypatch.setattr(
        "tests.transports.servers.WebSocketRoute", lambda _, endpoint: WebSocketRoute("/{path:path}", endpoint)
    )
    statuses = set()
    async with place("asgi") as uvicorns, place(way) as ours:
        for name, request in REQUESTS.items():
            wanted = await uvicorns.reply(request)
            assert await ours.reply(request) == wanted, name
            assert wanted.works == (wanted.status == 101), name
            statuses.add(wanted.status)
    assert statuses >= {101, 400, 401, 403, 404, 405, 500}


@pytest.mark.every_loop
@pytest.mark.parametrize("way", DOORS)
async def test_request_in_two_segments_is_answered_wherever_it_is_cut(way: Way) -> None:
    async with place(way) as ours:
        for at in range(1, len(HANDSHAKE), 7):
            async with unconnected_client(ours.port) as client:
                await client.send(HANDSHAKE[:at])
                for _ in range(3):
                    await asyncio.sleep(0)
                async with asyncio.timeout(WAIT_S):
                    await client.shake_hands(HANDSHAKE[at:])
                assert client.status == 101
                assert await _echoes(client)


@pytest.mark.every_loop
@pytest.mark.parametrize("way", DOORS)
async def test_server_that_stops_refuses_who_is_still_waiting_for_an_answer(way: Way) -> None:
    entered, accepts = asyncio.Event(), asyncio.Event()
    ended: list[str] = []

    async def slow(websocket: WebSocket) -> None:
        await websocket.receive()
        entered.set()
        await accepts.wait()
        try:
            await websocket.accept()
        except Exception as error:
            ended.append(type(error).__name__)
            raise
        ended.append("accepted")

    async with serving(way, slow) as (server, url):
        async with unconnected_client(int(url.removesuffix("/").rpartition(":")[2])) as client:
            handshake = asyncio.create_task(client.shake_hands(HANDSHAKE))
            await asyncio.wait_for(entered.wait(), WAIT_S)
            accepts.set()
            for connection in list(server.server_state.connections):
                connection.shutdown()
            await asyncio.wait_for(handshake, WAIT_S)
            assert client.status == 500
        await until(lambda: not server.server_state.connections and not server.server_state.tasks)
        assert ended in (["accepted"], ["WebSocketDisconnect"], ["ClientDisconnected"], [])

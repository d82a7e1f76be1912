"""Our protocol class answers every handshake as uvicorn's own does, byte for byte, and tells the application the same.

What uvicorn's own leaves without an answer, on a socket that stays open, is answered and closed.

Both get the request as uvicorn's HTTP protocol hands it over, on a transport that notes what is written.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from antiphon.transports.door import EXTENSION
from antiphon.transports.doors import DoorMiddleware
from antiphon.transports.handshake import read_request
from antiphon.transports.uvicorn import AntiphonProtocol, DeflatingProtocol

Fields = list[tuple[bytes, bytes]]

KEY = b"dGhlIHNhbXBsZSBub25jZQ=="
PLAIN: Fields = [
    (b"host", b"127.0.0.1:8000"),
    (b"upgrade", b"websocket"),
    (b"connection", b"Upgrade"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-version", b"13"),
]
BROWSER: Fields = [
    (b"host", b"example.org"),
    (b"connection", b"keep-alive, Upgrade"),
    (b"pragma", b"no-cache"),
    (b"user-agent", b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    (b"upgrade", b"websocket"),
    (b"origin", b"https://example.org"),
    (b"sec-websocket-version", b"13"),
    (b"accept-encoding", b"gzip, deflate, br, zstd"),
    (b"cookie", b"session=abc; other=def"),
    (b"sec-websocket-key", KEY),
    (b"sec-websocket-extensions", b"permessage-deflate; client_max_window_bits"),
]


def request(fields: Fields, *, target: bytes = b"/", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    return b"".join(
        [method, b" ", target, b" ", version, b"\r\n", *(b"%b: %b\r\n" % field for field in fields), b"\r\n"]
    )


def but(name: bytes, *values: bytes) -> Fields:
    """The plain request with other values of one field, or without it."""
    return [item for item in PLAIN if item[0] != name] + [(name, value) for value in values]


GOOD = {
    "plain": request(PLAIN),
    "a browser's": request(BROWSER, target=b"/a/b?c=d&e=%20"),
    "percent signs in the path": request(PLAIN, target=b"/%C3%A9/%2F%zz?q=%C3"),
    "an absolute target": request(PLAIN, target=b"http://example.org/x?y"),
    "another case": request(but(b"upgrade", b"WebSocket")),
    "one more token": request(but(b"connection", b"Upgrade, x")),
    "tokens without spaces": request(but(b"connection", b"keep-alive,Upgrade")),
    "two fields": request(but(b"connection", b"keep-alive", b"Upgrade")),
    "subprotocols": request([*PLAIN, (b"sec-websocket-protocol", b"a, b,c")]),
    "subprotocols in two fields": request(
        [*PLAIN, (b"sec-websocket-protocol", b"a"), (b"sec-websocket-protocol", b"b")]
    ),
    "subprotocols with spaces": request([*PLAIN, (b"sec-websocket-protocol", b"a ,\tb")]),
    "bytes above ASCII": request([*PLAIN, (b"x-name", b"caf\xe9 \xff")]),
    "an empty value": request([*PLAIN, (b"x-empty", b"")]),
    "tabs": request([*PLAIN, (b"x-tabs", b"\ta\tb\t ")]),
    "two cookies": request([*PLAIN, (b"cookie", b"a=1"), (b"cookie", b"b=2")]),
    "names in upper case": request([(name.title(), value) for name, value in PLAIN]),
    "a body of nothing": request([*PLAIN, (b"content-length", b"0")]),
    "a bad extension, which nobody looks at": request([*PLAIN, (b"sec-websocket-extensions", b"x; =")]),
    "an unknown extension": request([*PLAIN, (b"sec-websocket-extensions", b"x-webkit-deflate-frame")]),
    "no offer of ours": request(
        [*PLAIN, (b"sec-websocket-extensions", b"permessage-deflate; server_max_window_bits=20")]
    ),
    "120 fields": request([*PLAIN, *((b"x-%d" % number, b"1") for number in range(120))]),
    "a key with other last bits": request(but(b"sec-websocket-key", b"dGhlIHNhbXBsZSBub25jZR==")),
}
BROKEN = {
    "no key": request(but(b"sec-websocket-key")),
    "a short key": request(but(b"sec-websocket-key", b"dGhlIHNhbXBsZQ==")),
    "a key without its end": request(but(b"sec-websocket-key", KEY[:-2])),
    "a key that is no base64": request(but(b"sec-websocket-key", b"!" * 22 + b"==")),
    "two keys": request(but(b"sec-websocket-key", KEY, KEY)),
    "version 12": request(but(b"sec-websocket-version", b"12")),
    "no version": request(but(b"sec-websocket-version")),
    "two versions": request(but(b"sec-websocket-version", b"13", b"13")),
    "no upgrade": request(but(b"upgrade")),
    "another upgrade": request(but(b"upgrade", b"h2c")),
    "two upgrades": request(but(b"upgrade", b"websocket, h2c")),
    "no connection": request(but(b"connection")),
    "another connection": request(but(b"connection", b"close")),
    "a connection that is no list": request(but(b"connection", b"Upgrade; x")),
    "two origins": request([*PLAIN, (b"origin", b"https://a"), (b"origin", b"https://b")]),
    "a bad subprotocol": request([*PLAIN, (b"sec-websocket-protocol", b"a b")]),
    "no subprotocol": request([*PLAIN, (b"sec-websocket-protocol", b"")]),
    "POST": request(PLAIN, method=b"POST"),
    "HTTP/1.0": request(PLAIN, version=b"HTTP/1.0"),
    "HTTP/2": request(PLAIN, version=b"HTTP/2"),
    "a body": request([*PLAIN, (b"content-length", b"5")]) + b"hello",
    "chunks": request([*PLAIN, (b"transfer-encoding", b"chunked")]) + b"0\r\n\r\n",
    "a space in a name": request([*PLAIN, (b"x y", b"1")]),
    "an empty name": request([*PLAIN, (b"", b"1")]),
    "a NUL in a value": request([*PLAIN, (b"x", b"a\0b")]),
    "a line feed in a value": request([*PLAIN, (b"x", b"a\nb: c")]),
    "a carriage return in a value": request([*PLAIN, (b"x", b"a\rb")]),
    "a folded value": request([*PLAIN, (b"x", b"a\r\n b")]),
    "a field without a colon": request(PLAIN).replace(b"host:", b"host"),
    "bytes above ASCII in the target": request(PLAIN, target=b"/\xff"),
    "a space in the target": request(PLAIN, target=b"/a b"),
    "a long target": request(PLAIN, target=b"/" + b"a" * 9000),
    "a long field": request([*PLAIN, (b"cookie", b"a" * 9000)]),
    "140 fields": request([*PLAIN, *((b"x-%d" % number, b"1") for number in range(140))]),
    "line feeds alone": request(PLAIN).replace(b"\r\n", b"\n"),
    "nothing": b"\r\n\r\n",
}


class Wire(asyncio.Transport):
    """Notes what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.reading = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if not self.closed:
            self.written += bytes(data)

    def close(self) -> None:
        self.closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.closed

    def is_reading(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is kept."""


@dataclass
class Outcome:
    """What the client and the application saw."""

    written: bytes
    closed: bool
    scopes: list[Any] = field(default_factory=list)
    received: list[Any] = field(default_factory=list)
    raised: str = ""


Class = type[WebSocketsSansIOProtocol]


async def handshake(
    cls: Class,
    *chunks: bytes,
    answer: dict[str, Any] | None = None,
    frames: Sequence[bytes] = (),
    deflate: bool = False,
) -> Outcome:
    """Give a protocol object the chunks; the application answers, and receives until nothing comes any more."""
    scopes: list[Any] = []
    received: list[Any] = []
    raised: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scopes.append(scope)
        await receive()
        try:
            await send(answer or {"type": "websocket.accept", "subprotocol": next(iter(scope["subprotocols"]), None)})
        except Exception as error:
            raised.append(type(error).__name__)
            raise
        while True:
            received.append(await receive())
            if received[-1]["type"] == "websocket.disconnect":
                return

    config = uvicorn.Config(app, log_config=None, lifespan="off", ws_per_message_deflate=deflate, ws_ping_interval=None)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"today"), (b"server", b"uvicorn")]
    wire = Wire()
    protocol = cls(config, state, {"of the lifespan": 1})
    protocol.connection_made(wire)
    for chunk in chunks:
        protocol.data_received(chunk)
    for _ in range(5):
        await asyncio.sleep(0)
    for each in frames:
        protocol.data_received(each)
        await asyncio.sleep(0)
    written = re.sub(rb"\r\nDate: [^\r]*", b"", wire.written)
    outcome = Outcome(written, wire.closed, scopes, list(received), "".join(raised))
    protocol.connection_lost(None)
    async with asyncio.timeout(15):
        while state.tasks:
            await asyncio.sleep(0)
    return outcome


def comparable(scope: Any) -> Any:
    """A scope without the door."""
    return {**scope, "extensions": {name: value for name, value in scope["extensions"].items() if name != EXTENSION}}


def has_no_answer(stock: Outcome) -> bool:
    """uvicorn's own class could not read the request, and waits."""
    return not (stock.written or stock.closed or stock.scopes)


async def same(*chunks: bytes, **options: Any) -> Outcome:
    """Both classes do the same; what that is."""
    stock = await handshake(WebSocketsSansIOProtocol, *chunks, **options)
    ours = await handshake(AntiphonProtocol, *chunks, **options)
    if has_no_answer(stock):
        assert re.match(rb"HTTP/1\.1 4\d\d ", ours.written)
        assert ours.closed
        assert ours.scopes == []
        return ours
    assert ours.written == stock.written
    assert ours.closed == stock.closed
    assert [comparable(scope) for scope in ours.scopes] == stock.scopes
    assert all(set(scope["extensions"]) == {EXTENSION, "websocket.http.response"} for scope in ours.scopes)
    assert ours.received == stock.received
    assert ours.raised == stock.raised
    return ours


@pytest.mark.parametrize("name", GOOD)
async def test_good_handshake_is_accepted_with_the_same_words(name: str) -> None:
    ours = await same(GOOD[name])
    assert ours.written.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert not ours.closed


@pytest.mark.parametrize("name", BROKEN)
async def test_broken_handshake_is_refused_with_the_same_words(name: str) -> None:
    ours = await same(BROKEN[name])
    assert not ours.written.startswith(b"HTTP/1.1 101")
    assert ours.scopes == []


@pytest.mark.parametrize(
    ("name", "status"),
    [("a long target", b"414"), ("a long field", b"431"), ("140 fields", b"431"), ("HTTP/2", b"400")],
)
async def test_request_that_is_too_long_to_be_read_is_answered_and_the_socket_closed(name: str, status: bytes) -> None:
    ours = await handshake(AntiphonProtocol, BROKEN[name])
    assert ours.written.startswith(b"HTTP/1.1 " + status)
    assert ours.closed


@pytest.mark.parametrize("name", ["plain", "two cookies"])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("installed", [True, False])
async def test_refusal_by_a_response_is_no_error_and_half_of_one_is(
    name: str, whole: bool, installed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "websocket.http.response.start", "status": 429, "headers": [(b"retry-after", b"5")]})
        await send({"type": "websocket.http.response.body", "body": b"later", "more_body": not whole})

    config = uvicorn.Config(
        DoorMiddleware(app) if installed else app, log_config=None, lifespan="off", ws_ping_interval=None
    )
    config.load()
    state, wire = ServerState(), Wire()
    protocol: Any = (WebSocketsSansIOProtocol if installed else AntiphonProtocol)(config, state, {})
    protocol.connection_made(wire)
    protocol.data_received(GOOD[name])
    async with asyncio.timeout(15):
        while state.tasks:
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    assert wire.closed
    assert wire.written.startswith(b"HTTP/1.1 429 ") == whole
    assert [record.levelname for record in caplog.records if record.levelname == "ERROR"] == (
        [] if whole else ["ERROR"]
    )


async def test_usual_requests_take_the_short_way_and_no_others() -> None:
    short = {name for name, data in {**GOOD, **BROKEN}.items() if read_request(data, with_extensions=False)}
    assert {"plain", "a browser's", "subprotocols", "bytes above ASCII", "120 fields"} <= short <= set(GOOD)
    assert read_request(GOOD["a browser's"], with_extensions=True) is None


@pytest.mark.parametrize("name", ["plain", "two cookies", "a body of nothing", "no key"])
async def test_request_that_comes_in_parts_of_frames_and_all_is_the_same(name: str) -> None:
    data = {**GOOD, **BROKEN}[name]
    await same(data, frames=[b"\x81\x82\0\0\0\0hi", b"\x81\x82\0\0", b"\0\0yo", b"\x88\x80\0\0\0\0"])


async def test_frames_before_the_answer_are_kept_for_the_application() -> None:
    ours = await same(GOOD["plain"], b"\x81\x82\0\0\0\0hi\x82\x81\0\0\0\0!")
    assert ours.received == [{"type": "websocket.receive", "text": "hi"}, {"type": "websocket.receive", "bytes": b"!"}]


@pytest.mark.parametrize("name", ["plain", "two cookies"])
@pytest.mark.parametrize(
    "answer",
    [
        {"type": "websocket.accept", "headers": [(b"X-One", b"1"), (b"set-cookie", b"a=b"), (b"set-cookie", b"c=d")]},
        {"type": "websocket.accept", "subprotocol": "not.offered", "headers": []},
        {"type": "websocket.accept", "headers": [(b"x", b"a\r\nset-cookie: evil=1")]},
        {"type": "websocket.accept", "headers": [(b"x", b"a\r\n\r\n\x81\x05hello")]},
        {"type": "websocket.accept", "subprotocol": "a\r\nset-cookie: evil=1"},
        {"type": "websocket.accept", "headers": [(b"x", b"\0")]},
        {"type": "websocket.close"},
        {"type": "websocket.http.response.start", "status": 401, "headers": [(b"x", b"y")]},
        {"type": "websocket.send", "text": "too early"},
    ],
)
async def test_answers_of_the_application_come_out_the_same(name: str, answer: dict[str, Any]) -> None:
    ours = await same(GOOD[name], answer=answer)
    head = ours.written.partition(b"\r\n\r\n")[0]
    assert b"evil" not in head
    assert bool(ours.raised) == (
        b"101" not in head and answer["type"] not in ("websocket.close", "websocket.http.response.start")
    )


@pytest.mark.parametrize("name", [*GOOD, *BROKEN])
async def test_deflating_class_agrees_only_on_what_it_offers(name: str) -> None:
    data = {**GOOD, **BROKEN}[name]
    stock = await handshake(WebSocketsSansIOProtocol, data, deflate=True)
    ours = await handshake(DeflatingProtocol, data)
    if has_no_answer(stock):
        assert ours.closed
        return
    without = re.compile(rb"Sec-WebSocket-Extensions: [^\r]*\r\n")
    assert without.sub(b"", ours.written) == without.sub(b"", stock.written)
    assert len(without.findall(ours.written)) == len(without.findall(stock.written))
    assert [comparable(scope) for scope in ours.scopes] == stock.scopes


VALUES = st.sampled_from(
    [value for _, value in PLAIN + BROWSER] + [b"", b" ", b"14", b"a,,b", b"\t", b"x\x7f", b'"', b"="]
)
NAMES = st.sampled_from(
    sorted(
        {name for name, _ in PLAIN + BROWSER}
        | {b"sec-websocket-protocol", b"transfer-encoding", b"X-Y", b"content-length"}
    )
)


@given(
    changes=st.lists(
        st.tuples(st.sampled_from(["set", "add", "drop"]), NAMES, VALUES | st.binary(max_size=12)), max_size=4
    ),
    target=st.sampled_from([b"/", b"/a?b", b"*", b"/%41", b"", b"//x"]),
)
async def test_changed_handshake_is_answered_the_same(changes: list[tuple[str, bytes, bytes]], target: bytes) -> None:
    fields = list(PLAIN)
    for change, name, value in changes:
        if change != "add":
            fields = [item for item in fields if item[0] != name]
        if change != "drop":
            fields.append((name, value))
    await same(request(fields, target=target))

"""Recognising a stock uvicorn, and letting everything else alone."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import sys
from typing import Any

import pytest
import uvicorn
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from antiphon.journal import Journal
from antiphon.transports import doors
from antiphon.transports.asgi import AsgiTransport
from antiphon.transports.base import SendLimits
from antiphon.transports.choice import Lanes, transport_for
from antiphon.transports.door import EXTENSION, Door, descriptor_of
from antiphon.transports.doors import DoorMiddleware
from antiphon.transports.inbox import Inbox, Writable
from antiphon.transports.uvicorn_door import DoorProtocol, open_door
from tests.unit.kernel import FakeTransport, Kernel

Scope = dict[str, Any]


class App:
    """Notes what it is called with."""

    def __init__(self) -> None:
        self.scopes: list[Any] = []
        self.sends: list[Any] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        self.sends.append(send)


def stock(cls: type[WebSocketsSansIOProtocol] = WebSocketsSansIOProtocol) -> WebSocketsSansIOProtocol:
    """uvicorn's protocol object as it is when the application is called."""
    config = uvicorn.Config(App(), log_config=None, lifespan="off")
    config.load()
    protocol = cls(config, ServerState(), {})
    protocol.transport = FakeTransport(Kernel(), room=1000)
    protocol.scope = {"type": "websocket", "extensions": {"websocket.http.response": {}}}  # type: ignore[typeddict-item] # enough here
    return protocol


async def nothing() -> Scope:
    return {}


async def test_stock_uvicorn_gets_a_door() -> None:
    protocol = stock()
    app = App()
    await DoorMiddleware(app)(protocol.scope, protocol.receive, protocol.send)  # type: ignore[arg-type] # ASGI's typed dicts
    assert isinstance(protocol, DoorProtocol)
    assert set(app.scopes[0]["extensions"]) == {EXTENSION, "websocket.http.response"}
    assert app.scopes[0]["extensions"][EXTENSION] == {"door": protocol.door}
    assert app.sends[0].__self__ is protocol


async def test_http_and_lifespan_pass_through() -> None:
    app = App()
    for kind in ("http", "lifespan"):
        scope = {"type": kind}
        await DoorMiddleware(app)(scope, nothing, nothing)  # type: ignore[arg-type] # never called
        assert app.scopes[-1] is scope
        assert scope == {"type": kind}


class Subclass(WebSocketsSansIOProtocol):
    """Somebody else's, who may rely on anything."""


class Foreign:
    async def send(self, event: Any) -> None:
        return None


@pytest.mark.parametrize("change", ["subclass", "scope", "attribute", "method", "transport", "accepted", "buffered"])
async def test_anything_unknown_is_left_alone(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    protocol = stock(Subclass if change == "subclass" else WebSocketsSansIOProtocol)
    scope: object = protocol.scope
    if change == "scope":
        scope = dict(protocol.scope)
    elif change == "attribute":
        del protocol.close_sent
    elif change == "method":
        monkeypatch.delattr(WebSocketsSansIOProtocol, "keepalive_timeout")
    elif change == "transport":
        protocol.transport = object()  # type: ignore[assignment] # what a later uvicorn might have there
    elif change == "accepted":
        protocol.handshake_complete = True
    elif change == "buffered":
        protocol.transport.room = 0  # type: ignore[attr-defined] # the fake one
        protocol.transport.write(b"x")
    kind = type(protocol)
    assert open_door(protocol, scope) is None
    assert type(protocol) is kind


async def test_other_servers_keep_their_send() -> None:
    app = App()
    foreign = Foreign()
    for send in (foreign.send, nothing):
        scope = {"type": "websocket"}
        await DoorMiddleware(app)(scope, nothing, send)  # type: ignore[arg-type] # one of them is never called
        assert app.scopes[-1] == {"type": "websocket"}
        assert app.sends[-1] == send


class Elsewhere(Foreign):
    """A protocol of uvicorn's that is built on another package."""

    __module__ = "uvicorn.protocols.websockets.wsproto_impl"


async def test_other_protocols_of_uvicorn_need_no_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "websockets", None)
    monkeypatch.setitem(sys.modules, "antiphon.transports.uvicorn_door", None)
    app = App()
    owner = Elsewhere()
    await DoorMiddleware(app)({"type": "websocket"}, nothing, owner.send)
    assert app.scopes == [{"type": "websocket"}]
    assert app.sends == [owner.send]


@pytest.mark.parametrize("missing", ["websockets_sansio_impl", "WebSocketsSansIOProtocol", "websockets"])
async def test_unknown_release_of_uvicorn_goes_the_usual_way_and_is_logged(
    missing: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    protocol = stock()
    package = "uvicorn.protocols.websockets"
    monkeypatch.delitem(sys.modules, "antiphon.transports.uvicorn_door")
    if missing == "websockets":
        monkeypatch.setitem(sys.modules, "websockets", None)
        monkeypatch.setitem(sys.modules, "websockets.exceptions", None)
    elif missing == "websockets_sansio_impl":
        monkeypatch.setitem(sys.modules, f"{package}.{missing}", None)
    else:
        monkeypatch.delattr(sys.modules[f"{package}.websockets_sansio_impl"], missing)
    monkeypatch.setattr(doors, "_journal", Journal())
    app = App()
    middleware = DoorMiddleware(app)
    for _ in range(2):
        await middleware(protocol.scope, protocol.receive, protocol.send)  # type: ignore[arg-type] # ASGI's typed dicts
    assert [scope is protocol.scope for scope in app.scopes] == [True, True]
    assert "antiphon" not in app.scopes[0]["extensions"]
    assert app.sends == [protocol.send] * 2
    [record] = caplog.records
    assert "messages go through ASGI" in record.getMessage()


async def test_door_that_is_there_already_is_not_replaced() -> None:
    app = App()
    scope: Scope = {"type": "websocket", "extensions": {EXTENSION: {"door": None}}}
    await DoorMiddleware(app)(scope, nothing, stock().send)  # type: ignore[arg-type] # ASGI's typed dicts
    assert app.scopes[0] is scope
    assert scope["extensions"] == {EXTENSION: {"door": None}}


@pytest.mark.parametrize("extensions", [None, {}, {EXTENSION: None}, {EXTENSION: {"door": "no door"}}])
async def test_unusable_offer_falls_back_to_asgi(extensions: Any) -> None:
    scope = {"type": "websocket", "headers": [], "extensions": extensions}
    if extensions is None:
        del scope["extensions"]
    websocket = WebSocket(scope, nothing, Foreign().send)
    lanes = Lanes()
    transport = transport_for(websocket, lanes=lanes, on_lost=lambda reason: None, limits=SendLimits())
    assert isinstance(transport, AsgiTransport)
    assert lanes.backlog_bytes == 0
    await lanes.room()
    assert await lanes.drain(limit_s=15)
    lanes.close()


@pytest.mark.parametrize("moment", ["before the handshake", "after the end"])
async def test_door_that_is_not_open_falls_back_to_asgi(moment: str) -> None:
    peer = FakeTransport(Kernel(), room=1000)
    if moment == "after the end":
        peer.door.open()
        peer.door.lost()
    scope = {"type": "websocket", "headers": [], "extensions": {EXTENSION: {"door": peer.door}}}
    websocket = WebSocket(scope, nothing, Foreign().send)
    lanes = Lanes()
    transport = transport_for(websocket, lanes=lanes, on_lost=lambda reason: None, limits=SendLimits())
    assert isinstance(transport, AsgiTransport)
    lanes.close()


async def test_unknown_kinds_of_transports_have_no_descriptor() -> None:
    assert descriptor_of(FakeTransport(Kernel(), room=0)) == -1


@pytest.mark.every_loop
async def test_descriptor_is_that_of_the_socket() -> None:
    ours, theirs = socket.socketpair()
    transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, ours)
    assert descriptor_of(transport) == ours.fileno() >= 0
    transport.abort()
    await asyncio.sleep(0)
    theirs.close()


@pytest.fixture
async def inbox() -> Inbox:
    return Inbox()


async def test_inbox_gives_each_message_once_and_in_order(inbox: Inbox) -> None:
    first, second = asyncio.create_task(inbox.get()), asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait({"type": "websocket.connect"})
    inbox.put_nowait({"type": "websocket.receive", "text": "x"})
    assert (await first)["type"] == "websocket.connect"
    assert (await second)["type"] == "websocket.receive"
    assert inbox.empty()


async def test_inbox_keeps_a_message_when_its_receiver_was_cancelled(inbox: Inbox) -> None:
    cancelled, waiting = asyncio.create_task(inbox.get()), asyncio.create_task(inbox.get())
    await asyncio.sleep(0)
    inbox.put_nowait({"type": "websocket.connect"})
    cancelled.cancel()
    await asyncio.wait([cancelled])
    assert (await asyncio.wait_for(waiting, 15))["type"] == "websocket.connect"


async def test_writable_lets_everybody_through_when_it_is_set() -> None:
    writable = Writable()
    await writable.wait()
    writable.clear()
    waiting = [asyncio.create_task(writable.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[0].cancel()
    writable.set()
    await asyncio.wait_for(asyncio.gather(*waiting[1:]), 15)
    writable.set()
    await writable.wait()


async def test_door_closes_and_ends_once() -> None:
    peer = FakeTransport(Kernel(), room=1000)
    door = Door(peer, say_close=lambda code, reason: peer.said.append((code, reason)))
    door.close(1000, "not open yet", limit_s=1)
    door.open()
    door.close(1000, "bye", limit_s=1)
    door.close(1000, "again", limit_s=1)
    door.ending()
    door.lost()
    assert peer.said == [(1000, "bye")]


class _Owned(asyncio.Protocol):
    """Tells its door what the event loop says, and at what moment the descriptor was still the socket's."""

    def __init__(self) -> None:
        self.lost = asyncio.Event()
        self.was_open = False
        self.door: Door | None = None
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.door = Door(self.transport)

    def connection_lost(self, exc: Exception | None) -> None:
        assert self.door is not None
        os.fstat(self.door.descriptor)
        self.was_open = True
        self.door.lost()
        self.lost.set()


@pytest.mark.every_loop
@pytest.mark.parametrize("closing", ["closed before", "at once"])
@pytest.mark.parametrize("size", [64 * 1024, 8 * 1024 * 1024])
async def test_abort_drops_what_the_kernel_holds_even_if_the_transport_is_closing(closing: str, size: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listening.getsockname())
        ours, _ = listening.accept()
        _, owned = await loop.connect_accepted_socket(_Owned, ours)
        door = owned.door
        assert door is not None
        assert door.descriptor == ours.fileno()
        door.write(bytes(size))
        if closing == "closed before":
            door.transport.close()
        same = os.fstat(door.descriptor)
        door.abort()
        assert struct.unpack("ii", ours.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)) == (1, 0)
        assert os.fstat(door.descriptor).st_ino == same.st_ino
        async with asyncio.timeout(15):
            await owned.lost.wait()
        assert owned.was_open
        door.abort()
        client.setblocking(False)
        async with asyncio.timeout(15):
            with pytest.raises(ConnectionError):
                while await loop.sock_recv(client, 65536):
                    pass
                raise AssertionError("closed as if the client had got everything")

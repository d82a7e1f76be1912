"""What clients send to our protocol class: with a parser only where one is needed, and never without a bound."""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st
from starlette.websockets import WebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from antiphon.auth import ClientGone, FirstMessage, Identity
from antiphon.transports.doors import DoorMiddleware
from antiphon.transports.inbox import Inbox
from antiphon.transports.parsers import Parsers, is_between_messages, past_whole_frames, whole_message
from antiphon.transports.uvicorn import AntiphonProtocol
from antiphon.transports.uvicorn_reading import DISCARDED_BYTES, TURN_FRAMES
from tests.transports.test_protocol_handshake import PLAIN, Wire, request

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def frame(opcode: int, payload: bytes, *, fin: bool = True, mask: bytes = b"\1\2\3\4", rsv: int = 0) -> bytes:
    size = len(payload)
    first = fin << 7 | rsv << 4 | opcode
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size < 65_536:
        header = struct.pack("!BBH", first, 0xFE, size)
    else:
        header = struct.pack("!BBQ", first, 0xFF, size)
    return header + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


class Site:
    """One accepted client of our protocol class, whose application takes what is asked of it.

    With `installed` it is uvicorn's own class that got a door.
    """

    def __init__(self, *, adopts: bool = False, installed: bool = False) -> None:
        self.received: list[Any] = []
        self.adopts = adopts
        self.asked = asyncio.Semaphore(0)
        self.wire = Wire()
        app = DoorMiddleware(self.app) if installed else self.app
        config = uvicorn.Config(app, log_config=None, lifespan="off", ws_max_size=100_000, ws_ping_interval=None)
        config.load()
        self.state = ServerState()
        kind: Any = WebSocketsSansIOProtocol if installed else AntiphonProtocol
        self.protocol = kind(config, self.state, {})

    async def __aenter__(self) -> Site:
        self.protocol.connection_made(self.wire)
        self.protocol.data_received(request(PLAIN))
        await turns()
        assert self.protocol.door.is_open
        self.wire.written = b""
        return self

    async def __aexit__(self, *_: object) -> None:
        self.protocol.connection_lost(None)
        self.asked.release()
        async with asyncio.timeout(15):
            while self.state.tasks:
                self.asked.release()
                await asyncio.sleep(0)

    @property
    def app(self) -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            if self.adopts:
                assert scope["extensions"]["antiphon"]["door"].adopt(self.received.append)
                return
            while True:
                await self.asked.acquire()
                self.received.append(await receive())
                if self.received[-1]["type"] == "websocket.disconnect":
                    return

        return app

    def has_parser(self) -> bool:
        """Whether the connection has one of its own now."""
        return self.protocol._parser is not None

    def is_closed(self) -> bool:
        """Whether the server has closed the socket."""
        return self.wire.closed

    def is_read(self) -> bool:
        """Whether the server reads it."""
        return self.wire.reading

    @property
    def contents(self) -> list[Any]:
        """Of the messages that came."""
        return [
            event.get("text", event.get("bytes")) for event in self.received if event["type"] == "websocket.receive"
        ]


async def turns(number: int = 8) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def everything() -> tuple[bytes, list[Any]]:
    """All kinds of frames behind one another, and the messages in them."""
    data = (
        frame(TEXT, b"one") + frame(BINARY, b"\0" * 300) + frame(TEXT, "zwei €".encode(), fin=False) + frame(PING, b"?")
    )
    data += frame(CONTINUATION, b"", fin=False) + frame(CONTINUATION, b"drei") + frame(PONG, b"!") + frame(TEXT, b"")
    data += frame(TEXT, b"x" * 70_000) + frame(BINARY, b"last")
    return data, ["one", b"\0" * 300, "zwei €drei", "", "x" * 70_000, b"last"]


@pytest.mark.parametrize("adopts", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 64, 1000, 40_000, 200_000])
async def test_messages_arrive_however_they_are_cut(size: int, adopts: bool) -> None:
    data, wanted = everything()
    async with Site(adopts=adopts) as site:
        for _ in wanted:
            site.asked.release()
        for at in range(0, len(data), size):
            site.protocol.data_received(data[at : at + size])
            await asyncio.sleep(0)
        await turns()
        assert site.contents == wanted
        assert site.wire.written == b"\x8a\x01?"
        assert not site.has_parser()
        assert site.is_read()


async def test_parser_is_kept_while_a_frame_or_a_message_is_unfinished_and_no_longer() -> None:
    async with Site(adopts=True) as site:
        whole = frame(TEXT, b"y" * 200)
        for cut in range(1, len(whole)):
            site.protocol.data_received(whole[:cut])
            assert site.has_parser()
            site.protocol.data_received(whole[cut:])
            assert not site.has_parser()
        site.protocol.data_received(frame(TEXT, b"a", fin=False))
        assert site.has_parser()
        site.protocol.data_received(frame(PING, b""))
        assert site.has_parser()
        site.protocol.data_received(frame(CONTINUATION, b"b"))
        assert not site.has_parser()
        assert site.contents == ["y" * 200] * (len(whole) - 1) + ["ab"]


@pytest.mark.parametrize("behind", [b"", frame(TEXT, b"ignored")])
@pytest.mark.parametrize(
    ("broken", "code"),
    [
        (frame(TEXT, b"\xff"), 1007),
        (frame(TEXT, b"\xc3", fin=False) + frame(CONTINUATION, b"("), 1007),
        (frame(TEXT, b"x" * 100_001), 1009),
        (frame(TEXT, b"x" * 60_000, fin=False) + frame(CONTINUATION, b"x" * 60_000), 1009),
        (frame(TEXT, b"x", rsv=4), 1002),
        (frame(CONTINUATION, b"x"), 1002),
        (frame(TEXT, b"x", fin=False) + frame(TEXT, b"x"), 1002),
        (frame(3, b""), 1002),
        (b"\x81\x01x", 1002),
    ],
)
@pytest.mark.parametrize("adopts", [True, False])
async def test_broken_frame_is_refused_behind_what_was_right(
    broken: bytes, code: int, behind: bytes, adopts: bool
) -> None:
    async with Site(adopts=adopts) as site:
        for _ in range(3):
            site.asked.release()
        site.protocol.data_received(frame(TEXT, b"right") + broken + behind)
        await turns()
        assert site.contents == ["right"]
        assert site.received[1]["code"] == code
        assert site.wire.written[2:4] == code.to_bytes(2, "big")
        assert site.is_closed()


async def test_closing_handshake_is_answered_and_told() -> None:
    async with Site(adopts=True) as site:
        site.protocol.data_received(frame(TEXT, b"bye") + frame(CLOSE, b"\x0f\xa0why"))
        assert site.wire.written == b"\x88\x05\x0f\xa0why"
        assert site.received == [
            {"type": "websocket.receive", "text": "bye"},
            {"type": "websocket.disconnect", "code": 4000, "reason": "why"},
        ]
        assert site.is_closed()


async def test_application_that_receives_nothing_holds_little_of_a_large_read() -> None:
    small = frame(TEXT, b"7") * 30_000
    async with Site() as site:
        site.protocol.data_received(small)
        inbox = site.protocol._reader
        assert isinstance(inbox, Inbox)
        assert not site.is_read()
        assert len(inbox) <= 64
        for number in (1, 100, 29_899):
            for _ in range(number):
                site.asked.release()
            wanted = len(site.received) + number
            async with asyncio.timeout(60):
                while len(site.received) < wanted:
                    await asyncio.sleep(0)
            assert len(inbox) <= 64
        assert site.contents == ["7"] * 30_000
        assert site.is_read()


async def test_installed_door_holds_little_of_a_large_read_either() -> None:
    async with Site(installed=True) as site:
        site.protocol.data_received(frame(TEXT, b"7") * 10_000)
        assert site.protocol.queue.qsize() <= 341
        assert not site.is_read()
        for _ in range(10_000):
            site.asked.release()
        async with asyncio.timeout(60):
            while len(site.received) < 10_000:
                assert site.protocol.queue.qsize() <= 341
                await asyncio.sleep(0)
        await turns()
        assert site.contents == ["7"] * 10_000
        assert site.is_read()


@pytest.mark.parametrize("installed", [False, True])
async def test_what_came_before_the_end_is_still_received(installed: bool) -> None:
    async with Site(installed=installed) as site:
        site.protocol.data_received(frame(TEXT, b"7") * 500)
    assert site.contents == ["7"] * 500
    assert site.received[-1]["type"] == "websocket.disconnect"


async def test_fragments_of_one_message_are_joined_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.transports.uvicorn_reading.MAX_FRAGMENTS", 100)
    async with Site(adopts=True) as site:
        site.protocol.data_received(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 50)
        assert site.protocol.frames == [b"a" + b"b" * 50]
        site.protocol.data_received(frame(CONTINUATION, b"", fin=False) * 60)
        assert site.wire.written[2:4] == (1009).to_bytes(2, "big")
        assert site.is_closed()


async def test_pongs_for_a_client_that_does_not_read_are_bounded() -> None:
    async with Site(adopts=True) as site:
        site.protocol.pause_writing()
        site.protocol.data_received(frame(PING, b"x" * 100) * 190)
        await turns()
        held = len(site.wire.written)
        assert 100 < held < 17_000
        site.protocol.resume_writing()
        site.protocol.data_received(frame(PING, b"x" * 100))
        assert len(site.wire.written) == held + 102


CLOSED_AS_TOO_FAST = b"\x88\x10" + (4505).to_bytes(2, "big") + b"too many pings"


@pytest.mark.parametrize("opcode", [PING, PONG])
@pytest.mark.parametrize(("adopts", "installed"), [(True, False), (False, False), (False, True)])
async def test_client_that_sends_too_many_pings_or_pongs_is_closed_and_told_why(
    opcode: int, adopts: bool, installed: bool
) -> None:
    async with Site(adopts=adopts, installed=installed) as site:
        site.asked.release()
        site.protocol.data_received(frame(opcode, b"") * 1000)
        await turns(20)
        assert site.wire.written.endswith(CLOSED_AS_TOO_FAST)
        assert site.wire.written.count(b"\x88\x10") == 1
        assert len(site.wire.written) < 2 * (200 + 341) + len(CLOSED_AS_TOO_FAST)
        assert [event["code"] for event in site.received] == [4505]
        assert not site.is_closed()
        site.protocol.data_received(frame(opcode, b"") * 1000 + frame(CLOSE, b"\x11\x99"))
        await turns(20)
        assert site.wire.written.endswith(CLOSED_AS_TOO_FAST)
        assert site.is_closed()


async def test_answers_to_the_servers_own_pings_are_not_counted() -> None:
    async with Site(adopts=True) as site:
        for _ in range(1000):
            site.protocol.pending_ping_payload = b"1234"
            site.protocol.data_received(frame(PONG, b"1234"))
        assert site.wire.written == b""
        assert "controls_full_at" not in site.protocol.__dict__


async def test_read_of_many_tiny_messages_is_taken_in_many_turns() -> None:
    async with Site(adopts=True) as site:
        site.protocol.data_received(frame(TEXT, b"") * 10_000 + frame(PING, b"?"))
        assert len(site.received) == TURN_FRAMES
        assert not site.is_read()
        for number in range(2, 10):
            await asyncio.sleep(0)
            assert len(site.received) == number * TURN_FRAMES
        await turns(100)
        assert len(site.received) == 10_000
        assert site.wire.written == b"\x8a\x01?"
        assert site.is_read()
        assert site.protocol.turn is None


@pytest.mark.parametrize("messages", [frame(TEXT, b"7"), frame(TEXT, b"7", fin=False) + frame(CONTINUATION, b"")])
async def test_adopted_socket_takes_nothing_more_of_a_read_while_it_is_paused(messages: bytes) -> None:
    async with Site(adopts=True) as site:
        door = site.protocol.door

        def receive(event: Any) -> None:
            site.received.append(event)
            if event["type"] == "websocket.receive" and len(site.received) % 10 == 0:
                door.pause_reading()

        site.protocol._reader = receive
        site.protocol.data_received(messages * 1000)
        await turns()
        at_once = len(site.received)
        assert at_once <= 341
        assert not site.is_read()
        while len(site.received) < 1000:
            before = len(site.received)
            door.resume_reading()
            await turns()
            assert before < len(site.received) <= before + 341
        door.resume_reading()
        assert site.is_read()
        assert site.contents == ["7"] * 1000


async def test_what_a_paused_reader_has_not_taken_is_dropped_with_the_connection() -> None:
    async with Site(adopts=True) as site:
        site.protocol.pause_reading()
        site.protocol.data_received(frame(TEXT, b"7") * 1000)
        assert site.received == []
    assert [event["type"] for event in site.received] == ["websocket.disconnect"]


@pytest.mark.parametrize(("adopts", "installed"), [(True, False), (False, False), (False, True)])
@pytest.mark.parametrize(
    "message",
    [
        frame(TEXT, b"x" * 1001),
        frame(TEXT, b"x" * 600, fin=False) + frame(CONTINUATION, b"x" * 401),
        frame(TEXT, b"x" * 70_000),
    ],
)
async def test_message_above_a_limit_that_was_set_later_is_refused(
    message: bytes, adopts: bool, installed: bool
) -> None:
    async with Site(adopts=adopts, installed=installed) as site:
        for _ in range(3):
            site.asked.release()
        site.protocol.door.limit_messages(1000)
        site.protocol.data_received(frame(TEXT, b"x" * 1000))
        await turns()
        site.protocol.data_received(message[:500])
        site.protocol.data_received(message[500:])
        await turns()
        assert [len(content) for content in site.contents] == [1000]
        assert site.received[-1]["code"] == 1009
        assert site.is_closed()


async def test_limit_is_that_of_the_server_again_when_it_is_lifted_and_never_above_it() -> None:
    async with Site(adopts=True) as site:
        for limit_bytes in (1000, None, 10**9):
            site.protocol.door.limit_messages(limit_bytes)
        site.protocol.data_received(frame(TEXT, b"x" * 100_000))
        site.protocol.data_received(frame(TEXT, b"x" * 100_001))
        assert [len(content) for content in site.contents] == [100_000]
        assert site.received[-1]["code"] == 1009


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("installed", [False, True])
async def test_first_message_that_is_too_large_is_not_kept_and_the_limit_ends_with_the_sign_in(
    monkeypatch: pytest.MonkeyPatch, installed: bool, large: bool
) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        websocket = WebSocket(scope, receive, send)
        try:
            identity = await FirstMessage(lambda token: Identity(user_id="ada")).authenticate(websocket)
        except ClientGone:
            limits.append(0)
        else:
            assert identity is not None
            limits.append(site.protocol.limit_bytes)
            site.received.append(await websocket.receive())

    limits: list[int] = []
    monkeypatch.setattr(Site, "app", property(lambda _: app))
    async with Site(installed=installed) as site:
        assert site.protocol.limit_bytes == 16 * 1024
        token = "x" * (17_000 if large else 100)
        message = frame(TEXT, b'{"type":"auth","token":"%b"}' % token.encode())
        site.protocol.data_received(message[:8])
        await turns()
        assert site.is_closed() == large
        site.protocol.data_received(message[8:])
        await turns()
        assert limits == [0 if large else 100_000]
        site.protocol.data_received(frame(TEXT, b"x" * 20_000))
        await turns()
        assert [len(content) for content in site.contents] == ([] if large else [20_000])


@pytest.mark.parametrize("installed", [False, True])
async def test_frame_that_began_before_the_limit_was_set_is_not_kept_either(installed: bool) -> None:
    async with Site(adopts=not installed, installed=installed) as site:
        site.asked.release()
        large = frame(TEXT, b"x" * 90_000)
        site.protocol.data_received(large[:500])
        site.protocol.door.limit_messages(1000)
        site.protocol.data_received(large[500:60_000])
        await turns()
        assert site.contents == []
        assert site.received[-1]["code"] == 1009
        assert site.is_closed()


async def test_client_that_goes_on_sending_behind_the_close_frame_costs_little_and_is_cut_off() -> None:
    async with Site(adopts=True) as site:
        site.protocol.door.close(4000, "bye", limit_s=1)
        flood = frame(TEXT, b"x" * 300) * 400
        for _ in range(DISCARDED_BYTES // len(flood)):
            site.protocol.data_received(flood)
            await turns(10)
        assert not site.is_closed()
        site.protocol.data_received(flood)
        site.protocol.data_received(flood)
        await turns(20)
        assert site.is_closed()
        assert site.contents == []


@given(
    frames=st.lists(
        st.sampled_from([frame(TEXT, b""), frame(BINARY, b"x" * 200), frame(CONTINUATION, b"abc"), frame(PONG, b"!")])
    ),
    end=st.sampled_from(
        [b"", frame(CLOSE, b""), frame(PING, b"?"), b"\x81", frame(TEXT, b"cut")[:-1], b"\x81\x01unmasked"]
    ),
)
def test_whole_frames_are_passed_over_up_to_what_counts(frames: list[bytes], end: bytes) -> None:
    data = b"".join(frames)
    assert past_whole_frames(data + end, with_pings=False) == len(data)
    is_ping = end.startswith(b"\x89")
    assert past_whole_frames(data + end, with_pings=True) == len(data) + (len(end) if is_ping else 0)


def test_parsers_are_lent_again_and_few_are_kept() -> None:
    parsers = Parsers(logger=logging.getLogger("test"))
    lent = [parsers.lend((), limit_bytes=100) for _ in range(10)]
    assert len(set(map(id, lent))) == 10
    assert all(map(is_between_messages, lent))
    for parser in lent:
        parsers.take_back(parser)
    again = [parsers.lend((), limit_bytes=100) for _ in range(10)]
    assert 0 < len(set(map(id, lent)) & set(map(id, again))) < 10


@given(payload=st.binary(max_size=300), mask=st.binary(min_size=4, max_size=4), before=st.binary(max_size=5))
def test_whole_message_is_read_at_any_place_and_only_when_it_is_whole(
    payload: bytes, mask: bytes, before: bytes
) -> None:
    data = before + frame(BINARY, payload, mask=mask)
    assert whole_message(data + b"more", len(before), limit_bytes=300) == (len(data), payload)
    for cut in itertools.islice(range(len(before) + 6, len(data)), 12):
        assert whole_message(data[:cut], len(before), limit_bytes=300) is None
    if payload:
        assert whole_message(data, len(before), limit_bytes=len(payload) - 1) is None

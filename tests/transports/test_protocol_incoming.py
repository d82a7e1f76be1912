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
from uvicorn.server import ServerState

from antiphon.transports.inbox import Inbox
from antiphon.transports.parsers import Parsers, is_between_messages, whole_message
from antiphon.transports.uvicorn import AntiphonProtocol
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
    """One accepted client of our protocol class, whose application takes what is asked of it."""

    def __init__(self, *, adopts: bool = False) -> None:
        self.received: list[Any] = []
        self.adopts = adopts
        self.asked = asyncio.Semaphore(0)
        self.wire = Wire()
        config = uvicorn.Config(self.app, log_config=None, lifespan="off", ws_max_size=100_000, ws_ping_interval=None)
        config.load()
        self.state = ServerState()
        self.protocol = AntiphonProtocol(config, self.state, {})

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
        assert site.wire.reading


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
        assert site.wire.closed


async def test_closing_handshake_is_answered_and_told() -> None:
    async with Site(adopts=True) as site:
        site.protocol.data_received(frame(TEXT, b"bye") + frame(CLOSE, b"\x0f\xa0why"))
        assert site.wire.written == b"\x88\x05\x0f\xa0why"
        assert site.received == [
            {"type": "websocket.receive", "text": "bye"},
            {"type": "websocket.disconnect", "code": 4000, "reason": "why"},
        ]
        assert site.wire.closed


async def test_application_that_receives_nothing_holds_little_of_a_large_read() -> None:
    small = frame(TEXT, b"7") * 30_000
    async with Site() as site:
        site.protocol.data_received(small)
        inbox = site.protocol._reader
        assert isinstance(inbox, Inbox)
        assert not site.wire.reading
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
        assert site.wire.reading


async def test_what_came_before_the_end_is_still_received() -> None:
    async with Site() as site:
        site.protocol.data_received(frame(TEXT, b"7") * 500)
    assert site.contents == ["7"] * 500
    assert site.received[-1]["type"] == "websocket.disconnect"


async def test_fragments_of_one_message_are_joined_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("antiphon.transports.uvicorn_door.MAX_FRAGMENTS", 100)
    async with Site(adopts=True) as site:
        site.protocol.data_received(frame(TEXT, b"a", fin=False) + frame(CONTINUATION, b"b", fin=False) * 50)
        assert site.protocol.frames == [b"a" + b"b" * 50]
        site.protocol.data_received(frame(CONTINUATION, b"", fin=False) * 60)
        assert site.wire.written[2:4] == (1009).to_bytes(2, "big")
        assert site.wire.closed


async def test_pongs_for_a_client_that_does_not_read_are_bounded() -> None:
    async with Site(adopts=True) as site:
        site.protocol.pause_writing()
        site.protocol.data_received(frame(PING, b"x" * 100) * 1000)
        held = len(site.wire.written)
        assert 100 < held < 20_000
        site.protocol.resume_writing()
        site.protocol.data_received(frame(PING, b"x" * 100))
        assert len(site.wire.written) == held + 102


def test_parsers_are_lent_again_and_few_are_kept() -> None:
    parsers = Parsers(limit_bytes=100, logger=logging.getLogger("test"))
    lent = [parsers.lend(()) for _ in range(10)]
    assert len(set(map(id, lent))) == 10
    assert all(map(is_between_messages, lent))
    for parser in lent:
        parsers.take_back(parser)
    again = [parsers.lend(()) for _ in range(10)]
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

"""RFC 6455 case by case, on every way to the sockets, with an application that reads and with one that has returned.

The categories are those of the Autobahn test suite, which needs a Python 2 and so cannot be run here. Each case is sent
in one piece, and again byte by byte. Section numbers are those of RFC 6455.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Iterator, MutableMapping
from contextlib import asynccontextmanager
from random import Random

import pytest
from starlette.websockets import WebSocket

from antiphon.transports.base import Receiver, SendLimits
from antiphon.transports.choice import Lanes, transport_for
from antiphon.transports.door import EXTENSION, Door
from antiphon.wire.frames import Frame
from tests.transports.conversations import Case, answered, faults_of, in_fragments, refused
from tests.transports.raw_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    NO_STATUS,
    PING,
    PONG,
    TEXT,
    Answer,
    binary,
    close,
    close_frame,
    frame,
    pong,
    raw_client,
    text,
)
from tests.transports.servers import DOORS, HANDSHAKE, Way, serving, site, until

ADOPTED: tuple[Way, ...] = ("protocol", "deflating")
SERVERS: list[tuple[Way, bool]] = [*((way, False) for way in DOORS), *((way, True) for way in ADOPTED)]
NAMES = [f"{way}-adopted" if adopted else way for way, adopted in SERVERS]

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize(("way", "adopted"), SERVERS, ids=NAMES)]


class Echo:
    """An endpoint that leaves its socket to a receiver and returns, as `WebSocketManager.serve` does.

    Before, it answers some messages itself.
    """

    def __init__(self, *, reads_first: int) -> None:
        self.lanes = Lanes()
        self._reads_first = reads_first
        self._answering: set[asyncio.Task[None]] = set()

    async def endpoint(self, websocket: WebSocket) -> None:
        await websocket.accept()
        for _ in range(self._reads_first):
            message = await websocket.receive()
            await websocket.send({**message, "type": "websocket.send"})
        waiting: asyncio.Queue[object] = asyncio.Queue()
        door: Door = websocket.scope["extensions"][EXTENSION]["door"]
        task = asyncio.get_running_loop().create_task(self._answer(websocket, waiting))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        receiver: Receiver = waiting.put_nowait
        assert door.adopt(receiver)

    async def _answer(self, websocket: WebSocket, waiting: asyncio.Queue[object]) -> None:
        """Texts go back by the library's own transport, the rest by ASGI's `send`."""
        transport = transport_for(websocket, lanes=self.lanes, on_lost=lambda _: None, limits=SendLimits())
        while True:
            match await waiting.get():
                case {"type": "websocket.disconnect"}:
                    transport.detach()
                    return
                case {"text": str(content)}:
                    transport.send(Frame.of_text(content))
                    await self.lanes.room()
                case {"bytes": bytes(content)}:
                    await websocket.send_bytes(content)


@asynccontextmanager
async def echoing(way: Way, *, adopted: bool, reads_first: int = 0) -> AsyncIterator[int]:
    """The port of a server that echoes."""
    if adopted:
        service = Echo(reads_first=reads_first)
        async with serving(way, service.endpoint) as (_, url):
            yield int(url.removesuffix("/").rpartition(":")[2])
        service.lanes.close()
    else:
        async with site(way) as served:
            yield served.port


@pytest.fixture
async def port(way: Way, adopted: bool) -> AsyncIterator[int]:
    async with echoing(way, adopted=adopted) as port:
        yield port


# §4.2: the handshake


async def test_handshake_is_answered_as_the_rfc_computes_it(port: int) -> None:
    async with raw_client(port) as client:
        assert client.status == 101
        assert client.field("sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # §1.3's example
        assert str(client.field("upgrade")).lower() == "websocket"
        assert str(client.field("connection")).lower() == "upgrade"
        assert client.field("sec-websocket-protocol") is None
        assert client.field("sec-websocket-extensions") is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", b""),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"c2hvcnQ="),
        (b"dGhlIHNhbXBsZSBub25jZQ==", b"no base64"),
        (b"Version: 13", b"Version: 8"),
        (b"Version: 13", b"Version: 14"),
        (b"Sec-WebSocket-Version: 13\r\n", b""),
    ],
    ids=["no key", "short key", "bad key", "version 8", "version 14", "no version"],
)
async def test_wrong_handshake_is_refused(port: int, old: bytes, new: bytes) -> None:
    async with raw_client(port, request=HANDSHAKE.replace(old, new)) as client:
        assert 400 <= client.status < 500
        assert client.field("upgrade") is None


# §5.2: framing


def framing() -> Iterator[Case]:
    for size in (0, 1, 125, 126, 127, 128, 65_535, 65_536):
        content = "*" * size
        yield answered(f"text of {size}", frame(TEXT, content.encode()), hears=(text(content),))
        yield answered(f"binary of {size}", frame(BINARY, b"\xfe" * size), hears=(binary(b"\xfe" * size),))
    for mask in (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\0\0\0\1"):
        yield answered(f"mask {mask.hex()}", frame(TEXT, b"masked", mask=mask), hears=(text("masked"),))
    hundred = [f"message {number}" for number in range(100)]
    yield answered(
        "a hundred messages", *(frame(TEXT, one.encode()) for one in hundred), hears=tuple(map(text, hundred))
    )
    yield refused("unmasked (§5.1)", frame(TEXT, b"bare", mask=None))
    yield refused("unmasked ping (§5.1)", frame(PING, mask=None))


async def test_lengths_and_masks(port: int) -> None:
    assert await faults_of([*framing()], port) == []


def pings() -> Iterator[Case]:
    for payload in (b"", b"hello", b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff", b"\xfe" * 125):
        yield answered(f"ping of {len(payload)}", frame(PING, payload), hears=(pong(payload),))
        yield answered(f"unasked pong of {len(payload)}", frame(PONG, payload), frame(PING), hears=(pong(),))
    for opcode in (PING, PONG):
        for size in (126, 200, 65_536):
            yield refused(f"opcode {opcode} of {size} (§5.5)", frame(opcode, b"\xfe" * size))
    ten = [str(number).encode() for number in range(10)]
    yield answered("ten pings", *(frame(PING, one) for one in ten), hears=tuple(map(pong, ten)))


async def test_pings_and_pongs(port: int) -> None:
    assert await faults_of([*pings()], port) == []


def reserved() -> Iterator[Case]:
    for bits in range(1, 8):
        for opcode in (TEXT, BINARY, CLOSE, PING, PONG):
            yield refused(f"bits {bits} with opcode {opcode}", frame(opcode, rsv=bits))
        yield refused(
            f"bits {bits} after a message",
            frame(TEXT, b"1"),
            frame(TEXT, b"2", rsv=bits),
            frame(PING),
            hears=(text("1"),),
        )
        yield refused(f"bits {bits} in a fragment", frame(TEXT, b"1", fin=False), frame(CONTINUATION, rsv=bits))
    for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        yield refused(f"opcode {opcode}", frame(opcode))
        yield refused(f"opcode {opcode} with a payload", frame(opcode, b"reserved"), frame(PING))
        yield refused(f"opcode {opcode} after a message", frame(TEXT, b"1"), frame(opcode), hears=(text("1"),))


async def test_reserved_bits_and_opcodes_are_refused(port: int) -> None:
    assert await faults_of([*reserved()], port) == []


# §5.4: fragmentation


def fragments() -> Iterator[Case]:
    content = b"fragment1fragment2"
    whole = text(content.decode())
    for size in (1, 2, 9, 17):
        yield answered(f"fragments of {size}", in_fragments(content, size=size), hears=(whole,))
    yield answered("binary", in_fragments(b"\xff\0\xfe", opcode=BINARY), hears=(binary(b"\xff\0\xfe"),))
    yield answered("64 KiB", in_fragments(b"*" * 65_536, size=1300), hears=(text("*" * 65_536),))
    empty = frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) + frame(CONTINUATION)
    yield answered("three empty ones", empty, hears=(text(""),))
    middle = frame(TEXT, fin=False) + frame(CONTINUATION, b"middle", fin=False) + frame(CONTINUATION)
    yield answered("two empty ones", middle, hears=(text("middle"),))
    yield answered("ping between", in_fragments(content, size=9, between=frame(PING, b"x")), hears=(pong(b"x"), whole))
    yield answered(
        "pings between all",
        in_fragments(content, between=frame(PING, b"x") + frame(PONG, b"y")),
        hears=(*[pong(b"x")] * (len(content) - 1), whole),
    )
    two = in_fragments(b"first") + in_fragments(b"second", size=3)
    yield answered("two messages", two, hears=(text("first"), text("second")))
    for opcode in (PING, PONG, CLOSE):
        yield refused(f"opcode {opcode} in fragments (§5.5)", frame(opcode, fin=False), frame(CONTINUATION))
    for fin in (False, True):
        yield refused(f"nothing to continue, {fin}", frame(CONTINUATION, b"more", fin=fin), frame(TEXT, b"1"))
        yield refused(
            f"nothing to continue after a message, {fin}",
            in_fragments(content, size=9) + frame(CONTINUATION, b"more", fin=fin),
            hears=(whole,),
        )
        for opcode in (TEXT, BINARY):
            yield refused(
                f"opcode {opcode} within a message, {fin}", frame(TEXT, b"1", fin=False), frame(opcode, b"2", fin=fin)
            )
    # Neither §5.4 nor §5.5.1 says what to answer; websockets takes it as a broken rule.
    yield refused("a close frame within a message", frame(TEXT, b"1", fin=False), close_frame(1000))


async def test_fragments(port: int) -> None:
    assert await faults_of([*fragments()], port) == []


# §8.1: UTF-8

WELL_FORMED = (
    *("", "Hello-µ@ßöäüàá-UTF-8!!", "κόσμε", "\0", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufdd0"),
    *(
        "\ufffd",
        "\ufffe",
        "\uffff",
        "\U00010000",
        "\U0001fffe",
        "\U0010fffe",
        "\U0010ffff",
        "\ufeffmarked",
        "\U0001f984",
    ),
)
ILL_FORMED = (
    *("80", "bf", "80bf80", "c3", "ce", "e282", "f09d84", "c320", "e28220", "f09d8420"),  # alone, or cut
    *("c0af", "c1bf", "e080af", "e09fbf", "f08080af", "f08fbfbf", "c080", "e08080", "f0808080"),  # longer than needed
    *("eda080", "edadbf", "edae80", "edafbf", "edb080", "edbfbf", "eda080edb080", "edafbfedbfbf"),  # surrogates
    *("f4908080", "f5808080", "f7bfbfbf", "f888808080", "fbbfbfbfbf", "fc8480808080", "fdbfbfbfbfbf"),  # too great
    *("fe", "ff", "fefeffff"),
)


def unicode() -> Iterator[Case]:
    for content in WELL_FORMED:
        data = content.encode()
        yield answered(f"{content!r}", frame(TEXT, data), hears=(text(content),))
        for size in range(1, min(len(data), 5)):
            yield answered(f"{content!r} by {size}", in_fragments(data, size=size), hears=(text(content),))
        yield answered(
            f"{content!r} with pings",
            in_fragments(data, between=frame(PING)),
            hears=(*[pong()] * (len(data) - 1), text(content)),
        )
    for digits in ILL_FORMED:
        data = bytes.fromhex(digits)
        yield refused(digits, frame(TEXT, data), code=1007)
        yield refused(f"{digits} within", frame(TEXT, "κόσμε".encode() + data + b"edited"), code=1007)
        yield refused(f"{digits} in fragments", in_fragments(data), code=1007)
    yield refused("after a message", frame(TEXT, b"1"), frame(TEXT, b"\xff"), hears=(text("1"),), code=1007)
    everything = b"".join(map(bytes.fromhex, ILL_FORMED))
    yield answered("binary that is no text", frame(BINARY, everything), hears=(binary(everything),))
    yield answered("binary in a ping", frame(PING, b"\xff\xfe"), hears=(pong(b"\xff\xfe"),))


async def test_utf_8(port: int) -> None:
    assert await faults_of([*unicode()], port) == []


async def test_bad_utf_8_is_refused_before_more_than_the_message_was_read(port: int) -> None:
    """§8.1 asks for an end and not for haste: websockets and uvicorn look at the message when it is complete."""
    async with raw_client(port) as client:
        await client.send(frame(TEXT, b"good", fin=False) + frame(CONTINUATION, b"\xff", fin=False) + frame(PING, b"1"))
        heard = await client.answer()
        if heard == pong(b"1"):
            await client.send(frame(CONTINUATION, b"good"))
            heard = await client.answer()
        assert heard == close(1007)
        assert await client.answers() == []


# §5.5.1, §7: closing


def closing() -> Iterator[Case]:
    for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999):
        for reason in (b"", "Grüße".encode(), b"*" * 123):
            yield refused(f"{code} {len(reason)}", close_frame(code, reason), code=code)
    yield refused("no code", frame(CLOSE), code=NO_STATUS)
    yield refused("half a code", frame(CLOSE, b"\x03"))
    for size in (124, 200, 65_536):
        yield refused(f"reason of {size}", close_frame(1000, b"*" * size))
    for code in (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535):
        yield refused(f"code {code} (§7.4)", close_frame(code))
        yield refused(f"code {code} and a reason (§7.4)", close_frame(code, b"good bye"))
    yield refused("reason that is not UTF-8", close_frame(1000, b"\xce\xba\xe1\xbd\xb9\xed\xa0\x80"), code=1007)
    for later in (frame(TEXT, b"late"), frame(PING), close_frame(1001), frame(3), b"\xff\xff\xff"):
        yield refused(f"{later[:1].hex()} after the close frame", close_frame(3456), later, code=3456)
    yield refused("after a message", frame(TEXT, b"1"), close_frame(3456), hears=(text("1"),), code=3456)


async def test_close_frames_are_answered(port: int) -> None:
    assert await faults_of([*closing()], port) == []


async def test_connection_that_ends_within_a_frame_is_let_go(port: int) -> None:
    for begun in (b"", b"\x81", frame(TEXT, b"half")[:-2], in_fragments(b"half")[:7], b"\x81\xff\0\0\0\0\0\x01"):
        async with raw_client(port) as client:
            await client.send(begun)
            await client.end()
            heard = await client.answers()
            assert heard in ([], [close(1002)], [close(1006)]), begun


# Large messages, and many


def large() -> Iterator[Case]:
    for size in (256 * 1024, 4 * 1024 * 1024):
        content = bytes(range(256)) * (size // 256)
        yield answered(f"{size} bytes", frame(BINARY, content), hears=(binary(content),))
        fragmented = in_fragments(content, opcode=BINARY, size=size // 64, between=frame(PING))
        yield answered(f"{size} bytes in fragments", fragmented, hears=(*[pong()] * 63, binary(content)))
    thousand = [f"{number} {'é' * number}" for number in range(1000)]
    yield answered("a thousand", *(frame(TEXT, one.encode()) for one in thousand), hears=tuple(map(text, thousand)))


async def test_large_messages_and_many(port: int) -> None:
    assert await faults_of([*large()], port) == []


async def test_message_of_just_the_limit_is_taken_and_a_larger_one_refused(port: int) -> None:
    limit_bytes = 16 * 1024 * 1024
    async with raw_client(port) as client:
        reading = asyncio.create_task(client.answer())
        await client.send(frame(BINARY, b"\0" * limit_bytes, mask=b"\0\0\0\0"))
        assert await reading == binary(b"\0" * limit_bytes)
        await client.send(struct.pack("!BBQI", 0x80 | BINARY, 0xFF, limit_bytes + 1, 0))
        assert await client.answer() == close(1009)
        assert await client.answers() == []
    for length in (1 << 63, (1 << 64) - 1):  # §5.2: the most significant bit must be 0
        async with raw_client(port) as client:
            await client.send(struct.pack("!BBQI", 0x80 | BINARY, 0xFF, length, 0))
            assert await client.answer() in (close(1002), close(1009))
            assert await client.answers() == []


# All of it together


def anything(random: Random) -> Iterator[tuple[bytes, Answer]]:
    """What a client may send, and what it hears of it."""
    for _ in range(random.randrange(20, 200)):
        size = random.choice((0, 1, 20, 125, 126, 1000, 65_535, 65_536))
        content = "".join(random.choices("aé€😀", k=random.randrange(100))) if random.random() < 0.7 else "x" * size
        data = content.encode()
        mask = random.randbytes(4)
        match random.choice(("text", "text", "binary", "fragments", "ping")):
            case "text":
                yield frame(TEXT, data, mask=mask), text(content)
            case "binary":
                yield frame(BINARY, data, mask=mask), binary(data)
            case "fragments":
                yield in_fragments(data, size=random.randrange(1, 2 + len(data))), text(content)
            case _:
                yield frame(PING, data[:125], mask=mask), pong(data[:125])


@pytest.mark.parametrize("seed", range(8))
async def test_any_messages_cut_anywhere_arrive_in_order(way: Way, adopted: bool, seed: int) -> None:
    random = Random(seed)
    sends, hears = zip(*anything(random), strict=True)
    data = b"".join(sends)
    wanted = [answer for answer in hears if answer.kind != "pong"]
    reads_first = random.randrange(len(wanted))
    async with echoing(way, adopted=adopted, reads_first=reads_first) as port, raw_client(port) as client:
        reading = asyncio.create_task(client.answers(len(hears)))
        while data:
            size = random.choice((1, 2, 5, 50, 5000, 70_000, 300_000))
            await client.send(data[:size])
            data = data[size:]
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
        heard = await reading
        assert [answer for answer in heard if answer.kind != "pong"] == wanted
        assert [answer for answer in heard if answer.kind == "pong"] == [
            answer for answer in hears if answer.kind == "pong"
        ]
        await client.send(close_frame(1000))
        assert await client.answers() == [close(1000)]


async def test_last_words_of_a_client_are_heard_however_many(way: Way, adopted: bool) -> None:
    events: list[MutableMapping[str, object]] = []
    words = [f"{number} {'x' * 2000}" for number in range(500)]

    async def endpoint(websocket: WebSocket) -> None:
        await websocket.accept()
        if adopted:
            assert websocket.scope["extensions"][EXTENSION]["door"].adopt(events.append)
            return
        while not events or events[-1]["type"] != "websocket.disconnect":
            events.append(await websocket.receive())

    async with serving(way, endpoint) as (_, url):
        async with raw_client(int(url.removesuffix("/").rpartition(":")[2])) as client:
            sends = [frame(TEXT, word.encode()) for word in words]
            await client.send(b"".join(sends) + close_frame(3456))
            assert await client.answers() == [close(3456)]
        await until(lambda: bool(events) and events[-1]["type"] == "websocket.disconnect")
    assert [event.get("text") for event in events[:-1]] == words
    assert events[-1]["code"] == 3456

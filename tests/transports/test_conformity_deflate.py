"""RFC 7692 case by case: what is agreed upon, and what compressed messages may look like.

Section numbers are those of RFC 7692.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator
from random import Random

import pytest

from tests.transports.conversations import Case, answered, faults_of, refused
from tests.transports.raw_client import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    binary,
    frame,
    pong,
    raw_client,
    text,
)
from tests.transports.servers import WAYS, Site, Way, site

COMPRESSED = 0b100
"""The first reserved bit, which begins a compressed message (§6)."""
WITHOUT: tuple[Way, ...] = ("protocol",)
WITH: tuple[Way, ...] = ("install", "deflating")
LARGE = "".join(f"{number} Grüße, 世界 " for number in range(20_000))

FRESH = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"
"""No message refers to an earlier one, in either direction."""

pytestmark = pytest.mark.every_loop


def deflated(content: bytes, *, window_bits: int = 9, flush: int = zlib.Z_SYNC_FLUSH) -> bytes:
    """As §7.2.1 says. Any server understands the smallest window."""
    compressor = zlib.compressobj(wbits=-window_bits)
    return (compressor.compress(content) + compressor.flush(flush)).removesuffix(b"\0\0\xff\xff")


def parameters(accepted: str) -> dict[str, str]:
    """What the server agreed to."""
    name, *rest = (part.strip() for part in accepted.split(";"))
    assert name == "permessage-deflate"
    pairs = [part.partition("=")[::2] for part in rest]
    assert len(dict(pairs)) == len(pairs), f"a parameter twice: {accepted}"
    return dict(pairs)


@pytest.fixture
async def served(way: Way) -> AsyncIterator[Site]:
    async with site(way) as served:
        yield served


# §5, §7.1: the agreement


@pytest.mark.parametrize("way", WITHOUT)
async def test_extension_is_never_agreed_upon_where_it_is_not_offered(served: Site) -> None:
    for offer in ("permessage-deflate", "permessage-deflate; client_max_window_bits", "x-webkit-deflate-frame"):
        async with raw_client(served.port, offer=offer) as client:
            assert client.status == 101
            assert client.field("sec-websocket-extensions") is None
            await client.send(frame(TEXT, deflated(b"Hello"), rsv=COMPRESSED))
            assert [answer.content for answer in await client.answers()] == [1002]


@pytest.mark.parametrize("way", WITH)
@pytest.mark.parametrize("server_bits", [None, 9, 10, 12, 15])
@pytest.mark.parametrize("client_bits", [None, "", "9", "12", "15"])
async def test_agreement_keeps_to_what_the_client_offered(
    served: Site, server_bits: int | None, client_bits: str | None
) -> None:
    offer = "permessage-deflate; server_no_context_takeover"
    if server_bits is not None:
        offer += f"; server_max_window_bits={server_bits}"
    if client_bits is not None:
        offer += f"; client_max_window_bits={client_bits}".removesuffix("=")
    async with raw_client(served.port, offer=offer) as client:
        accepted = client.field("sec-websocket-extensions")
        assert accepted is not None
        agreed = parameters(accepted)
        if server_bits is not None:
            assert 8 <= int(agreed["server_max_window_bits"]) <= server_bits  # §7.1.2.1
        if client_bits is None:
            assert "client_max_window_bits" not in agreed  # §7.1.2.2
        elif client_bits:
            assert 8 <= int(agreed.get("client_max_window_bits", "15")) <= int(client_bits)
        assert agreed["server_no_context_takeover"] == ""  # §7.1.1.1
        # A window that the client does not have would break what it inflates: the same words again, far away.
        await served.came(1)
        wanted = LARGE[:40_000]
        await client.send(frame(TEXT, deflated(wanted.encode()), rsv=COMPRESSED))
        assert await client.answer() == text(wanted)
        for content in (wanted, "", "short"):
            served.deliver(content)
            assert await served.lanes.drain(limit_s=10)
            assert await client.answer() == text(content)


@pytest.mark.parametrize("way", WITH)
async def test_window_of_eight_bits_is_declined_or_kept_to(served: Site) -> None:
    """zlib has none for raw deflate, so it may be declined; but what is agreed to must hold."""
    async with raw_client(served.port, offer="permessage-deflate; server_max_window_bits=8") as client:
        assert client.status == 101
        await client.send(frame(TEXT, b"*" * 1000))
        assert await client.answer() == text("*" * 1000)


@pytest.mark.parametrize("way", WITH)
async def test_offer_with_a_parameter_that_is_not_understood_is_declined(served: Site) -> None:
    for parameter in (
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits",
        "client_max_window_bits=7",
        "client_max_window_bits=16",
        "client_max_window_bits=many",
        "server_no_context_takeover=1",
        "client_no_context_takeover=0",
        "server_no_context_takeover; server_no_context_takeover",
        "unknown",
    ):
        async with raw_client(served.port, offer=f"permessage-deflate; {parameter}") as client:
            assert client.status == 101, parameter
            assert client.field("sec-websocket-extensions") is None, parameter
        offer = f"permessage-deflate; {parameter}, unknown; a=b, permessage-deflate"
        async with raw_client(served.port, offer=offer) as client:  # §5.1: the next one may do
            assert client.field("sec-websocket-extensions") is not None, parameter


# §6, §7.2: the messages


def messages() -> Iterator[Case]:
    hello = (text("Hello"),)
    for name, digits in {  # §7.2.3's examples
        "one block": "f248cdc9c90700",
        "no compression": "000500faff48656c6c6f00",
        "final block": "f348cdc9c9070000",
        "two blocks": "f24805000000ffffcac9c90700",
    }.items():
        yield answered(name, frame(TEXT, bytes.fromhex(digits), rsv=COMPRESSED), hears=hello)
    first, second = bytes.fromhex("f248cd"), bytes.fromhex("c9c90700")
    begun = frame(TEXT, first, fin=False, rsv=COMPRESSED)
    yield answered("fragments", begun, frame(CONTINUATION, second), hears=hello)
    yield answered(
        "control frames between",
        begun,
        frame(PING, b"uncompressed"),
        frame(PONG),
        frame(CONTINUATION, second),
        hears=(pong(b"uncompressed"), *hello),
    )
    yield answered("empty", frame(TEXT, b"\0", rsv=COMPRESSED), hears=(text(""),))  # §7.2.3.6
    yield answered(
        "empty fragments",
        frame(BINARY, b"", fin=False, rsv=COMPRESSED),
        frame(CONTINUATION, b"", fin=False),
        frame(CONTINUATION, b"\0"),
        hears=(binary(b""),),
    )
    yield answered(
        "compressed and not (§6)",
        frame(TEXT, deflated(b"1"), rsv=COMPRESSED),
        frame(TEXT, b"2"),
        frame(BINARY, deflated(b"3"), rsv=COMPRESSED),
        frame(BINARY, b"4"),
        hears=(text("1"), text("2"), binary(b"3"), binary(b"4")),
    )
    for size in (1, 100, 2040, 2044, 2048, 5000, 60_000):
        content = LARGE.encode()[: size * 3]
        for flush in (zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH):
            data = deflated(content, flush=flush)
            yield answered(f"{size} bytes", frame(BINARY, data, rsv=COMPRESSED), hears=(binary(content),))
    for size in (1, 7, 500):
        data = deflated(LARGE[:3000].encode())
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        yield answered(
            f"fragments of {size}",
            *(
                frame(CONTINUATION if at else TEXT, part, fin=at == len(parts) - 1, rsv=0 if at else COMPRESSED)
                for at, part in enumerate(parts)
            ),
            hears=(text(LARGE[:3000]),),
        )
    yield answered("far apart", frame(TEXT, deflated(LARGE.encode()), rsv=COMPRESSED), hears=(text(LARGE),))
    many = [f"message {number} of many" for number in range(500)]
    yield answered(
        "many",
        *(frame(TEXT, deflated(one.encode()), rsv=COMPRESSED) for one in many),
        hears=tuple(text(one) for one in many),
    )


def broken() -> Iterator[Case]:
    for opcode in (PING, PONG, CLOSE):
        yield refused(f"compressed control frame {opcode} (§6.1)", frame(opcode, b"", rsv=COMPRESSED))
    yield refused(
        "marked continuation (§6.1)",
        frame(TEXT, deflated(b"Hello"), fin=False, rsv=COMPRESSED),
        frame(CONTINUATION, b"\0", rsv=COMPRESSED),
    )
    yield refused(
        "marked continuation of a plain message",
        frame(TEXT, b"Hello", fin=False),
        frame(CONTINUATION, deflated(b"Hello"), rsv=COMPRESSED),
    )
    for bits in (0b010, 0b001, 0b110, 0b101):
        yield refused(f"other bits {bits}", frame(TEXT, deflated(b"Hello"), rsv=bits))
    for opcode in (TEXT, BINARY):
        yield refused("not deflate", frame(opcode, b"\xff" * 20, rsv=COMPRESSED))
        yield refused("not deflate, and long", frame(opcode, b"\xff" * 5000, rsv=COMPRESSED))
    yield refused("not UTF-8", frame(TEXT, deflated(b"\xed\xa0\x80"), rsv=COMPRESSED), code=1007)


@pytest.mark.parametrize("way", WITH)
async def test_compressed_messages_are_understood(served: Site) -> None:
    assert await faults_of([*messages()], served.port, offer=FRESH) == []


@pytest.mark.parametrize("way", WITH)
async def test_broken_compressed_messages_are_refused(served: Site) -> None:
    assert await faults_of([*broken()], served.port, offer=FRESH) == []


@pytest.mark.parametrize("way", WAYS)
async def test_client_without_the_extension_hears_nothing_compressed(served: Site) -> None:
    async with raw_client(served.port) as client:
        await served.came(1)
        served.deliver(LARGE)
        assert await client.answer() == text(LARGE)
        await client.send(frame(TEXT, LARGE.encode()))
        assert await client.answer() == text(LARGE)


@pytest.mark.parametrize("way", WITH)
@pytest.mark.parametrize("seed", range(4))
async def test_any_messages_cut_anywhere_arrive_in_order(served: Site, seed: int) -> None:
    random = Random(seed)
    sends, wanted = b"", []
    for number in range(200):
        content = f"{number} {LARGE[: random.choice((0, 10, 100, 3000, 50_000))]}"
        data = content.encode()
        match random.choice(("plain", "compressed", "compressed", "fragments")):
            case "plain":
                sends += frame(TEXT, data, mask=random.randbytes(4))
            case "compressed":
                sends += frame(TEXT, deflated(data), rsv=COMPRESSED, mask=random.randbytes(4))
            case _:
                at = random.randrange(len(data))
                sends += frame(TEXT, data[:at], fin=False) + frame(PING) + frame(CONTINUATION, data[at:])
        wanted.append(text(content))
    async with raw_client(served.port, offer=FRESH) as client:
        reading = asyncio.create_task(client.answers(len(wanted) + sends.count(frame(PING))))
        while sends:
            size = random.choice((1, 2, 5, 50, 5000, 70_000))
            await client.send(sends[:size])
            sends = sends[size:]
            for _ in range(random.randrange(3)):
                await asyncio.sleep(0)
        assert [answer for answer in await reading if answer.kind != "pong"] == wanted

"""S18 and S19 on whole servers: many tiny fragments, and a little that becomes much."""

from __future__ import annotations

import zlib

from tests.attacks.attacker import json_frame, json_of, socket_of, until_closed
from tests.attacks.credentials import cookie
from tests.attacks.target import Target
from tests.transports.raw_client import CONTINUATION, TEXT, close, frame

MIB = 1024 * 1024
RSV1 = 4
HELD_BYTES = 32 * MIB
"""Twice what a plain uvicorn takes of one message (16 MiB): the bound where the server reads the bytes."""


async def lives(site: Target) -> None:
    async with socket_of(site.port, cookie=cookie("alice"), v1=True) as honest:
        await honest.send(json_frame({"type": "ping", "ref": 1}))
        assert json_of(await honest.answer()) == {"type": "pong", "ref": 1}


async def test_fragments_of_one_byte_end_at_the_limit_when_there_are_70_000(site: Target, figures: list[str]) -> None:
    await lives(site)
    before = site.memory_bytes
    async with socket_of(site.port, cookie=cookie("eve"), v1=True) as eve:
        await eve.send(frame(TEXT, b"x", fin=False) + frame(CONTINUATION, b"x", fin=False) * 69_998)
        await eve.send(frame(CONTINUATION, b"x"))
        assert close(1009) in await until_closed(eve)
    await lives(site)
    grown = site.memory_bytes - before
    figures.append(f"S18 {site.way}: 70,000 fragments of one byte: 1009, {grown / MIB:+.1f} MiB")
    assert grown < (HELD_BYTES if site.way == "asgi" else 4 * MIB)


async def test_a_bomb_ends_its_connection_when_it_unfolds(site: Target, figures: list[str]) -> None:
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = deflate.compress(b'{"type":"' + b"0" * 15 * MIB + b'"}') + deflate.flush(zlib.Z_SYNC_FLUSH)
    before = site.memory_bytes
    offer = "Sec-WebSocket-Extensions: permessage-deflate"
    async with socket_of(site.port, cookie=cookie("eve"), v1=True, headers=[offer]) as eve:
        is_agreed = "permessage-deflate" in (eve.field("sec-websocket-extensions") or "")
        await eve.send(frame(TEXT, bomb.removesuffix(b"\0\0\xff\xff"), rsv=RSV1))
        # Where it was not agreed on, the bit that says "compressed" means nothing.
        assert close(1009 if is_agreed else 1002) in await until_closed(eve)
    await lives(site)
    grown = site.memory_bytes - before
    agreed = "agreed on" if is_agreed else "not agreed on"
    figures.append(
        f"S19 {site.way}: {len(bomb) // 1024} kB that become 15 MiB, compression {agreed}: {grown / MIB:+.1f} MiB"
    )
    assert grown < HELD_BYTES

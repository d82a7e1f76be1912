"""The raw client reads what RFC 6455 says, however it is cut."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import pytest

from tests.replicas.client import ABNORMAL, Refused, connect
from tests.replicas.recorder import Key, Listener

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


class Script:
    """A server that sends `chunks`, then keeps what it hears."""

    def __init__(self, *chunks: bytes, stay: bool = True) -> None:
        self.chunks = chunks
        self.stay = stay
        self.heard = b""
        self.request = b""
        self.done = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.request = await reader.readuntil(b"\r\n\r\n")
        for chunk in self.chunks:
            writer.write(chunk)
            await writer.drain()
            await asyncio.sleep(0.001)
        if self.stay:
            with contextlib.suppress(OSError):
                while data := await reader.read(1024):
                    self.heard += data
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.done.set()


@contextlib.asynccontextmanager
async def serving(script: Script) -> AsyncIterator[int]:
    listening = await asyncio.start_server(script, "127.0.0.1", 0)
    yield listening.sockets[0].getsockname()[1]
    listening.close()
    async with asyncio.timeout(20.0):
        await script.done.wait()


def text(payload: bytes) -> bytes:
    if len(payload) < 126:
        return bytes([0x81, len(payload)]) + payload
    if len(payload) < 1 << 16:
        return struct.pack("!BBH", 0x81, 126, len(payload)) + payload
    return struct.pack("!BBQ", 0x81, 127, len(payload)) + payload


async def test_messages_are_recorded_when_frames_are_cut_anywhere() -> None:
    frames = text(b'{"pub": "R1", "topic": "t", "seq": 1}') + text(b'{"pub": "R1", "topic": null, "seq": 2}')
    frames += text(b'{"padding": "%s"}' % (b"x" * 300)) + text(b'{"padding": "%s"}' % (b"x" * 70_000)) + text(b'"end"')
    stream = SWITCH + frames
    script = Script(*(stream[at : at + 1] for at in range(400)), stream[400:])
    async with serving(script) as port:
        listener = Listener("c", "R1", frozenset({"b", "a"}), user_id="ann")
        client = await connect(listener, port)
        assert await client.expect(lambda message: message == "end") == "end"
        assert [receipt.key for receipt in listener.receipts] == [Key("R1", "t", 1), Key("R1", None, 2)]
        assert [len(str(message)) for message in client.others] == [315, 70_015, 3]
        client.abort()
        assert await client.closed == ABNORMAL
    assert script.request.startswith(b"GET /ws?topics=a%2Cb&user_id=ann HTTP/1.1\r\n")


async def test_ping_is_answered_and_close_is_returned() -> None:
    script = Script(SWITCH + b"\x89\x02hi" + b"\x88\x02\x0f\xa1")
    async with serving(script) as port:
        client = await connect(Listener("c", "R1", frozenset()), port)
        assert await client.closed == 4001
    assert script.heard == b"\x8a\x82\0\0\0\0hi" + b"\x88\x82\0\0\0\0\x0f\xa1"
    assert client.listener.until < float("inf")


async def test_end_is_abnormal_when_no_close_frame_came() -> None:
    async with serving(Script(SWITCH, stay=False)) as port:
        client = await connect(Listener("c", "R1", frozenset()), port)
        assert await client.closed == ABNORMAL


async def test_connect_raises_when_the_server_refuses() -> None:
    async with serving(Script(b"HTTP/1.1 403 Forbidden\r\n\r\n")) as port:
        with pytest.raises(Refused, match="403"):
            await connect(Listener("c", "R1", frozenset()), port)

"""Raw WebSocket clients, many to a process: as little between the socket and the recorder as RFC 6455 allows."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlencode

from tests.replicas.recorder import Key, Listener, Receipt

__all__ = ["Client", "Refused", "connect", "frame"]

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
ABNORMAL = 1006
NO_STATUS = 1005


class Refused(Exception):
    """The server did not answer with 101."""


def frame(opcode: int, payload: bytes) -> bytes:
    """One masked client frame; the mask is zero, which is a mask like any other."""
    size = len(payload)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload


class Client(asyncio.Protocol):
    """One client. `listener` gets a receipt for every message of a stream; everything else goes to `others`."""

    def __init__(self, listener: Listener, request: bytes) -> None:
        self.listener = listener
        self.others: list[object] = []
        self.pings = 0
        """Those of the server, all of them answered."""
        self.close_code: int | None = None
        self.closed_at: float | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self.closed: asyncio.Future[int] = loop.create_future()
        self._request = request
        self._buffer = bytearray()
        self._upgraded = False
        self._transport: asyncio.Transport | None = None
        self._said_close = False
        self._wakers: list[tuple[Callable[[object], bool], asyncio.Future[object]]] = []

    # what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._upgraded:
            head, separator, rest = bytes(self._buffer).partition(b"\r\n\r\n")
            if not separator:
                return
            if not head.startswith(b"HTTP/1.1 101"):
                self._refuse(head.partition(b"\r\n")[0].decode("latin-1"))
                return
            self._upgraded = True
            self._buffer = bytearray(rest)
            self.listener.since = time.monotonic()
            if not self.opened.done():
                self.opened.set_result(None)
        self._read_frames()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed_at = self.listener.until = min(self.listener.until, time.monotonic())
        if self.close_code is None:
            self.close_code = ABNORMAL
        if not self.opened.done():
            self.opened.set_exception(Refused(f"{self.listener.name}: the connection ended during the handshake"))
        if not self.closed.done():
            self.closed.set_result(self.close_code)

    # what tests call

    def send_json(self, message: object) -> None:
        """Send one text frame."""
        assert self._transport is not None
        self._transport.write(frame(TEXT, json.dumps(message).encode()))

    async def expect(self, wanted: Callable[[object], bool], *, timeout_s: float = 20.0) -> object:
        """Wait for a message outside the streams for which `wanted` holds, unless it is there already."""
        for message in self.others:
            if wanted(message):
                return message
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._wakers.append((wanted, future))
        async with asyncio.timeout(timeout_s):
            return await future

    async def close(self, code: int = 1000) -> None:
        """Say goodbye and wait for the end; after 5 s the connection is aborted."""
        if self._transport is None or self.closed.done():
            return
        self.listener.until = min(self.listener.until, time.monotonic())
        if not self._said_close:
            self._said_close = True
            self._transport.write(frame(CLOSE, struct.pack("!H", code)))
        try:
            async with asyncio.timeout(5.0):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self._transport.abort()
            await self.closed

    def abort(self) -> None:
        """Reset the connection, as a client that vanishes does."""
        assert self._transport is not None
        self.listener.until = min(self.listener.until, time.monotonic())
        self._transport.abort()

    # frames

    def _refuse(self, status: str) -> None:
        assert self._transport is not None
        if not self.opened.done():
            self.opened.set_exception(Refused(f"{self.listener.name}: {status}"))
        self._transport.abort()

    def _read_frames(self) -> None:
        now = time.monotonic()
        buffer = self._buffer
        at = 0
        while len(buffer) - at >= 2:
            first, size = buffer[at], buffer[at + 1] & 0x7F
            start = at + 2
            if size == 126:
                if len(buffer) < start + 2:
                    break
                (size,) = struct.unpack_from("!H", buffer, start)
                start += 2
            elif size == 127:
                if len(buffer) < start + 8:
                    break
                (size,) = struct.unpack_from("!Q", buffer, start)
                start += 8
            if len(buffer) < start + size:
                break
            if first & 0xF0 != 0x80:
                raise AssertionError(f"{self.listener.name}: a fragmented or marked frame, first byte {first:#x}")
            self._take(first & 0x0F, bytes(buffer[start : start + size]), now)
            at = start + size
        del buffer[:at]

    def _take(self, opcode: int, payload: bytes, now: float) -> None:
        assert self._transport is not None
        if opcode == TEXT:
            self._message(json.loads(payload), now)
        elif opcode == PING:
            self.pings += 1
            self._transport.write(frame(PONG, payload))
        elif opcode == CLOSE:
            self.close_code = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else NO_STATUS
            if not self._said_close:
                self._said_close = True
                self._transport.write(frame(CLOSE, payload[:2]))
            self._transport.close()

    def _message(self, message: object, now: float) -> None:
        match message:
            case {"pub": str(publisher), "topic": str() | None as topic, "seq": int(sequence)}:
                self.listener.receipts.append(Receipt(Key(publisher, topic, sequence), now))
            case _:
                self.others.append(message)
                for waker in [waker for waker in self._wakers if waker[0](message)]:
                    self._wakers.remove(waker)
                    if not waker[1].done():
                        waker[1].set_result(message)


async def connect(
    listener: Listener,
    port: int,
    *,
    path: str = "/ws",
    headers: Iterable[tuple[str, str]] = (),
    timeout_s: float = 20.0,
) -> Client:
    """Open one client as `listener` describes it; returns when the server has accepted and registered it."""
    query = {"topics": ",".join(sorted(listener.topics))}
    if listener.user_id is not None:
        query["user_id"] = listener.user_id
    lines = [
        f"GET {path}?{urlencode(query)} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *(f"{name}: {value}" for name, value in headers),
    ]
    request = "\r\n".join([*lines, "", ""]).encode()
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(timeout_s):
        _, client = await loop.create_connection(lambda: Client(listener, request), "127.0.0.1", port)
        try:
            await client.opened
        except BaseException:
            client.abort()
            await client.closed
            raise
    return client

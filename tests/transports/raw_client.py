"""A WebSocket client below every rule: it sends any bytes at all, and holds each byte that comes back to RFC 6455."""

from __future__ import annotations

import asyncio
import socket
import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from tests.transports.servers import HANDSHAKE, WAIT_S

__all__ = [
    "Answer",
    "RawClient",
    "binary",
    "close",
    "close_frame",
    "connected",
    "frame",
    "pong",
    "raw_client",
    "text",
    "unconnected_client",
]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NO_STATUS = 1005
MASK = b"\x37\xfa\x21\x3d"
"""The masking key of the example in RFC 6455 §5.7."""


class Answer(NamedTuple):
    """One message or control frame from the server."""

    kind: str
    content: str | bytes | int

    def __repr__(self) -> str:
        content = repr(self.content)
        return f"{self.kind} {content if len(content) < 80 else f'{content[:60]}… ({len(content)} characters)'}"


def text(content: str) -> Answer:
    return Answer("text", content)


def binary(content: bytes) -> Answer:
    return Answer("binary", content)


def pong(content: bytes = b"") -> Answer:
    return Answer("pong", content)


def close(code: int) -> Answer:
    return Answer("close", code)


def frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0, mask: bytes | None = MASK) -> bytes:
    """One frame of a client. Nothing is checked: reserved bits and opcodes, long control frames, no mask at all."""
    size = len(payload)
    first, masked = fin << 7 | rsv << 4 | opcode, 0 if mask is None else 0x80
    if size < 126:
        head = struct.pack("!BB", first, masked | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", first, masked | 126, size)
    else:
        head = struct.pack("!BBQ", first, masked | 127, size)
    if mask is None:
        return head + payload
    return head + mask + _masked(payload, mask)


def _masked(payload: bytes, mask: bytes) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def close_frame(code: int, reason: bytes = b"") -> bytes:
    return frame(CLOSE, struct.pack("!H", code) + reason)


class RawClient:
    """One connection after its handshake, or after the refusal of it. It can be read when it can be written no more."""

    def __init__(self, client: socket.socket) -> None:
        self.status = 0
        self.ended = ""
        """How the connection ended: "closed" or "reset"."""
        self._socket = client
        self._fields = ""
        self._received = bytearray()
        self._window_bits = 0

    async def shake_hands(self, request: bytes) -> None:
        """Send the request, and read the server's answer to it."""
        await self.send(request)
        while b"\r\n\r\n" not in self._received:
            await self._read_some()
        head, _, rest = bytes(self._received).partition(b"\r\n\r\n")
        self._received = bytearray(rest)
        status_line, _, self._fields = head.decode("latin-1").partition("\r\n")
        self.status = int(status_line.split()[1])
        for parameter in (self.field("sec-websocket-extensions") or "").split(";"):
            name, _, value = parameter.strip().partition("=")
            if name == "permessage-deflate":
                self._window_bits = 15
            elif name == "server_max_window_bits":
                self._window_bits = int(value)

    def pairs(self) -> list[tuple[str, str]]:
        """The header fields of the server's answer, their names in lower case."""
        lines = (line.partition(":") for line in self._fields.split("\r\n") if line)
        return [(name.lower(), value.strip()) for name, _, value in lines]

    def field(self, name: str) -> str | None:
        """The value of a header field that must not be there twice."""
        values = [value for key, value in self.pairs() if key == name]
        assert len(values) <= 1, values
        return values[0] if values else None

    async def send(self, data: bytes) -> bool:
        """Returns when the operating system has it; False when the server has closed the connection."""
        try:
            async with asyncio.timeout(WAIT_S):
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except ConnectionError:
            return False
        return True

    async def end(self) -> None:
        """Send nothing more, and go on reading."""
        self._socket.shutdown(socket.SHUT_WR)

    async def answer(self, *, limit_s: float = WAIT_S) -> Answer | None:
        """The next message or control frame, None at the end of the connection."""
        try:
            async with asyncio.timeout(limit_s):
                return await self._answer()
        except EOFError:
            self.ended = "closed"
        except ConnectionError:
            self.ended = "reset"
        assert not self._received, f"the connection ended within a frame: {bytes(self._received)!r}"
        return None

    async def answers(self, number: int | None = None) -> list[Answer]:
        """So many, or all that is still to come until the server has closed the connection."""
        answers: list[Answer] = []
        while number is None or len(answers) < number:
            answer = await self.answer()
            if answer is None:
                break
            # A pong may follow a close frame (§5.5.2), data must not (§5.5.1).
            is_late = any(earlier.kind == "close" for earlier in answers)
            assert answer.kind == "pong" or not is_late, f"{answer} came after the close frame"
            answers.append(answer)
        return answers

    async def _read_some(self) -> None:
        data = await asyncio.get_running_loop().sock_recv(self._socket, 1 << 20)
        if not data:
            raise EOFError
        self._received += data

    async def _take(self, size: int) -> bytes:
        while len(self._received) < size:
            await self._read_some()
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    async def _answer(self) -> Answer:
        first, second = await self._take(2)
        opcode, size = first & 0x0F, second & 0x7F
        assert first & 0x80, "no server of ours sends fragments"
        assert not second & 0x80, "a server masks nothing (§5.1)"
        if size == 126:
            (size,) = struct.unpack("!H", await self._take(2))
            assert size > 125, "a longer length than needed (§5.2)"
        elif size == 127:
            (size,) = struct.unpack("!Q", await self._take(8))
            assert size > 0xFFFF, "a longer length than needed (§5.2)"
        payload = await self._take(size)
        marks = first & 0x70
        if marks == 0x40:
            assert self._window_bits, "compressed, without the extension (§5.2)"
            assert opcode in (TEXT, BINARY), "a compressed control frame (RFC 7692 §6.1)"
            # A new decompressor for each message, with no larger window than agreed upon.
            inflate = zlib.decompressobj(wbits=-self._window_bits)
            payload = inflate.decompress(payload + b"\0\0\xff\xff") + inflate.flush()
        else:
            assert not marks, "a reserved bit (§5.2)"
        return _answer_of(opcode, payload)


def _answer_of(opcode: int, payload: bytes) -> Answer:
    if opcode == TEXT:
        return text(payload.decode())
    if opcode == BINARY:
        return binary(payload)
    assert len(payload) <= 125, "a long control frame (§5.5)"
    if opcode in (PING, PONG):
        return Answer("ping" if opcode == PING else "pong", payload)
    assert opcode == CLOSE, f"opcode {opcode}"
    assert len(payload) != 1, "half a close code (§5.5.1)"
    payload[2:].decode()
    return close(struct.unpack("!H", payload[:2])[0] if payload else NO_STATUS)


@asynccontextmanager
async def raw_client(
    port: int, *, offer: str | None = None, request: bytes = HANDSHAKE, path: str = "/"
) -> AsyncIterator[RawClient]:
    """A client whose handshake the server has answered, whatever it said. `offer` is its Sec-WebSocket-Extensions."""
    async with unconnected_client(port) as client:
        request = request.replace(b"GET / ", f"GET {path} ".encode(), 1)
        if offer is not None:
            request = request[:-2] + f"Sec-WebSocket-Extensions: {offer}\r\n\r\n".encode()
        async with asyncio.timeout(WAIT_S):
            await client.shake_hands(request)
        yield client


@asynccontextmanager
async def unconnected_client(port: int) -> AsyncIterator[RawClient]:
    """A client that has said nothing yet."""
    async with connected(port) as client:
        yield RawClient(client)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[socket.socket]:
    """A socket that is connected to a server."""
    with socket.socket() as client:
        client.setblocking(False)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        async with asyncio.timeout(WAIT_S):
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
        yield client

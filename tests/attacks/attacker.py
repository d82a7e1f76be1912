"""Requests of browsers, programs and of people who mean harm, and what the server says to them."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from tests.transports.raw_client import TEXT, Answer, RawClient, close_frame, connected, frame, text
from tests.transports.servers import HANDSHAKE, WAIT_S

__all__ = [
    "HOST",
    "Client",
    "Reply",
    "ask",
    "handshake",
    "handshaken",
    "json_frame",
    "json_of",
    "new_topic",
    "opened",
    "socket_of",
    "subscribe",
    "until_closed",
]

HOST = "site.example"
SERVERS_PING = text('{"type":"ping"}')
_numbers = itertools.count(1)


def new_topic(kind: str = "public") -> str:
    """A topic that nobody has ever asked for."""
    return f"{kind}:{next(_numbers)}"


def handshake(
    path: str,
    *,
    host: str = HOST,
    origins: Sequence[str] = (f"https://{HOST}",),
    cookie: str | None = None,
    headers: Sequence[str] = (),
    v1: bool = False,
) -> bytes:
    """The head of a WebSocket handshake. `cookie` is the session's."""
    lines = [f"GET {path} HTTP/1.1", f"Host: {host}"]
    lines += [f"Origin: {origin}" for origin in origins]
    if cookie is not None:
        lines.append(f"Cookie: session={cookie}")
    if v1:
        lines.append("Sec-WebSocket-Protocol: antiphon.v1")
    fixed = HANDSHAKE.decode().split("\r\n")[2:-2]
    return "\r\n".join([*lines, *headers, *fixed, "", ""]).encode()


class Reply(NamedTuple):
    """Everything that a server has sent until it closed the connection."""

    status: int
    head: str
    body: bytes


async def ask(port: int, request: bytes | str, *, limit_s: float = WAIT_S) -> Reply:
    """Send a request, and read to the end of the connection. A text is the method and the path of a plain request."""
    if isinstance(request, str):
        request = f"{request} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode()
    async with asyncio.timeout(limit_s):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(request)
            data = await reader.read()
        finally:
            writer.close()
    head, _, body = data.partition(b"\r\n\r\n")
    return Reply(int(head.split()[1]), head.decode("latin-1"), body)


class Client(RawClient):
    """A client that hears nothing of the server's own pings, which may come at any time."""

    async def answer(self, *, limit_s: float = WAIT_S) -> Answer | None:
        while True:
            answer = await super().answer(limit_s=limit_s)
            if answer is None or (answer != SERVERS_PING and answer.kind != "ping"):
                return answer


@asynccontextmanager
async def opened(port: int) -> AsyncIterator[Client]:
    """A connection on which nothing was said."""
    async with connected(port) as connection:
        yield Client(connection)


@asynccontextmanager
async def handshaken(port: int, request: bytes) -> AsyncIterator[Client]:
    """A client whose handshake was answered, whatever the server said."""
    async with opened(port) as client:
        async with asyncio.timeout(WAIT_S):
            await client.shake_hands(request)
        yield client


@asynccontextmanager
async def socket_of(
    port: int,
    path: str = "/site",
    *,
    cookie: str | None = None,
    origins: Sequence[str] = (f"https://{HOST}",),
    headers: Sequence[str] = (),
    v1: bool = False,
) -> AsyncIterator[Client]:
    """A client whose handshake was accepted; what follows may be a refusal all the same."""
    request = handshake(path, cookie=cookie, origins=origins, headers=headers, v1=v1)
    async with handshaken(port, request) as client:
        assert client.status == 101, client.status
        if v1 and cookie is not None:
            assert json_of(await client.answer())["type"] == "welcome"
        yield client


async def until_closed(client: RawClient) -> list[Answer]:
    """Everything up to the server's close frame, which is answered, and then the connection ends."""
    answers: list[Answer] = []
    while True:
        answer = await client.answer()
        if answer is None:
            return answers
        answers.append(answer)
        if answer.kind == "close":
            await client.send(close_frame(int(answer.content)))
            return answers + await client.answers()


def json_frame(content: object) -> bytes:
    return frame(TEXT, json.dumps(content).encode())


def subscribe(topic: str, *, ref: int = 1) -> bytes:
    return json_frame({"type": "subscribe", "topic": topic, "ref": ref})


def json_of(answer: Answer | None) -> dict[str, Any]:
    assert answer is not None, "the connection has ended"
    assert answer.kind == "text", answer
    found: dict[str, Any] = json.loads(str(answer.content))
    return found

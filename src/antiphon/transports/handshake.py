"""The handshake of RFC 6455 as nearly every client writes it, read and answered without a parser's detours.

What is read here is exactly what `websockets` would accept. Everything else, broken or merely unusual, is left to it:
`read_request` returns None, and the caller takes the long way.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from websockets.datastructures import Headers
from websockets.http11 import MAX_LINE_LENGTH, MAX_NUM_HEADERS
from websockets.utils import accept_key

__all__ = ["HandshakeRequest", "answer", "header_lines", "read_request"]

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9a-zA-Z]+"
_REQUEST = re.compile(rb"GET ([!-~]+) HTTP/1\.1\r\n((?:[-!#$%&'*+.^_`|~0-9a-z]+:[\t -~\x80-\xff]*\r\n)+)\r\n")
_PROTOCOLS = re.compile(_TOKEN + rb"(?:, ?" + _TOKEN + rb")*")
_KEY = re.compile(rb"[A-Za-z0-9+/]{22}==")
_CONNECTION = frozenset({b"upgrade", b"keep-alive, upgrade", b"keep-alive,upgrade"})
_USUAL = (
    b"accept-encoding accept-language authorization cache-control connection cookie host origin pragma "
    b"sec-websocket-extensions sec-websocket-key sec-websocket-protocol sec-websocket-version upgrade user-agent "
    b"x-forwarded-for x-forwarded-proto x-real-ip Upgrade upgrade websocket 13 no-cache"
).split()
_USUAL += [b"keep-alive, Upgrade", b"gzip, deflate, br, zstd", b"permessage-deflate; client_max_window_bits"]
_KEPT = {text: text for text in _USUAL}
"""One object for what stands in nearly every request: an application keeps the headers as long as its socket."""
_LEFT_TO_WEBSOCKETS = frozenset({b"content-length", b"transfer-encoding"})


class HandshakeRequest(NamedTuple):
    """What a client asked for."""

    target: str
    """The path and the query, as they were sent."""
    headers: list[tuple[bytes, bytes]]
    """Names in lower case."""
    accept: bytes
    """The value of `Sec-WebSocket-Accept` that answers it."""
    subprotocols: list[str]


def read_request(data: bytes, *, with_extensions: bool) -> HandshakeRequest | None:
    """Read a whole request for a handshake; None when it is not of the usual kind.

    `with_extensions` says that the server has extensions to agree on; what clients offer is ignored otherwise.
    """
    if len(data) > MAX_LINE_LENGTH:
        return None
    whole = _REQUEST.fullmatch(data)
    if whole is None:
        return None
    usual = _KEPT.get
    headers = []
    for line in whole[2][:-2].split(b"\r\n"):
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        headers.append((usual(name, name), usual(value, value)))
    found = dict(headers)
    if len(found) != len(headers) or len(headers) > MAX_NUM_HEADERS or not _LEFT_TO_WEBSOCKETS.isdisjoint(found):
        return None
    if (
        found.get(b"sec-websocket-version") != b"13"
        or found.get(b"upgrade", b"").lower() != b"websocket"
        or found.get(b"connection", b"").lower() not in _CONNECTION
        or (with_extensions and b"sec-websocket-extensions" in found)
    ):
        return None
    key = found.get(b"sec-websocket-key", b"")
    if _KEY.fullmatch(key) is None:
        return None
    subprotocols: list[str] = []
    offered = found.get(b"sec-websocket-protocol")
    if offered is not None:
        if _PROTOCOLS.fullmatch(offered) is None:
            return None
        subprotocols = [each.strip() for each in offered.decode("ascii").split(",")]
    return HandshakeRequest(whole[1].decode("ascii"), headers, accept_key(key.decode("ascii")).encode(), subprotocols)


def answer(accept: bytes, lines: bytes) -> bytes:
    """The response that opens the connection, with further header lines."""
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n"
        + lines
        + b"\r\n"
    )


def header_lines(headers: Iterable[tuple[bytes, bytes]], *, subprotocol: str | None = None) -> bytes:
    """Headers as they stand in a response. Raises what `websockets` raises for a value that would break out of it."""
    checked = Headers()
    for name, value in headers:
        checked[name.decode("latin-1").lower()] = value.decode("latin-1")
    if subprotocol:
        checked["Sec-WebSocket-Protocol"] = subprotocol
    return checked.serialize().removesuffix(b"\r\n")

"""Handshakes and plain requests without a server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.websockets import WebSocket

Headers = Mapping[str, str] | Sequence[tuple[str, str]]
Event = MutableMapping[str, Any]


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in pairs]


class Handshake:
    """A client that asks for a WebSocket, and what it gets."""

    def __init__(
        self,
        headers: Headers = (),
        *,
        query: str = "",
        client: tuple[str, int] | None = ("203.0.113.9", 4711),
        subprotocols: Sequence[str] = (),
        extensions: Sequence[str] = (),
    ) -> None:
        self.events: list[Event] = []
        """What the server's side sent."""
        self._incoming: asyncio.Queue[Event] = asyncio.Queue()
        self._incoming.put_nowait({"type": "websocket.connect"})
        scope: Event = {
            "type": "websocket",
            "path": "/ws",
            "headers": _raw(headers),
            "query_string": query.encode(),
            "client": client,
            "subprotocols": list(subprotocols),
            "extensions": {name: {} for name in extensions},
        }
        self.websocket = WebSocket(scope, self._incoming.get, self._send)

    async def _send(self, event: Event) -> None:
        self.events.append(event)

    def says(self, text: str | None = None, *, binary: bytes | None = None) -> None:
        """Send a message."""
        self._incoming.put_nowait({"type": "websocket.receive", "text": text, "bytes": binary})

    def leaves(self, code: int = 1001) -> None:
        """Close the connection."""
        self._incoming.put_nowait({"type": "websocket.disconnect", "code": code, "reason": ""})

    @property
    def is_accepted(self) -> bool:
        return any(event["type"] == "websocket.accept" for event in self.events)


def request(headers: Headers = (), *, method: str = "GET", client: tuple[str, int] | None = None) -> Request:
    """A plain request."""
    return Request(
        {
            "type": "http",
            "method": method,
            "path": "/",
            "headers": _raw(headers),
            "query_string": b"",
            "client": client,
        }
    )

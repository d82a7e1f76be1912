"""What the connections of one uvicorn have in common, and what one has while its handshake lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, Protocol

from websockets.extensions import Extension
from websockets.extensions.base import ServerExtensionFactory
from websockets.server import ServerProtocol

from antiphon.transports.handshake import HandshakeRequest, header_lines
from antiphon.transports.inbox import Writable
from antiphon.transports.keepalive import Keepalive
from antiphon.transports.parsers import Parsers

__all__ = ["Common", "Pending", "common_to", "known_addresses"]

_HTTPTOOLS = "uvicorn.protocols.http.httptools_impl"
_NO_SCOPE: Any = {"type": "websocket", "path": "", "query_string": b"", "client": None}


class Offering(Protocol):
    """A kind of connections."""

    @classmethod
    def offers(cls) -> Sequence[ServerExtensionFactory] | None:
        """The extensions that clients may have."""
        ...


class Common:
    """What the connections of one server have in common, which includes most attributes of one that is at rest."""

    client = None
    close_sent = False
    close_timer = None
    close_timeout = 10.0
    curr_msg_data_type = "bytes"
    disconnected = False
    extensions: Sequence[Extension] = ()
    frames: Sequence[bytes] = ()
    handshake_complete = True
    initial_response = None
    scope = _NO_SCOPE
    pending_ping_payload = None
    writable = Writable()
    """Never cleared: a connection that is paused has one of its own."""

    def __init__(
        self,
        kind: type[Offering],
        config: Any,
        server_state: Any,
        app_state: dict[str, Any],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        if not config.loaded:
            config.load()
        self.key = (kind, config, id(app_state), loop)
        self.loop = loop
        self.config = config
        self.app_state = app_state
        self.logger = logging.getLogger("uvicorn.error")
        self.connections = server_state.connections
        self.tasks = server_state.tasks
        self.forget_task = server_state.tasks.discard
        self.root_path = config.root_path
        self.asgi_version = config.asgi_version
        # The same object in every scope; an application that wants another one makes a new scope.
        self.asgi = {"version": config.asgi_version, "spec_version": "2.4"}
        self.nothing: dict[str, object] = {}
        self.local_address: tuple[str, int | None] | None = None
        self.limit_bytes = config.ws_max_size
        self.inbox_messages = config.ws_max_queue
        self.debug = self.logger.isEnabledFor(logging.DEBUG)
        self.offers = kind.offers()
        self.parsers = Parsers(logger=self.logger)
        self.keepalive = Keepalive(loop, interval_s=config.ws_ping_interval, timeout_s=config.ws_ping_timeout)
        self.ping_timeout = config.ws_ping_timeout
        self._server_state = server_state
        self._headers: object = None
        self._header_lines = b""

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """What every response carries; uvicorn makes a new list each second."""
        headers: list[tuple[bytes, bytes]] = self._server_state.default_headers
        return headers

    def default_header_lines(self) -> bytes:
        """The same as they stand in a response."""
        headers = self.default_headers
        if headers is not self._headers:
            self._header_lines = header_lines(headers)
            self._headers = headers
        return self._header_lines

    def server_protocol(self, *, limit_bytes: int) -> ServerProtocol:
        """What takes a handshake that is out of the ordinary, and refuses one."""
        return ServerProtocol(extensions=self.offers, max_size=limit_bytes, logger=self.logger)


def common_to(
    kind: type[Offering],
    config: Any,
    server_state: Any,
    app_state: dict[str, Any],
    loop: asyncio.AbstractEventLoop,
) -> Common:
    known: object = vars(server_state).get("_antiphon")
    if isinstance(known, Common) and known.key == (kind, config, id(app_state), loop):
        return known
    common = Common(kind, config, server_state, app_state, loop)
    vars(server_state)["_antiphon"] = common  # lives as long as the server
    return common


class Pending:
    """A handshake that is not finished."""

    __slots__ = ("early", "request", "scheme", "server")

    def __init__(self) -> None:
        self.request: HandshakeRequest | None = None
        self.early = b""
        """What came after the request and before its answer."""
        self.server: tuple[str, int | None] | None = None
        self.scheme = "ws"


def known_addresses(transport: asyncio.BaseTransport) -> Any:
    """What the HTTP protocol has found out of the socket, which took it some system calls: server, client, scheme.

    None when it is not httptools'. That one is also freed: it and its parser refer to each other, and would stay until
    the garbage collector finds them.
    """
    try:
        http: Any = transport.get_protocol()
        if type(http).__module__ != _HTTPTOOLS or http.parser is None:
            return None
        known = http.server, http.client, "wss" if http.scheme == "https" else "ws"
    except (AttributeError, NotImplementedError):
        return None
    http.parser = None
    return known

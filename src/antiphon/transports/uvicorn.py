"""The WebSocket protocol class for `uvicorn --ws antiphon.transports.uvicorn:AntiphonProtocol`.

It is uvicorn's own sans-I/O protocol with a door, less what that keeps for each connection: handshakes of the usual
kind are read and answered here, whole messages are taken without a parser, and parsers and timers are shared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from uvicorn.logging import TRACE_LOG_LEVEL
from uvicorn.protocols.utils import (
    ClientDisconnected,
    get_client_addr,
    get_local_addr,
    get_path_with_query_string,
    get_remote_addr,
    is_ssl,
)
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.extensions.base import ServerExtensionFactory
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.protocol import Protocol

from antiphon.transports.base import Receiver
from antiphon.transports.door import EXTENSION, Door
from antiphon.transports.handshake import HandshakeRequest, answer, header_lines, read_request
from antiphon.transports.inbox import Inbox, Writable
from antiphon.transports.parsers import FIN_TEXT, is_between_messages, whole_message
from antiphon.transports.serverside import Common, Pending, common_to, known_addresses
from antiphon.transports.uvicorn_door import DoorProtocol
from antiphon.transports.uvicorn_known import check_uvicorn
from antiphon.transports.uvicorn_reading import TURN_FRAMES
from antiphon.wire.frames import DEFLATE_WINDOW_BITS, Frame

if TYPE_CHECKING:
    from uvicorn._types import ASGISendEvent
    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.extensions import Extension
    from websockets.frames import Frame as IncomingFrame
    from websockets.http11 import Request

__all__ = ["AntiphonProtocol", "DeflatingProtocol"]

check_uvicorn(WebSocketsSansIOProtocol)

INBOX_BYTES = 64 * 1024
"""Received and not yet taken by the application, before reading stops."""
_BAD_REQUEST = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class _Outlet:
    """Takes the place of the queue when nobody receives from it any more."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: AntiphonProtocol) -> None:
        self._protocol = protocol

    def put_nowait(self, item: Any) -> None:
        """Hand an event to the library, up to the first that says that the client has gone."""
        protocol = self._protocol
        receiver = protocol._reader
        if receiver is None or isinstance(receiver, Inbox):
            return
        if item["type"] == "websocket.disconnect":
            protocol._reader = None  # uvicorn says it once more when the connection is lost
        receiver(item)


class AntiphonProtocol(DoorProtocol):
    """The WebSocket protocol class for `uvicorn --ws antiphon.transports.uvicorn:AntiphonProtocol`.

    Compression is not offered, a stuck client is aborted, a connection is opened quickly and takes little memory.
    """

    # What is not set here is as `Common` has it. What is rare, or for the handshake alone, goes into the dictionary.
    # uvicorn's constructor is not called; `uvicorn_known` makes sure that it sets nothing else.
    __slots__ = (
        "_common",
        "_parser",
        "_pending",
        "_reader",
        "client",
        "close_sent",
        "close_timer",
        "curr_msg_data_type",
        "disconnected",
        "door",
        "extensions",
        "frames",
        "handshake_complete",
        "limit_bytes",
        "pending_ping_payload",
        "read_paused",
        "rest",
        "scope",
        "transport",
        "turn",
        "writable",
    )

    # uvicorn's types are narrower than what it uses of these.
    extensions: Sequence[Extension]
    scheme: Any
    scope: Any
    transport: Any
    writable: Any

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        loop = _loop or asyncio.get_running_loop()
        self._common = common_to(type(self), config, server_state, app_state, loop)
        self._parser: Protocol | None = None
        """Only while it is needed; see `conn`."""
        self._pending: Pending | None = Pending()
        self._reader: Inbox | Receiver | None = Inbox()
        """Who gets what the client sends: the application, or the library; None when it was told of the end."""
        self.handshake_complete = self.read_paused = False
        self.limit_bytes = self._common.limit_bytes
        self.rest = b""
        self.turn = None

    @classmethod
    def offers(cls) -> Sequence[ServerExtensionFactory] | None:
        """The extensions that clients may have."""
        return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._common, name)

    @property
    def conn(self) -> Any:  # type: ignore[override] # uvicorn has an attribute, which takes 1.3 KiB
        """websockets' parser: borrowed, or of one's own from the first call until `_give_back`."""
        parser = self._parser
        if parser is None:
            common = self._common
            if self.handshake_complete:
                parser = common.parsers.lend(self.extensions, limit_bytes=self.limit_bytes)
            else:
                parser = common.server_protocol(limit_bytes=self.limit_bytes)
                parser.accept_called = True
            self._parser = parser
        return parser

    def _give_back(self) -> None:
        parser = self._parser
        if parser is not None and is_between_messages(parser):
            self._parser = None
            self._common.parsers.take_back(parser)

    @property
    def queue(self) -> Any:  # type: ignore[override] # uvicorn has an attribute
        """Where uvicorn puts what the application, or the library, is to be told."""
        return self._reader if isinstance(self._reader, Inbox) else _Outlet(self)

    # -- the handshake -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The HTTP protocol hands the socket over."""
        common = self._common
        common.connections.add(self)
        self.transport = transport
        pending = self._pending
        assert pending is not None
        known = known_addresses(transport)
        if known is None:
            pending.server, self.client = get_local_addr(self.transport), get_remote_addr(self.transport)
            pending.scheme = "wss" if is_ssl(self.transport) else "ws"
        else:
            server, self.client, pending.scheme = known
            if server != common.local_address:
                common.local_address = server
            pending.server = common.local_address  # one object for many connections
        if common.logger.level <= TRACE_LOG_LEVEL:
            common.logger.log(TRACE_LOG_LEVEL, "%s - WebSocket connection made", self.client)
        self.door = Door(self.transport, owner=self)

    def _begin(self, data: bytes, pending: Pending) -> None:
        """The request has come."""
        common = self._common
        request = None if common.debug else read_request(data, with_extensions=bool(common.offers))
        if request is None:
            self.scheme, self.server = pending.scheme, pending.server
            self._pending = None
            self.conn.receive_data(data)
            self.handle_events()
            if self.conn.parser_exc is not None:
                self.handle_parser_exception()
            if self.conn.handshake_exc is not None and not self.transport.is_closing():
                self._refuse_request()
            return
        pending.request = request
        path, _, query = request.target.partition("?")
        root_path = common.root_path
        self.scope = {
            "type": "websocket",
            "asgi": common.asgi,
            "http_version": "1.1",
            "scheme": pending.scheme,
            "server": pending.server,
            "client": self.client,
            "root_path": root_path,
            "path": root_path + (unquote(path) if "%" in path else path),
            "raw_path": (root_path + path).encode("ascii"),
            "query_string": query.encode("ascii"),
            "headers": request.headers,
            "subprotocols": request.subprotocols,
            "state": common.app_state.copy(),
            "extensions": {"websocket.http.response": common.nothing, EXTENSION: {"door": self.door}},
        }
        self.queue.put_nowait({"type": "websocket.connect"})
        task = common.loop.create_task(self.run_asgi())
        common.tasks.add(task)
        task.add_done_callback(common.forget_task)

    def _refuse_request(self) -> None:
        """The parser could not read the request."""
        answer: bytes = b"".join(self.conn.data_to_send()) or _BAD_REQUEST
        self.handshake_complete = self.close_sent = True
        self.transport.write(answer)
        self.transport.close()

    def handle_connect(self, event: Request) -> None:
        """The request of a handshake that is out of the ordinary."""
        super().handle_connect(event)
        if not self.handshake_complete:
            self.scope["extensions"][EXTENSION] = {"door": self.door}

    async def _accept(self, message: Any, pending: Pending, request: HandshakeRequest) -> None:
        if self.disconnected:
            raise ClientDisconnected
        common = self._common
        if common.logger.isEnabledFor(logging.INFO):
            address, target = get_client_addr(self.scope), get_path_with_query_string(self.scope)
            common.logger.info('%s - "WebSocket %s" [accepted]', address, target)
        lines = common.default_header_lines()
        headers, subprotocol = message.get("headers"), message.get("subprotocol")
        if headers or subprotocol:
            lines += header_lines(headers or (), subprotocol=subprotocol)
        if self.transport.is_closing():
            return
        self.transport.write(answer(request.accept, lines))
        common.logger.info("connection open")
        self._pending = None
        self._is_accepted()
        self.start_keepalive()
        self.door.open()
        if pending.early:
            self.transport.resume_reading()
            self.data_received(pending.early)

    def _is_accepted(self) -> None:
        """Forget what only the handshake needed."""
        del self.handshake_complete
        del self.scope
        if self._common.logger.level > TRACE_LOG_LEVEL:
            del self.client

    async def _send_with_door(self, message: ASGISendEvent) -> None:
        was_complete = self.handshake_complete
        await super()._send_with_door(message)
        if message["type"] == "websocket.accept" and self.door.is_open and not was_complete:
            if self.conn.extensions:
                self.extensions = self.conn.extensions
            self._is_accepted()
            for name in ("request", "response", "scheme", "server"):
                self.__dict__.pop(name, None)
            self._give_back()

    # -- what the client sends -----------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """What the client sends, beginning with the request for the handshake."""
        if self._parser is None:
            pending = self._pending
            if pending is not None:
                if pending.request is None:
                    self._begin(data, pending)
                else:
                    pending.early += data
                    self.transport.pause_reading()
                return
            if not (self.rest or self.read_paused or self._common.debug):  # the usual case, in a few steps less
                at, taken = self._take_whole_messages(data, TURN_FRAMES)
                if at == len(data):
                    return
                data = data[at:]
                if taken == TURN_FRAMES:
                    self._leave_to_next_turn(data)
                    return
        super().data_received(data)

    def _take_some(self, data: bytes, left: int) -> tuple[bytes, int]:
        if self._parser is None and not self._common.debug:
            at, taken = self._take_whole_messages(data, left)
            if taken:
                return data[at:], taken
        result = super()._take_some(data, left)
        self._give_back()
        return result

    def _take_whole_messages(self, data: bytes, left: int) -> tuple[int, int]:
        """Take messages at the beginning that need no parser. Returns where the next frame begins, and how many."""
        limit_bytes = self.limit_bytes
        at, taken, size = 0, 0, len(data)
        while taken < left and size - at >= 6:
            found = whole_message(data, at, limit_bytes=limit_bytes)
            if found is None:
                break
            end, payload = found
            if data[at] == FIN_TEXT:
                try:
                    event: dict[str, Any] = {"type": "websocket.receive", "text": payload.decode()}
                except UnicodeDecodeError:
                    break
            else:
                event = {"type": "websocket.receive", "bytes": payload}
            at = end
            taken += 1
            self._receive(event, len(payload))
            if self._parser is not None or (self.read_paused and not self.disconnected):
                break
        return at, taken

    def _receive(self, event: Any, size: int) -> None:
        """Hand a message over, and stop reading only when much waits, not after each one."""
        reader = self._reader
        if isinstance(reader, Inbox):
            reader.put_nowait(event, size)
            most = min(INBOX_BYTES, self.limit_bytes)
            if reader.size_bytes > most or len(reader) >= self._common.inbox_messages:
                self.pause_reading()
        elif reader is not None:
            reader(event)

    def receive(self) -> Coroutine[Any, Any, Any]:
        """ASGI's `receive`."""
        reader = self._reader
        if not isinstance(reader, Inbox):
            raise RuntimeError("the library reads this socket since serve() returned: use its on_message")
        return reader.get(self)

    def limit_messages(self, limit_bytes: int | None) -> None:
        """From the next frame on, a larger message ends the connection with 1009. None: as the server was told."""
        allowed = self._common.limit_bytes
        self.limit_bytes = allowed if limit_bytes is None else min(limit_bytes, allowed)
        if self._parser is not None:
            self._parser.max_message_size = self.limit_bytes

    def adopt(self, receiver: Receiver) -> bool:
        """Go on when the application has returned; what arrives goes to `receiver`."""
        inbox = self._reader
        if not isinstance(inbox, Inbox) or self.disconnected or self.close_sent or not self.door.is_open:
            return False
        self._reader = receiver
        was_paused, self.read_paused = self.read_paused, False
        for item in inbox.take():
            self.queue.put_nowait(item)
        if was_paused and not self.read_paused:
            self.read_paused = True
            self.go_on_reading()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed after this."""
        super().connection_lost(exc)
        self._pending = self._parser = None

    def _take_the_rest(self) -> None:
        if self.read_paused and not isinstance(self._reader, Inbox):
            self.rest = b""  # the library takes nothing more of a client that has gone
        super()._take_the_rest()

    def _forget_unfinished(self) -> None:
        if self._parser is not None:
            super()._forget_unfinished()

    # -- what the application sends ------------------------------------------------------------------------------

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """ASGI's `send`. What the library was given for this socket alone, or before a close frame, leaves first."""
        if message["type"] == "websocket.send":
            self.door.others_write()
            return self._send_message(message)
        pending = self._pending
        if message["type"] == "websocket.accept" and pending is not None and pending.request:
            return self._accept(message, pending, pending.request)
        return self._send_with_door(message)

    async def _send_message(self, message: Any) -> None:
        await self.writable.wait()
        text = message.get("text")
        if (
            text is not None
            and message.get("bytes") is None
            and self.door.is_open
            and self._parser is None
            and not (self.extensions or self.disconnected or self._common.debug)
        ):
            self.transport.write(Frame(text.encode()).wire)
            return
        await WebSocketsSansIOProtocol.send(self, message)
        self._give_back()

    def pause_writing(self) -> None:
        """The event loop keeps bytes that the socket did not take."""
        if self.writable is Common.writable:
            self.writable = Writable()
        super().pause_writing()

    async def run_asgi(self) -> None:
        """Run the application; the connection outlives it when it was adopted."""
        logger = self._common.logger
        try:
            result = await self._common.config.loaded_app(self.scope, self.receive, self.send)
        except ClientDisconnected:
            pass
        except BaseException:
            logger.exception("Exception in ASGI application\n")
            self.send_500_response()
        else:
            if not (self.handshake_complete or self.close_sent):  # a refusal by a response is an answer too
                logger.error("The application returned without having accepted or refused the WebSocket.")
                self.send_500_response()
            elif result is not None:
                logger.error("An ASGI application returns None; this one returned %r.", result)
        if self.door.is_open and not isinstance(self._reader, Inbox):
            return
        self.end_soon()
        if self.close_timer is None:
            self.transport.close()

    # -- keep-alive ----------------------------------------------------------------------------------------------

    def start_keepalive(self) -> None:
        """One timer serves all connections."""
        self._common.keepalive.add(self)

    def stop_keepalive(self) -> None:
        """The connection is closing."""
        self._common.keepalive.discard(self)

    def ping(self, payload: bytes, frame: bytes) -> bool:
        """Write a ping."""
        if self.close_sent or self.transport.is_closing():
            return False
        self.pending_ping_payload = payload
        self.transport.write(frame)
        return True

    def _answered(self, event: IncomingFrame) -> None:
        self.pending_ping_payload = None
        self._common.keepalive.answered(self)


class DeflatingProtocol(AntiphonProtocol):
    """The same with permessage-deflate: a message is compressed once, however many clients get it.

    It saves bandwidth and costs the clients' and, for what they send, the server's time; `ws_max_size` bounds what
    their messages may inflate to.
    """

    @classmethod
    def offers(cls) -> Sequence[ServerExtensionFactory] | None:
        """No context lasts from message to message: it would cost 20 KiB, and shared messages would not fit into it."""
        return [
            ServerPerMessageDeflateFactory(
                server_no_context_takeover=True,
                client_no_context_takeover=True,
                server_max_window_bits=DEFLATE_WINDOW_BITS,
                client_max_window_bits=DEFLATE_WINDOW_BITS,
                compress_settings={"memLevel": 5},
            )
        ]

    async def _send_with_door(self, message: ASGISendEvent) -> None:
        await super()._send_with_door(message)
        for extension in self.extensions:
            if isinstance(extension, PerMessageDeflate):
                self.door.deflates = extension.local_max_window_bits >= DEFLATE_WINDOW_BITS

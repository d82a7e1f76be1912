"""The quick way to the sockets of uvicorn: what its WebSocket protocol object has to tell a door.

`uvicorn --ws antiphon.transports.uvicorn:AntiphonProtocol` takes the handshake, the incoming frames and the keep-alive
from uvicorn's own sans-I/O protocol, and leaves the writing of messages to the library.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import InvalidState
from websockets.extensions.permessage_deflate import PerMessageDeflate, ServerPerMessageDeflateFactory
from websockets.protocol import Protocol, Side

from antiphon.transports.base import Receiver
from antiphon.transports.door import EXTENSION, Door
from antiphon.wire.frames import DEFLATE_WINDOW_BITS

if TYPE_CHECKING:
    from uvicorn._types import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, ASGISendEvent, Scope
    from uvicorn.config import Config
    from uvicorn.server import ServerState
    from websockets.frames import Frame

__all__ = ["AntiphonProtocol", "DeflatingProtocol", "DoorProtocol", "open_door"]

END_S = 5.0
"""How long the last bytes of a connection that ends may take to leave."""
INBOX_BYTES = 64 * 1024
"""Received and not yet taken by the application, before reading stops."""
_REASON_BYTES = 123
_NO_ID = uuid.uuid4()
"""Instead of one for each connection, which nobody looks at."""
_NO_SCOPE: Any = {"type": "websocket", "path": "", "query_string": b"", "client": None}


class _Never:
    """A timer that never fires."""

    def cancel(self) -> None:
        return None


_NEVER: Any = _Never()


class DoorProtocol(WebSocketsSansIOProtocol):
    """uvicorn's own WebSocket protocol, which tells a door what happens to the socket."""

    door: Door

    def pause_writing(self) -> None:
        """The event loop keeps bytes that the socket did not take."""
        super().pause_writing()
        self.door.writing_paused()

    def resume_writing(self) -> None:
        """They are gone: what waits in the library goes first, then the application's own."""
        self.door.writing_resumed()
        if not self.door.paused:
            super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is closed after this."""
        self.door.lost()
        super().connection_lost(exc)

    def eof_received(self) -> None:
        """The client will say nothing more; the event loop closes the connection."""
        self.door.ending()

    def shutdown(self) -> None:
        """The server stops: close the socket, or abort it if the client does not read."""
        self.door.ending()
        super().shutdown()
        self.door.abort_after(END_S)

    def handle_close(self, event: Frame) -> None:
        """The client sent a close frame."""
        self.door.ending()
        super().handle_close(event)
        self.door.abort_after(END_S)

    def handle_parser_exception(self) -> None:
        """The client broke the protocol."""
        self.door.ending()
        super().handle_parser_exception()
        self.door.abort_after(END_S)

    def handle_ping(self) -> None:
        """Answered, unless the client does not read: then the answers would pile up."""
        if self.door.paused:
            self.conn.data_to_send()
        else:
            super().handle_ping()

    def keepalive_timeout(self) -> None:
        """The client did not answer a ping."""
        self.door.ending()
        super().keepalive_timeout()
        self.door.abort_after(END_S)

    def send(self, message: ASGISendEvent) -> Coroutine[Any, Any, None]:
        """ASGI's `send`. What the library was given for this socket alone, or before a close frame, leaves first."""
        if message["type"] == "websocket.send":
            self.door.others_write()
            return super().send(message)
        return self._send_with_door(message)

    async def _send_with_door(self, message: ASGISendEvent) -> None:
        door = self.door
        if door.is_open and message["type"] == "websocket.close":
            await self.writable.wait()
            door.ending()
        await super().send(message)
        if message["type"] == "websocket.accept" and self.handshake_complete and not self.transport.is_closing():
            door.open()

    def say_close(self, code: int, reason: str) -> None:
        """Begin the closing handshake without waiting for the socket; the application is told that the client went."""
        if self.close_sent or self.transport.is_closing():
            return
        reason = reason.encode("utf-8", "replace")[:_REASON_BYTES].decode("utf-8", "ignore")
        try:
            self.conn.send_close(code, reason)
        except InvalidState:
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.disconnected = True
        self.stop_keepalive()
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)

    async def run_app(self, app: Any, receive: Any, send: Any) -> None:
        """Run the application with the door in its scope. What the library was given leaves before its end."""
        self.scope["extensions"] = {**(self.scope["extensions"] or {}), EXTENSION: {"door": self.door}}
        try:
            await app(self.scope, receive, send)
        finally:
            if not isinstance(self.queue, _Outlet):
                self.door.ending()
                self.door.abort_after(END_S)


class _Outlet:
    """Takes the place of the queue when nobody receives from it any more."""

    __slots__ = ("_receiver", "size")

    def __init__(self, receiver: Receiver) -> None:
        self._receiver: Receiver | None = receiver
        self.size = 0

    def put_nowait(self, item: Any) -> None:
        self.size = 0
        receiver = self._receiver
        if receiver is None:
            return
        if item["type"] == "websocket.disconnect":
            self._receiver = None  # uvicorn says it once more when the connection is lost
        receiver(item)

    async def get(self) -> ASGIReceiveEvent:
        raise RuntimeError("the library reads this socket since serve() returned: use its on_message")

    def empty(self) -> bool:
        return True

    def __len__(self) -> int:
        return 0


class _Inbox:
    """What the client sent and the application has not received. An `asyncio.Queue` takes 2 KiB a connection."""

    __slots__ = ("_items", "_waiters", "size")

    def __init__(self) -> None:
        self._items: list[ASGIReceiveEvent] = []
        self._waiters: list[asyncio.Future[None]] = []
        self.size = 0
        """Bytes of the messages."""

    def put_nowait(self, item: ASGIReceiveEvent) -> None:
        self._items.append(item)
        self._wake_one()

    def _wake_one(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                break

    async def get(self) -> ASGIReceiveEvent:
        while not self._items:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            except BaseException:
                self._waiters.remove(waiter)
                if self._items:
                    self._wake_one()  # it was this one's turn
                raise
            self._waiters.remove(waiter)
        item = self._items.pop(0)
        if not self._items:
            self.size = 0
        return item

    def empty(self) -> bool:
        return not self._items

    def take(self) -> list[ASGIReceiveEvent]:
        """Everything, at once."""
        items, self._items = self._items, []
        return items

    def __len__(self) -> int:
        return len(self._items)


class _Writable:
    """Whether the socket takes bytes. An `asyncio.Event` takes 0.7 KiB a connection."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = True
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        self._is_set = False

    async def wait(self) -> None:
        while not self._is_set:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter


class AntiphonProtocol(DoorProtocol):
    """The WebSocket protocol class for `uvicorn --ws antiphon.transports.uvicorn:AntiphonProtocol`.

    Compression is not offered, a stuck client is aborted, and a connection takes little memory.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.conn.available_extensions = None
        self.queue = _Inbox()  # type: ignore[assignment] # has what uvicorn uses of a queue
        self.writable = _Writable()  # type: ignore[assignment] # has what uvicorn uses of an event
        self.app = self._app
        self._is_early = False
        """Something came after the request and before its answer."""

    def _app(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> Coroutine[Any, Any, None]:
        return self.run_app(self.config.loaded_app, receive, send)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The HTTP protocol hands the socket over."""
        super().connection_made(transport)
        self.door = Door(self.transport, say_close=self.say_close, adopt=self.adopt)

    def data_received(self, data: bytes) -> None:
        """What the client sends, beginning with the request for the handshake."""
        self._is_early = self.handshake_initiated
        super().data_received(data)

    def adopt(self, receiver: Receiver) -> bool:
        """Go on when the application has returned; what arrives goes to `receiver`."""
        inbox: Any = self.queue
        if not isinstance(inbox, _Inbox) or self.disconnected or self.close_sent or not self.door.is_open:
            return False
        outlet: Any = _Outlet(receiver)
        self.queue = outlet
        for item in inbox.take():
            outlet.put_nowait(item)
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        return True

    async def run_app(self, app: Any, receive: Any, send: Any) -> None:
        """Run the application; the connection outlives it when it was adopted."""
        try:
            await super().run_app(app, receive, send)
        finally:
            if isinstance(self.queue, _Outlet) and self.door.is_open and self.close_timer is None:
                # uvicorn closes the socket after the application unless a closing handshake is under way.
                self.close_timer = _NEVER
                self.loop.call_soon(self._outlive)

    def _outlive(self) -> None:
        if self.close_timer is _NEVER:
            self.close_timer = None
        for name in _OF_THE_APPLICATION:
            self.__dict__.pop(name, None)
        self._slim()

    def _slim(self) -> None:
        """Keep only the attributes that are not as the class has them: dictionaries never shrink by themselves."""
        self.__dict__ = {
            name: value for name, value in self.__dict__.items() if name not in _AT_REST or _AT_REST[name] is not value
        }

    async def _send_with_door(self, message: ASGISendEvent) -> None:
        await super()._send_with_door(message)
        if message["type"] == "websocket.accept" and self.door.is_open:
            self._forget_handshake()

    def _forget_handshake(self) -> None:
        """Drop 2.5 KiB a connection that only the handshake needed."""
        self.__dict__.pop("request", None)
        self.__dict__.pop("response", None)
        if not self._is_early:
            # The parser keeps the request for ever; a new one may begin, as no frame has begun.
            lean = Protocol(Side.SERVER, max_size=self.config.ws_max_size, logger=self.conn.logger)
            lean.extensions = self.conn.extensions
            lean.id = _NO_ID
            self.conn = lean  # type: ignore[assignment] # the handshake is over, the rest is what they share
        self._slim()

    def send_receive_event_to_app(self) -> None:
        """Queue a message for the application, and stop reading only when much waits, not after each one."""
        paused, self.read_paused = self.read_paused, True
        inbox: Any = self.queue
        inbox.size += sum(map(len, self.frames))
        super().send_receive_event_to_app()
        self.read_paused = paused
        if not paused and (inbox.size > INBOX_BYTES or len(inbox) >= self.config.ws_max_queue):
            self.read_paused = True
            self.transport.pause_reading()


_OF_THE_APPLICATION = ("app", "app_state", "asgi_version", "default_headers", "root_path", "scheme", "scope", "server")
_AT_REST: dict[str, object] = {
    "close_sent": False,
    "close_timer": None,
    "disconnected": False,
    "handshake_complete": True,
    "handshake_initiated": True,
    "initial_response": None,
    "pending_ping_payload": None,
    "pong_timer": None,
    "read_paused": False,
    "_is_early": False,
}
"""What the attributes of nearly every connection are once it is accepted."""
for _name, _value in {**_AT_REST, **dict.fromkeys(_OF_THE_APPLICATION), "scope": _NO_SCOPE}.items():
    setattr(AntiphonProtocol, _name, _value)


class DeflatingProtocol(AntiphonProtocol):
    """The same with permessage-deflate: a message is compressed once, however many clients get it.

    It saves bandwidth and costs the clients' and, for what they send, the server's time; `ws_max_size` bounds what
    their messages may inflate to.
    """

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # Without a context that lasts from message to message: it would cost 20 KiB a connection, and shared
        # messages would not fit into it.
        self.conn.available_extensions = [
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
        for extension in self.conn.extensions:
            if isinstance(extension, PerMessageDeflate):
                self.door.deflates = extension.local_max_window_bits >= DEFLATE_WINDOW_BITS


_NEEDED = (
    "close_sent",
    "close_timeout",
    "close_timer",
    "conn",
    "disconnected",
    "handshake_complete",
    "initial_response",
    "loop",
    "queue",
    "read_paused",
    "scope",
    "stop_keepalive",
    "transport",
    "writable",
)
_OVERRIDDEN = frozenset(name for name in vars(DoorProtocol) if not name.startswith("_")) - {"run_app", "say_close"}


def open_door(protocol: object, scope: object) -> DoorProtocol | None:
    """Give a stock uvicorn's protocol object a door, if it is exactly what this release knows; else do nothing."""
    if type(protocol) is not WebSocketsSansIOProtocol:
        return None
    if not all(hasattr(protocol, name) for name in _NEEDED) or protocol.scope is not scope:
        return None
    if not all(hasattr(WebSocketsSansIOProtocol, name) for name in _OVERRIDDEN):
        return None
    transport = protocol.transport
    if not all(hasattr(transport, name) for name in ("abort", "get_write_buffer_size", "set_write_buffer_limits")):
        return None
    if protocol.handshake_complete or transport.get_write_buffer_size():
        return None
    protocol.__class__ = DoorProtocol
    assert isinstance(protocol, DoorProtocol)
    protocol.door = Door(transport, say_close=protocol.say_close)
    return protocol

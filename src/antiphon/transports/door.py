"""A server's socket that lets the library write to it: its transport, its descriptor, and what happens to it."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import Callable
from typing import Protocol

from antiphon.transports.base import Receiver

__all__ = ["EXTENSION", "Door", "DoorOwner", "DoorUser", "descriptor_of"]

EXTENSION = "antiphon"
"""The key in the ASGI scope's `extensions` under which a server offers `{"door": Door}`."""

_KNOWN = ("asyncio.selector_events", "uvloop.loop")
"""Whose transports have nothing between them and the socket, unless it is TLS."""
UNSENT_BYTES = 256 * 1024
"""What the kernel takes for a client that does not read. Its own bound is several MiB, out of sight for the library."""
_LINGER_NOT = struct.pack("ii", 1, 0)


class DoorUser(Protocol):
    """Who writes through a door."""

    def writing_paused(self) -> None:
        """The socket takes no more: write nothing until `writing_resumed`."""
        ...

    def writing_resumed(self) -> None:
        """Everything that waited in the event loop has left: write what waits here, until `Door.paused`."""
        ...

    def others_write(self) -> None:
        """The application is about to write a message of its own."""
        ...

    def writing_ends(self, *, lost: bool) -> None:
        """Nothing can be written any more once this returns; when the socket is not lost, what is queued may go now."""
        ...


class DoorOwner(Protocol):
    """The protocol object behind a door."""

    def say_close(self, code: int, reason: str) -> None:
        """Write a close frame, behind everything that was written."""
        ...

    def adopt(self, receiver: Receiver) -> bool:
        """Go on without the application's coroutine; what arrives goes to `receiver`. False where it cannot."""
        ...

    def limit_messages(self, limit_bytes: int | None) -> None:
        """From the next frame on, a larger message ends the connection with 1009. None: as the server was told."""
        ...

    def pause_reading(self) -> None:
        """Take nothing more for now, not even of what was read already. Idempotent."""
        ...

    def go_on_reading(self) -> None:
        """Take what was left, and read on. Idempotent."""
        ...


class _Given:
    """Functions in the place of a protocol object."""

    __slots__ = ("_adopt", "go_on_reading", "pause_reading", "say_close")

    def __init__(
        self,
        say_close: Callable[[int, str], None],
        adopt: Callable[[Receiver], bool] | None,
        transport: asyncio.Transport,
    ) -> None:
        self.say_close = say_close
        self._adopt = adopt
        self.pause_reading = transport.pause_reading
        self.go_on_reading = transport.resume_reading

    def limit_messages(self, limit_bytes: int | None) -> None:
        """Nothing is limited here."""

    def adopt(self, receiver: Receiver) -> bool:
        return self._adopt is not None and self._adopt(receiver)


class Door:
    """One accepted WebSocket. Its protocol object tells what happens to it; any number of lanes may write through it.

    Everybody writes whole frames, either to `transport` or, while it is not `paused`, straight to the descriptor: then
    nothing waits in the event loop, and nothing can be overtaken or cut in two.
    """

    __slots__ = (
        "_deadline",
        "_is_lost",
        "_owner",
        "deflates",
        "descriptor",
        "is_open",
        "paused",
        "transport",
        "users",
    )

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        owner: DoorOwner | None = None,
        say_close: Callable[[int, str], None] | None = None,
        adopt: Callable[[Receiver], bool] | None = None,
    ) -> None:
        self.transport = transport
        if owner is None and say_close is not None:
            owner = _Given(say_close, adopt, transport)
        self._owner = owner
        self.descriptor = descriptor_of(transport)
        """The socket's descriptor, -1 where only the event loop may write (TLS)."""
        self.is_open = False
        """Whether frames may be written: from the server's acceptance until a close frame or the end."""
        self.deflates = False
        """Whether the client takes messages that were compressed once for all, each with a fresh context."""
        self.paused = False
        self.users: tuple[DoorUser, ...] = ()
        self._deadline: asyncio.TimerHandle | None = None
        self._is_lost = False

    # What the protocol object tells.

    def open(self) -> None:
        """The handshake is written. From now on the event loop says so whenever a single byte has to wait."""
        self.is_open = True
        # TLS transports pause at their limit, all others above it.
        self.transport.set_write_buffer_limits(high=0 if self.descriptor >= 0 else 1, low=0)
        _bound_unsent(self.transport)

    def writing_paused(self) -> None:
        """The event loop's `pause_writing`."""
        self.paused = True
        for user in self.users:
            user.writing_paused()

    def writing_resumed(self) -> None:
        """The event loop's `resume_writing`. `paused` may be true again afterwards: the users go first."""
        self.paused = False
        for user in self.users:
            user.writing_resumed()
            if self.paused:
                return

    def others_write(self) -> None:
        """The application is about to write a message of its own: what it sent to this socket before goes first."""
        for user in self.users:
            user.others_write()

    def ending(self) -> None:
        """A close frame or the end of the connection follows. Idempotent."""
        self._end(lost=False)

    def lost(self) -> None:
        """The event loop's `connection_lost`."""
        self._is_lost = True
        self._end(lost=True)
        self._owner = None  # it refers to the door too
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _end(self, *, lost: bool) -> None:
        if not self.is_open:
            return
        self.is_open = False
        users, self.users = self.users, ()
        for user in users:
            user.writing_ends(lost=lost)

    # What the users ask for.

    def write(self, data: bytes) -> bool:
        """Write through the event loop, which keeps what the socket does not take. False when something was kept."""
        try:
            self.transport.write(data)
        except RuntimeError:  # uvloop, when the handle is closed already; the descriptor may be another socket's
            self.transport.abort()
        return not self.paused

    def close(self, code: int, reason: str, *, limit_s: float) -> None:
        """Write a close frame behind everything; abort when it has not left after `limit_s`."""
        if not self.is_open:
            return
        self._end(lost=False)
        if self._owner is not None:
            self._owner.say_close(code, reason)
        self.abort_after(limit_s)

    def adopt(self, receiver: Receiver) -> bool:
        """Let the protocol object go on without the application. False, and nothing happens, where it cannot."""
        return self._owner is not None and self._owner.adopt(receiver)

    def limit_messages(self, limit_bytes: int | None) -> None:
        """Let a client's message have so many bytes from the next frame on, and no more than the server was told.

        One that is larger is not kept, and ends the connection with 1009. None: as the server was told. May be called
        before the handshake is answered.
        """
        if self._owner is not None:
            self._owner.limit_messages(limit_bytes)

    def pause_reading(self) -> None:
        """Take nothing more from the client for now, not even of what was read already. Idempotent."""
        if self._owner is not None:
            self._owner.pause_reading()

    def resume_reading(self) -> None:
        """Go on with what was left, and read on. Idempotent."""
        if self._owner is not None:
            self._owner.go_on_reading()

    def abort_after(self, limit_s: float) -> None:
        """Abort unless everything has left by then."""
        if self._deadline is None and not self._is_lost:
            self._deadline = asyncio.get_running_loop().call_later(limit_s, self._give_up)

    def _give_up(self) -> None:
        self._deadline = None
        if self.transport.get_write_buffer_size():
            self.abort()

    def abort(self) -> None:
        """End the connection at once and give back its memory, the kernel's as well: what has not left is lost.

        May be called while the transport is closing: its socket stays open until the loss of the connection is told.
        """
        if self.descriptor >= 0 and not self._is_lost:
            _linger_not(self.descriptor)
        self.transport.abort()


def descriptor_of(transport: asyncio.Transport) -> int:
    """The descriptor that frames may be written to directly, -1 when there is none."""
    if type(transport).__module__ not in _KNOWN:
        return -1
    if sys.platform == "win32" or transport.get_extra_info("sslcontext") or transport.get_extra_info("ssl_object"):
        return -1
    peer = transport.get_extra_info("socket")
    try:
        return -1 if peer is None else int(peer.fileno())
    except (AttributeError, OSError, TypeError, ValueError):
        return -1


def _bound_unsent(transport: asyncio.Transport) -> None:
    """Bound what waits in the kernel. What is under way to the client does not count, so no line is slowed down."""
    peer = transport.get_extra_info("socket")
    if peer is not None and hasattr(socket, "TCP_NOTSENT_LOWAT"):
        _set_option(peer.fileno(), socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)


def _linger_not(descriptor: int) -> None:
    """Let closing drop what the kernel holds for a client that does not read: it could stay there for minutes."""
    _set_option(descriptor, socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)


def _set_option(descriptor: int, level: int, option: int, value: int | bytes) -> None:
    """Set a socket's option, if it has it. uvloop's own socket objects cannot."""
    try:
        # Whatever kind it is: to find that out would take three system calls.
        handle = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, fileno=descriptor)
    except OSError:
        return
    try:
        handle.setsockopt(level, option, value)
    except OSError:
        pass
    finally:
        handle.detach()

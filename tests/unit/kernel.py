"""Sockets without a kernel: how much each takes is the test's to say, and descriptors are used again, lowest first."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from unittest import mock

from antiphon.transports import writing
from antiphon.transports.base import SendLimits
from antiphon.transports.door import Door
from antiphon.transports.sockets import SocketLane, SocketTransport

ROOMY = 1 << 30


class Kernel:
    """Stands in for `os.write`."""

    def __init__(self) -> None:
        self.sockets: dict[int, FakeTransport] = {}
        self.writes: list[tuple[int, int]] = []
        """Descriptor and bytes asked for, of each direct write."""

    def installed(self) -> AbstractContextManager[object]:
        return mock.patch.object(writing, "os", self)

    def write(self, descriptor: int, data: bytes) -> int:
        self.writes.append((descriptor, len(data)))
        assert descriptor in self.sockets, "written to a descriptor that is closed"
        peer = self.sockets[descriptor]
        assert not peer.buffer, "written past what waits in the event loop"
        if peer.broken:
            raise BrokenPipeError
        taken = peer.take(data)
        if not taken:
            raise BlockingIOError
        return taken

    def connect(
        self,
        lane: SocketLane,
        *,
        room: int = ROOMY,
        limits: SendLimits | None = None,
        on_lost: Callable[[str], None] | None = None,
        direct: bool = True,
    ) -> FakeTransport:
        """A new socket that takes `room` bytes before its client reads."""
        peer = FakeTransport(self, room=room)
        if direct:
            peer.door.descriptor = peer.descriptor
        peer.door.is_open = True
        peer.transport = SocketTransport(
            peer.door, lane=lane, on_lost=on_lost or peer.lost.append, limits=limits or SendLimits()
        )
        return peer


class FakeTransport(asyncio.Transport):
    """An event loop's transport over a socket of the fake kernel, and the client at its other end."""

    transport: SocketTransport

    def __init__(self, kernel: Kernel, *, room: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.descriptor = next(number for number in range(10_000) if number not in kernel.sockets)
        kernel.sockets[self.descriptor] = self
        self.room = room
        self.received = bytearray()
        self.buffer = bytearray()
        self.broken = False
        self.silent = False
        """Does not tell the door that something is kept."""
        self.aborted = False
        self.reads = True
        self.said: list[tuple[int, str]] = []
        self.lost: list[str] = []
        self.door = Door(self, say_close=self._say_close)

    def _say_close(self, code: int, reason: str) -> None:
        self.said.append((code, reason))
        self.write(b"\x88\x00")

    def take(self, data: bytes | bytearray) -> int:
        """The kernel takes as much as it has room for."""
        taken = min(self.room, len(data))
        self.received += data[:taken]
        self.room -= taken
        return taken

    def write(self, data: bytes | bytearray | memoryview) -> None:
        data = bytes(data)
        if self.aborted or self.broken:
            return
        taken = 0 if self.buffer else self.take(data)
        self.buffer += data[taken:]
        if self.buffer and not self.door.paused and not self.silent:
            self.door.writing_paused()

    def client_reads(self, size: int) -> None:
        """The client makes room, and the event loop sends what it kept."""
        self.room += size
        taken = self.take(self.buffer)
        del self.buffer[:taken]
        if not self.buffer and self.door.paused:
            self.door.writing_resumed()

    def disappear(self) -> None:
        """The connection is lost: its descriptor is free for another."""
        if self.kernel.sockets.get(self.descriptor) is self:
            self.door.lost()
            del self.kernel.sockets[self.descriptor]

    def is_reading(self) -> bool:
        return self.reads

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True

    def get_write_buffer_size(self) -> int:
        return len(self.buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        return None

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.buffer.clear()
            asyncio.get_running_loop().call_soon(self.disappear)


def frames_in(data: bytes | bytearray) -> tuple[list[bytes], bytes]:
    """The whole frames at the beginning, and what is left."""
    data = bytes(data)
    frames = []
    while len(data) >= 2:
        size, header = data[1], 2
        if size == 126:
            size, header = int.from_bytes(data[2:4], "big"), 4
        elif size == 127:
            size, header = int.from_bytes(data[2:10], "big"), 10
        if len(data) < header + size or (header == 4 and len(data) < 4):
            break
        frames.append(data[: header + size])
        data = data[header + size :]
    return frames, data

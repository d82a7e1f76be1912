"""Back-pressure for publishers: what a lane still has to hand over, and which sockets are worth waiting for."""

from __future__ import annotations

import asyncio
from typing import Protocol

__all__ = ["BYTES", "MESSAGES", "Pressure", "Waiting"]

MESSAGES = 64
"""Deliveries that may be under way before publishers wait: enough to be joined into few writes."""
BYTES = 4 * 1024 * 1024
"""The same in bytes of frames, each counted once however many sockets it goes to."""
POLL_S = 0.002


class Waiting(Protocol):
    """A socket with much of its queue in use."""

    def holds_publishers(self) -> bool:
        """Whether it drains so quickly that waiting for it is better than cutting it off."""
        ...


class Pressure:
    """Counts what a lane was given and has not handed over, and lets publishers wait until that is little."""

    __slots__ = ("_waiters", "bytes", "crowded", "messages")

    def __init__(self) -> None:
        self.messages = 0
        self.bytes = 0
        self.crowded: dict[Waiting, None] = {}
        """The sockets whose queues are more than half full."""
        self._waiters: set[asyncio.Future[None]] = set()

    def add(self, size_bytes: int) -> None:
        """One delivery of so many bytes was queued."""
        self.messages += 1
        self.bytes += size_bytes

    def done(self, messages: int, size_bytes: int) -> None:
        """So many deliveries were handed over to every socket."""
        self.messages -= messages
        self.bytes -= size_bytes
        if self._waiters and self.messages <= MESSAGES // 2 and self.bytes <= BYTES // 2:
            waiters, self._waiters = self._waiters, set()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def room(self) -> None:
        """Return at once while little is under way, else when it is; a socket that is stuck holds nobody for long."""
        while self.messages > MESSAGES or self.bytes > BYTES:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.add(waiter)
            try:
                await waiter
            finally:
                self._waiters.discard(waiter)
        while self.crowded and any(socket.holds_publishers() for socket in self.crowded):  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)

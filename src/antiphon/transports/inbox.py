"""What uvicorn keeps in an `asyncio.Queue` and an `asyncio.Event` for each connection, in a tenth of their memory."""

from __future__ import annotations

import asyncio
from typing import Any, Protocol

__all__ = ["Inbox", "Source", "Writable"]


class Source(Protocol):
    """Where an inbox is filled from."""

    def go_on_reading(self) -> None:
        """The inbox is empty. Idempotent."""
        ...


class Inbox:
    """What the client sent and the application has not received. Its bounds are those of who puts something in."""

    __slots__ = ("_items", "_waiters", "size_bytes")

    def __init__(self) -> None:
        self._items: list[Any] | None = None
        self._waiters: tuple[asyncio.Future[None], ...] = ()
        self.size_bytes = 0
        """Bytes of the messages."""

    def put_nowait(self, item: Any, size_bytes: int = 0) -> None:
        """Put an event at the end."""
        self.size_bytes += size_bytes
        if self._items is None:
            self._items = [item]
        else:
            self._items.append(item)
        self._wake_one()

    def _wake_one(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
                break

    async def get(self, source: Source | None = None) -> Any:
        """Take the first event, and wait for one if need be; the source is told when it was the last.

        Nothing is lost when the caller is cancelled.
        """
        while self._items is None:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters += (waiter,)
            try:
                await waiter
            except BaseException:
                self._leave(waiter)
                if not self.empty():
                    self._wake_one()  # it was this one's turn
                raise
            self._leave(waiter)
        items = self._items
        item = items.pop(0)
        if not items:
            self._items = None
            self.size_bytes = 0
            if source is not None:
                source.go_on_reading()
        return item

    def _leave(self, waiter: asyncio.Future[None]) -> None:
        self._waiters = tuple(other for other in self._waiters if other is not waiter)

    def empty(self) -> bool:
        """Whether nothing waits here."""
        return self._items is None

    def take(self) -> list[Any]:
        """Everything, at once."""
        items, self._items = self._items or [], None
        self.size_bytes = 0
        return items

    def __len__(self) -> int:
        return len(self._items or ())


class Writable:
    """Whether the socket takes bytes."""

    __slots__ = ("_is_set", "_waiters")

    def __init__(self) -> None:
        self._is_set = True
        self._waiters: list[asyncio.Future[None]] | None = None

    def set(self) -> None:
        """It does: let everybody go on."""
        self._is_set = True
        waiters, self._waiters = self._waiters, None
        for waiter in waiters or ():
            if not waiter.done():
                waiter.set_result(None)

    def clear(self) -> None:
        """It does not."""
        self._is_set = False

    def is_set(self) -> bool:
        """Whether `wait` would return at once."""
        return self._is_set

    async def wait(self) -> None:
        """Return when it does."""
        while not self._is_set:
            waiter = asyncio.get_running_loop().create_future()
            if self._waiters is None:
                self._waiters = []
            self._waiters.append(waiter)
            await waiter

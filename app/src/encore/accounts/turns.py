"""One after the other: who signs in by one name from one address takes turns."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from encore.errors import TooManyRequests

__all__ = ["Turns"]


@dataclass(slots=True)
class _Queue:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    length: int = 0


class Turns:
    """Lets one in at a time for each name, in the order of arrival, so that tries are counted one by one: many at once
    with the right password are not taken for guesses, and many guesses at once are not all free.

    Of each name at most `limit` wait; who comes then gets TooManyRequests.
    """

    def __init__(self, *, limit: int = 64) -> None:
        self._limit = limit
        self._queues: dict[str, _Queue] = {}
        self.refused = 0
        """How many found no place to wait since the start."""

    @asynccontextmanager
    async def take(self, name: str) -> AsyncIterator[None]:
        """Wait for this name's turn, and keep it for the block. Raises TooManyRequests."""
        queue = self._queues.setdefault(name, _Queue())
        if queue.length > self._limit:
            self.refused += 1
            raise TooManyRequests("too many tries at once: wait for the others", code="busy", retry_after_s=2)
        queue.length += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.length -= 1
            if not queue.length:
                self._queues.pop(name, None)

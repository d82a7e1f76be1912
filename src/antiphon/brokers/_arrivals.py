"""What a broker sent and nobody received yet: one task waits for it, and takes all of it at once."""

from __future__ import annotations

import asyncio

from antiphon.brokers.base import Event
from antiphon.errors import BrokerError, UsageError

__all__ = ["Arrivals"]


class Arrivals:
    """Events in their order, then the error that ended the connection.

    It has no bound of its own: whoever adds looks at `size_bytes` and stops its source, or ends.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        """Bytes of the events that wait, as whoever added them counted."""
        self._events: list[Event] = []
        self._end: BrokerError | None = None
        self._waiter: asyncio.Future[None] | None = None

    def add(self, events: list[Event], *, size_bytes: int) -> None:
        """Append `events`; whoever waits goes on in the next turn of the event loop."""
        if self._end is not None or not events:
            return
        self._events += events
        self.size_bytes += size_bytes
        self._wake()

    def end(self, error: BrokerError) -> None:
        """Let `take` raise `error` once everything that came before is taken. The first error stays."""
        if self._end is None:
            self._end = error
            self._wake()

    async def take(self) -> list[Event]:
        """Everything that waits; waits until there is something. Cancelling loses nothing."""
        if self._waiter is not None:
            raise UsageError("another task receives from this connection already: one task has to read and hand out")
        while not self._events:
            if self._end is not None:
                raise type(self._end)(str(self._end), reason=self._end.reason) from self._end.__cause__
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        events, self._events, self.size_bytes = self._events, [], 0
        return events

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

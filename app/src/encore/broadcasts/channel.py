"""The channel `broadcasts`: who listens to it on this replica, and what was delivered to them."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from typing import Annotated, Final, NamedTuple

from fastapi import Depends

from antiphon import Identity
from encore.accounts.sockets import claimed_rightly, site_security
from encore.live import channel

__all__ = ["Audience", "Delivered", "SignedIn", "audience", "manager"]

security = site_security()
manager = channel("broadcasts", security=security)
SignedIn = Annotated[Identity, Depends(claimed_rightly(security))]

NOTES_LIMIT: Final = 1_000


class Delivered(NamedTuple):
    """A broadcast went out to the clients of this replica, who then were these."""

    broadcast_id: int
    listeners: frozenset[tuple[int, frozenset[str]]]


class Audience:
    """Who is connected to this replica, with their roles; and notes of what they were sent, for whoever counts it."""

    def __init__(self) -> None:
        self._here: Counter[tuple[int, frozenset[str]]] = Counter()
        self._notes: deque[Delivered] = deque(maxlen=NOTES_LIMIT)
        self.dropped_notes = 0
        """Notes that nobody took in time, as while the database was away: these deliveries are not in the figures."""
        self._news = asyncio.Event()

    def come(self, identity: Identity) -> None:
        self._here[_key(identity)] += 1

    def go(self, identity: Identity) -> None:
        key = _key(identity)
        self._here[key] -= 1
        if self._here[key] <= 0:
            del self._here[key]

    def hear(self, message: object) -> bool:
        """See every message that is about to be delivered here; all of them are wanted."""
        if isinstance(message, dict) and message.get("type") == "new_broadcast":
            broadcast = message.get("broadcast")
            number = broadcast.get("id") if isinstance(broadcast, dict) else None
            if isinstance(number, int):
                self.note(Delivered(number, frozenset(self._here)))
        return True

    def note(self, delivered: Delivered) -> None:
        if len(self._notes) == NOTES_LIMIT:
            self.dropped_notes += 1
        self._notes.append(delivered)
        self._news.set()

    def take_notes(self) -> list[Delivered]:
        notes = list(self._notes)
        self._notes.clear()
        self._news.clear()
        return notes

    async def news(self, *, timeout_s: float) -> None:
        """Return when there are notes, or after this time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            pass


def _key(identity: Identity) -> tuple[int, frozenset[str]]:
    return int(identity.user_id or 0), identity.roles


audience = Audience()
# A filter sees every message that this replica delivers, wherever it was published.
manager.set_message_filter(audience.hear)

"""A store inside the process: for a single replica, and for tests of several with a clock that the test moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sized
from typing import Final

from antiphon.brokers.store import NOTES_LIMIT, Lease
from antiphon.codes import Reason
from antiphon.errors import BrokerRefused, BrokerUnavailable

__all__ = ["MemoryStore"]

VALUES_LIMIT: Final = 100_000
"""Values that may wait to be taken, and keys that may have notes; one more is refused. What has expired makes room
within a second.
"""


class MemoryStore:
    """An `antiphon.brokers.store.Store` that nobody outside this process sees. It never blocks, and fails only when
    100,000 values wait in it, or as many keys have notes (BrokerRefused), and after `close`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._values: dict[str, tuple[bytes, float]] = {}
        self._notes: dict[str, dict[bytes, float]] = {}
        self._note_ends: dict[str, float] = {}
        self._owners: dict[str, float] = {}
        self._places: dict[str, set[Lease]] = {}
        self._ends: dict[str, float] = {}
        self._sweep_at = 0.0
        self._closed = False

    @property
    def address(self) -> str:
        """Always `memory`."""
        return "memory"

    async def put_once(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keep `value` for `ttl_s`; False when the key is taken."""
        self._check()
        if self._value(key) is not None:
            return False
        _check_room(self._values)
        self._values[key] = (value, self._clock() + ttl_s)
        return True

    async def take(self, key: str) -> bytes | None:
        """The value, for the first who asks in time."""
        self._check()
        value = self._value(key)
        self._values.pop(key, None)
        return value

    async def note(self, key: str, entry: bytes, *, at_s: float, ttl_s: float) -> None:
        """Add an entry to the notes at a key."""
        self._check()
        if key not in self._notes:
            _check_room(self._notes)
        entries = self._notes.setdefault(key, {}) if self._note_ends.get(key, 0.0) > self._clock() else {}
        self._notes[key] = entries
        self._note_ends[key] = self._clock() + ttl_s
        entries[entry] = at_s
        while len(entries) > NOTES_LIMIT:
            del entries[min(entries, key=entries.__getitem__)]

    async def notes(self, keys: Collection[str]) -> list[bytes]:
        """All entries at these keys."""
        self._check()
        now = self._clock()
        return [entry for key in keys if self._note_ends.get(key, 0.0) > now for entry in self._notes[key]]

    async def beat(self, owner: str, *, ttl_s: float) -> bool:
        """The owner lives for `ttl_s` from now; False when it did not before."""
        self._check()
        known = owner in self._owners
        self._owners[owner] = self._clock() + ttl_s
        return known

    async def end(self, owner: str) -> None:
        """The owner lives no longer."""
        self._check()
        self._owners.pop(owner, None)

    async def hold(self, owner: str, member: str, limits: Mapping[str, int], *, ttl_s: float) -> str | None:
        """Take a place at each key, or return the first that is full."""
        self._check()
        place = (owner, member)
        for key, limit in limits.items():
            held = self._living(key)
            if place not in held and len(held) >= limit:
                return key
        await self.renew(owner, [(key, member) for key in limits], ttl_s=ttl_s)
        return None

    async def renew(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> None:
        """Hold these places, whatever the limits say."""
        self._check()
        for key, member in leases:
            self._places.setdefault(key, set()).add((owner, member))
            self._ends[key] = self._clock() + ttl_s

    def release(self, owner: str, leases: Collection[Lease]) -> Awaitable[object]:
        """Give places back, at once."""
        for key, member in leases:
            held = self._places.get(key)
            if held is not None:
                held.discard((owner, member))
                self._forget_if_empty(key, held)
        released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        released.set_result(None)
        return released

    async def count(self, key: str) -> int:
        """Places held at this key, by owners that live."""
        self._check()
        return len(self._living(key))

    async def close(self) -> None:
        """Forget everything. Idempotent."""
        self._closed = True
        for content in (self._values, self._notes, self._note_ends, self._owners, self._places, self._ends):
            content.clear()

    def __len__(self) -> int:
        """Keys and owners that are kept, what has expired left out."""
        self._sweep_at = 0.0
        self._sweep()
        return len(self._values) + len(self._notes) + len(self._owners) + len(self._places)

    def _check(self) -> None:
        if self._closed:
            raise BrokerUnavailable("this store was closed", reason=Reason.CLOSED)
        self._sweep()

    def _value(self, key: str) -> bytes | None:
        value, ends = self._values.get(key, (None, 0.0))
        return value if ends > self._clock() else None

    def _living(self, key: str) -> set[Lease]:
        held = self._places.get(key, set())
        held -= {place for place in held if self._owners.get(place[0], 0.0) <= self._clock()}
        self._forget_if_empty(key, held)
        return held

    def _forget_if_empty(self, key: str, held: set[Lease]) -> None:
        if not held:
            self._places.pop(key, None)
            self._ends.pop(key, None)

    def _sweep(self) -> None:
        """Forget what has expired; values and places once a second, since that looks at all of them."""
        now = self._clock()
        for owner in [owner for owner, ends in self._owners.items() if ends <= now]:
            del self._owners[owner]
        if now < self._sweep_at:
            return
        self._sweep_at = now + 1.0
        for key in [key for key, (_, ends) in self._values.items() if ends <= now]:
            del self._values[key]
        for key in [key for key, ends in self._note_ends.items() if ends <= now]:
            del self._notes[key], self._note_ends[key]
        for key in [key for key, ends in self._ends.items() if ends <= now]:
            del self._places[key], self._ends[key]


def _check_room(kept: Sized) -> None:
    if len(kept) >= VALUES_LIMIT:
        raise BrokerRefused(
            f"{VALUES_LIMIT:,} values wait in this process' memory: bound the rate at which they are made, or "
            "use Redis",
            reason=Reason.OUT_OF_MEMORY,
        )

"""What a store has to offer: a little state that all replicas share, every piece of it with an end of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from typing import Final, Protocol, TypeAlias

__all__ = ["NOTES_LIMIT", "Lease", "Store"]

Lease: TypeAlias = "tuple[str, str]"
"""A key, and the member that an owner holds there."""


NOTES_LIMIT: Final = 16
"""Entries that are kept at one key."""


class Store(Protocol):
    """Values that are taken once, notes that everybody reads, and places of which there is a limited number.

    Every call ends within about a second: with BrokerUnavailable, BrokerTimeout (whether it was carried out is unknown)
    or BrokerRefused when the server does not do its part. The next call connects again. Keys, owners and members are
    short texts without secrets, since they can be read at the server; an owner's name has no colon. One event loop at a
    time: WrongEventLoop otherwise.

    Places belong to an owner, one life of one replica, and count as long as that owner beats: what a killed replica
    held is free again when its last beat has worn off, without anybody having to know how much it was.
    """

    @property
    def address(self) -> str:
        """Where it is, for logs: without a password."""
        ...

    async def put_once(self, key: str, value: bytes, *, ttl_s: float) -> bool:
        """Keep `value` for `ttl_s`, by the store's clock. False, and nothing is changed, when the key is taken."""
        ...

    async def take(self, key: str) -> bytes | None:
        """The value, for the first who asks; None for everybody else, and once it has expired.

        A call that fails or is cancelled may have taken it all the same: then nobody has it.
        """
        ...

    async def note(self, key: str, entry: bytes, *, at_s: float, ttl_s: float) -> None:
        """Add an entry to the notes at a key, which are kept for `ttl_s` from now.

        Of more than 16 entries those with the highest `at_s` are kept. One that is there already stays there once.
        """
        ...

    async def notes(self, keys: Collection[str]) -> list[bytes]:
        """All entries that are kept at these keys."""
        ...

    async def beat(self, owner: str, *, ttl_s: float) -> bool:
        """The owner lives for `ttl_s` from now. False when it did not before: what it held may be gone."""
        ...

    async def end(self, owner: str) -> None:
        """The owner lives no longer: its places are free. Its name is not to be used again."""
        ...

    async def hold(self, owner: str, member: str, limits: Mapping[str, int], *, ttl_s: float) -> str | None:
        """Take a place at each key, unless it has as many as its limit: all of them, or none.

        Returns None when the places are held, else the first key that is full. Exact, however many try at once. A
        member that is there already keeps its place. `ttl_s` bounds how long the key outlives the last `hold` or
        `renew` there.
        """
        ...

    async def renew(self, owner: str, leases: Collection[Lease], *, ttl_s: float) -> None:
        """Hold these places, whatever the limits say: they were granted before. Some hundred at a time, no more."""
        ...

    def release(self, owner: str, leases: Collection[Lease]) -> Awaitable[object]:
        """Give places back, before anything that is called later. Never blocks, never raises and never connects.

        The future that is returned ends with a BrokerError when they may still be held; nobody has to look at it.
        """
        ...

    async def count(self, key: str) -> int:
        """Places held at this key, by owners that live."""
        ...

    async def close(self) -> None:
        """Give the connection back; calls under way end with BrokerUnavailable. Idempotent."""
        ...

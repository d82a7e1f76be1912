"""Revocations for replicas that were not there to hear of them: notes in the store that the replicas share.

A replica whose manager nobody has used yet hears no control messages, and neither does one that has just started. What
was proved before, and cannot be asked about again, is a ticket: one that was issued within the last 30 s would let its
owner in there. So each revocation also leaves a note, for as long as a ticket may wait for its use.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from collections.abc import Collection
from typing import Any, Final, cast

from antiphon.brokers.store import Store
from antiphon.errors import AntiphonError, EnvelopeError
from antiphon.identity import Identity
from antiphon.journal import Journal
from antiphon.revocation.ending import RevocationCounters
from antiphon.revocation.recent import KEPT_S
from antiphon.wire import codec

__all__ = ["Notes"]

AHEAD_S: Final = 0.2
"""So long the other replicas wait to be told for a store that is slow to take the note."""


class Notes:
    """Leaves and reads the notes of one manager. Without a store there is nothing to leave, and nothing to find."""

    def __init__(self, store: Store | None, *, scope: str, counters: RevocationCounters, journal: Journal) -> None:
        self._store = store
        self._scope = scope
        self._counters = counters
        self._journal = journal

    def leave(self, kind: str, name: str, *, spared: Collection[str], at_s: float) -> asyncio.Task[None] | None:
        """Leave a note. The task never raises, and ends within about a second; None where there is no store."""
        if self._store is None:
            return None
        # Sorted, so that the same revocation is the same entry; hashed, since session ids may be secrets.
        content = {"at": at_s, "except": sorted(map(self._hash, spared))}
        return asyncio.get_running_loop().create_task(
            self._leave(self._store, self._key(kind, name), codec.encode(content), at_s=at_s), name="antiphon-note"
        )

    async def _leave(self, store: Store, key: str, entry: bytes, *, at_s: float) -> None:
        try:
            await store.note(key, entry, at_s=at_s, ttl_s=KEPT_S)
        except AntiphonError as error:
            self._counters.unnoted += 1
            self._journal.warning(
                "note",
                "no note could be left of a revocation: for %g s a ticket issued before it may still let its owner in "
                "at a replica that nobody uses yet: %s",
                KEPT_S,
                error,
            )

    async def reach(self, user_id: str | None, identity: Identity | None) -> bool:
        """Whether a note tells of a revocation at or after the proof of an identity that cannot be asked about again.

        One round trip for those, none for all others. False, and counted, when the store does not answer.
        """
        if self._store is None or identity is None:
            return False
        proved_at_s = identity.proved_at_s
        if proved_at_s is None or identity.proved_again is not None:
            return False
        named = (("user", user_id), ("session", identity.session_id))
        keys = [self._key(kind, name) for kind, name in named if name is not None]
        try:
            entries = await self._store.notes(keys) if keys else []
        except AntiphonError as error:
            self._counters.unchecked += 1
            self._journal.warning("note", "the notes of earlier revocations could not be read: %s", error)
            return False
        session = None if identity.session_id is None else self._hash(identity.session_id)
        return any(_reaches(entry, session, proved_at_s=proved_at_s) for entry in entries)

    def _key(self, kind: str, name: str) -> str:
        return self._hash(f"{kind}\0{name}")

    def _hash(self, text: str) -> str:
        content = f"{self._scope}\0{text}".encode(errors="surrogatepass")
        return hashlib.blake2b(content, digest_size=16, person=b"antiphon-revoke").hexdigest()


def _reaches(entry: bytes, session: str | None, *, proved_at_s: float) -> bool:
    try:
        content = cast("dict[str, Any]", codec.decode(entry))  # anything else raises below
        at_s, spared = content["at"], content["except"]
        if isinstance(at_s, bool) or not isinstance(at_s, (int, float)) or not isinstance(spared, list):
            return False
        return math.isfinite(at_s) and at_s >= proved_at_s and session not in spared
    except (EnvelopeError, KeyError, TypeError):
        return False  # somebody else's: nobody of ours writes such a thing

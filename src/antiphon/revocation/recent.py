"""The revocations of the last seconds: who proved an identity before one, and comes with it afterwards, is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

from antiphon.auth import Identity

__all__ = ["KEPT_S", "RecentRevocations"]

KEPT_S: Final = 35.0
"""Longer than a ticket waits for its use (30 s), and its handshake takes to get as far as here."""
_ENTRIES: Final = 10_000

_Name: TypeAlias = tuple[str, str]
"""("user", user id) or ("session", session id)."""


class RecentRevocations:
    """Remembers for 35 s who was revoked on this replica, and when.

    It has at most 10,000 entries, a revocation with its exceptions counting as one and one for each of them; beyond
    that the oldest are forgotten, which `add` tells. `clock` is Unix time, with which the replicas have to agree as
    closely as tickets of one issued elsewhere are to be judged.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.number = 0
        """Of the last revocation: which one came after what, without a clock."""
        self._last: dict[tuple[_Name, frozenset[str]], tuple[float, int]] = {}
        """When it was, and its number; the oldest first."""
        self._spared: dict[_Name, set[frozenset[str]]] = {}
        self._entries = 0

    def __len__(self) -> int:
        """How many entries it has."""
        return self._entries

    def add(self, kind: str, name: str, *, spared: frozenset[str]) -> int:
        """Remember a revocation. Returns how many were forgotten for it."""
        now_s, whom = self._clock(), (kind, name)
        self._expire(now_s)
        # What came before and meant fewer says nothing more.
        for fewer in [earlier for earlier in self._spared.get(whom, ()) if spared <= earlier]:
            self._discard(whom, fewer)
        self.number += 1
        self._last[whom, spared] = now_s, self.number
        self._spared.setdefault(whom, set()).add(spared)
        self._entries += 1 + len(spared)
        forgotten = 0
        while self._entries > _ENTRIES:
            self._discard(*next(iter(self._last)))
            forgotten += 1
        return forgotten

    def _expire(self, now_s: float) -> None:
        while self._last:
            oldest = next(iter(self._last))
            if self._last[oldest][0] + KEPT_S > now_s:
                return
            self._discard(*oldest)

    def _discard(self, whom: _Name, spared: frozenset[str]) -> None:
        del self._last[whom, spared]
        self._entries -= 1 + len(spared)
        left = self._spared[whom]
        left.discard(spared)
        if not left:
            del self._spared[whom]

    def reach(self, user_id: str | None, identity: Identity | None, *, after: int) -> bool:
        """Whether this user or session was revoked since the revocation `after`, or at or after its proof."""
        if not self._last:
            return False
        self._expire(self._clock())
        session_id = None if identity is None else identity.session_id
        proved_at_s = None if identity is None else identity.proved_at_s
        for kind, name in (("user", user_id), ("session", session_id)):
            if name is None:
                continue
            for spared in self._spared.get((kind, name), ()):
                at_s, number = self._last[(kind, name), spared]
                is_later = number > after or (proved_at_s is not None and at_s >= proved_at_s)
                if is_later and session_id not in spared:
                    return True
        return False

"""What revocations and re-checks have in common: who a connection is, how it ends, and what is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

from antiphon.auth import Identity, Refused
from antiphon.connection import Connection

__all__ = ["End", "RevocationCounters", "identity_of"]

End: TypeAlias = Callable[[Connection, Refused], None]
"""Forgets a connection and closes its socket with the code of the refusal, at once: nothing more is delivered to it."""


@dataclass(slots=True)
class RevocationCounters:
    """What one manager counts on this replica. All grow only."""

    revoked: int = 0
    """Connections that a revocation cut."""
    entering: int = 0
    """Connections that were refused because they were revoked while they connected, or before, with an older proof."""
    forgotten: int = 0
    """Revocations that were forgotten before their time, since there were too many: see `RecentRevocations`."""
    unnoted: int = 0
    """Revocations that replicas which were not in use at the time cannot know of: the store did not take the note."""
    unchecked: int = 0
    """Connections that were let in without a look at those notes, because the store did not answer."""
    rechecks: int = 0
    """Rounds of re-checks."""
    questions: int = 0
    """Questions to the application."""
    errors: int = 0
    """Those that raised; the connection was kept."""
    timeouts: int = 0
    """Those that took too long; the connection was kept."""
    ended_by: Counter[str] = field(default_factory=Counter)
    """Connections that a re-check cut, by the name of the close code: REVOKED, REFRESH_SESSION, …"""
    topics_dropped: int = 0
    """Topics that a re-check took from a connection."""

    @property
    def ended(self) -> int:
        """Connections that a re-check cut."""
        return self.ended_by.total()


def identity_of(connection: Connection) -> Identity | None:
    """Who is at the other end, where users sign in through the library."""
    return connection.identity

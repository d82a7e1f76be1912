"""No longer: ending the sockets of a user or a session on all replicas, and finding out that they must end.

The truth is in the application's database. A revocation is a message that makes replicas look at it sooner: it may be
lost, so each replica asks again at intervals, and after the broker was away.
"""

from __future__ import annotations

from antiphon.revocation.commands import Disconnected, Entrant, Revocations
from antiphon.revocation.ending import End, RevocationCounters, identity_of
from antiphon.revocation.notes import Notes
from antiphon.revocation.rechecks import Rechecks

__all__ = ["Disconnected", "End", "Entrant", "Notes", "Rechecks", "RevocationCounters", "Revocations", "identity_of"]

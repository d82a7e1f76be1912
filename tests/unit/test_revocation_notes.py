"""Revocations for replicas that were not there to hear of them."""

from __future__ import annotations

import pytest

from antiphon.auth import Identity, Revoked
from antiphon.brokers.memory_store import MemoryStore
from antiphon.hub import Hub
from antiphon.journal import Journal
from antiphon.presence import Census
from antiphon.relays import LocalRelay
from antiphon.revocation import Disconnected, Notes, RevocationCounters, Revocations
from tests.unit.revocations import Clock, entering

pytestmark = pytest.mark.virtual_time


class Late:
    """A replica that nobody used when somebody was revoked, and one that was asked to revoke."""

    def __init__(self, store: MemoryStore) -> None:
        self.clock = Clock()
        self.counters = RevocationCounters()
        notes = Notes(store, scope="c", counters=self.counters, journal=Journal())
        census = Census(LocalRelay())
        self.asked = Revocations(Hub("c"), census, end=lambda *_: None, notes=notes, clock=self.clock)
        self.other = Revocations(
            Hub("c"), Census(LocalRelay()), end=lambda *_: None, notes=notes, counters=self.counters, clock=self.clock
        )

    async def is_refused(self, user: str | None, session: str | None, *, at_s: float | None) -> bool:
        identity = Identity(user_id=user, session_id=session)._proved_by(None, at_s=at_s)
        with entering(self.other, user, identity) as entrant:
            await self.other.look_up(entrant)
            try:
                self.other.check(entrant)
            except Revoked:
                return True
            return False


async def test_a_replica_that_was_not_there_refuses_who_proved_it_before_the_revocation() -> None:
    late = Late(MemoryStore())
    early = late.clock.now_s - 10
    assert not await late.is_refused("42", "s1", at_s=early)
    await late.asked.disconnect_user("42", except_=["own"])
    await late.asked.disconnect_session("s9")

    assert await late.is_refused("42", "s1", at_s=early)
    assert await late.is_refused("42", None, at_s=late.clock.now_s)
    assert await late.is_refused("7", "s9", at_s=early)
    assert not await late.is_refused("42", "own", at_s=early)
    assert not await late.is_refused("7", "s1", at_s=early)
    assert not await late.is_refused("42", "s1", at_s=late.clock.now_s + 1)
    assert not await late.is_refused("42", "s1", at_s=None)


async def test_a_later_revocation_with_exceptions_takes_nothing_back_of_an_earlier_one() -> None:
    late = Late(MemoryStore())
    early = late.clock.now_s - 10
    await late.asked.disconnect_user("42")
    late.clock.now_s += 1
    await late.asked.disconnect_user("42", except_=["s1"])
    assert await late.is_refused("42", "s1", at_s=early)


async def test_clients_are_let_in_and_counted_when_the_notes_cannot_be_written_or_read() -> None:
    store = MemoryStore()
    late = Late(store)
    await store.close()
    assert await late.asked.disconnect_user("42") == Disconnected(0, 1, True)
    assert not await late.is_refused("42", "s1", at_s=1.0)
    assert (late.counters.unnoted, late.counters.unchecked) == (1, 1)


async def test_who_can_be_asked_about_again_costs_no_look_at_the_notes() -> None:
    store = MemoryStore()
    late = Late(store)
    await store.close()

    async def again() -> Identity:
        raise AssertionError("nobody asks")

    identity = Identity(user_id="42")._proved_by(again, at_s=1.0)
    for who in (identity, Identity(user_id="42"), None):
        with entering(late.other, "42", who) as entrant:
            await late.other.look_up(entrant)
            late.other.check(entrant)
    assert late.counters.unchecked == 0


async def test_notes_hold_no_user_and_no_session() -> None:
    store = MemoryStore()
    await Late(store).asked.disconnect_user("canary-user", except_=["canary-session"])
    content = repr(vars(store))
    assert len(store) == 1
    assert "canary" not in content


@pytest.mark.parametrize(
    "entry", [b"", b"7", b"{}", b'{"at":"x","except":[]}', b'{"at":true,"except":[]}', b'{"at":9e9}']
)
async def test_a_note_that_nobody_of_ours_wrote_refuses_nobody(entry: bytes) -> None:
    store = MemoryStore()
    late = Late(store)
    notes = Notes(store, scope="c", counters=RevocationCounters(), journal=Journal())
    await store.note(notes._key("user", "42"), entry, at_s=1.0, ttl_s=35)
    assert not await late.is_refused("42", None, at_s=1.0)

"""The ledger: every publication is in flight, in the outbox, or settled, and counted once."""

from __future__ import annotations

import asyncio

import pytest

from antiphon.codes import Reason
from antiphon.errors import PublishFailed
from antiphon.ledger import Attempt, Ledger
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication, new_publication
from antiphon.stats import LinkCounters
from antiphon.wire import envelope as envelopes


class Fixture:
    def __init__(self, *, limit: int = 100, outbox: OutboxLimits | None = None) -> None:
        self.counters = LinkCounters()
        self.delivered: list[str] = []
        self.ledger = Ledger(
            counters=self.counters, outbox_limits=outbox or OutboxLimits(), deliver_here=self._deliver, limit=limit
        )

    def _deliver(self, publication: Publication) -> int:
        self.delivered.append(publication.frame.text)
        return 3

    def attempt(self, text: str = "m", *, fail: bool = False, keep: bool = True, since: float = 0.0) -> Attempt:
        publication = new_publication(text, sender="r", channel="c", limit_bytes=1_000)
        return Attempt(publication, fail=fail, keep=keep, since=since)

    def opened(self, text: str = "m", *, fail: bool = False, keep: bool = True) -> Attempt:
        attempt = self.attempt(text, fail=fail, keep=keep)
        attempt.sends = 1
        self.ledger.open(attempt)
        return attempt


async def test_a_confirmed_attempt_says_whom_it_reached() -> None:
    here = Fixture()
    attempt = here.opened()
    attempt.replicas, attempt.connections = 3, 7

    here.ledger.confirm(attempt, now=1.0)

    outcome = await attempt.done
    assert (outcome.confirmed, outcome.replicas, outcome.connections, outcome.queued) == (True, 3, 7, False)
    assert (len(here.ledger), here.delivered) == (0, [])


async def test_an_attempt_that_was_not_taken_is_delivered_here_and_kept() -> None:
    here = Fixture()
    attempt = here.opened("x")

    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=1.0)

    outcome = await attempt.done
    assert (outcome.confirmed, outcome.connections, outcome.queued, outcome.reason) == (False, 3, True, Reason.TIMEOUT)
    assert (here.delivered, len(here.ledger.outbox), here.counters.queued) == (["x"], 1, 1)


async def test_all_attempts_settle_in_the_order_of_publishing() -> None:
    here = Fixture()
    for text in "abc":
        here.opened(text)

    here.ledger.settle_all_here(Reason.CONNECTION_LOST, now=1.0)

    assert here.delivered == ["a", "b", "c"]
    assert [item.publication.frame.text for item in here.ledger.outbox.head(9)] == ["a", "b", "c"]


async def test_an_attempt_that_the_broker_took_is_not_kept_when_only_its_copy_is_missing() -> None:
    here = Fixture()
    attempt = here.opened("x")
    attempt.replicas = 2

    here.ledger.settle_all_here(Reason.DEAF, now=1.0)

    outcome = await attempt.done
    assert (outcome.confirmed, outcome.replicas, len(here.ledger.outbox), here.delivered) == (True, 2, 0, ["x"])


async def test_an_ephemeral_attempt_is_delivered_here_and_not_kept() -> None:
    here = Fixture()
    attempt = here.opened("typing", keep=False)

    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=1.0)

    assert not (await attempt.done).queued
    assert (here.delivered, here.counters.dropped, len(here.ledger.outbox)) == (["typing"], {Reason.EPHEMERAL: 1}, 0)


@pytest.mark.parametrize("sent", [True, False])
async def test_an_attempt_that_must_not_stay_local_raises_and_says_what_is_known(sent: bool) -> None:
    here = Fixture()
    attempt = here.opened(fail=True) if sent else here.attempt(fail=True)

    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=1.0)

    with pytest.raises(PublishFailed) as raised:
        await attempt.done
    assert (raised.value.outcome_unknown, raised.value.reason) == (sent, Reason.TIMEOUT)
    assert (here.delivered, len(here.ledger.outbox)) == ([], 0)


async def test_the_outbox_counts_what_it_drops() -> None:
    here = Fixture(outbox=OutboxLimits(messages=2, age_s=10))
    outcomes = []
    for second, text in enumerate("abc"):
        attempt = here.opened(text)
        here.ledger.settle_here(attempt, Reason.TIMEOUT, now=float(second))
        outcomes.append((await attempt.done).queued)
    here.ledger.expire(now=11.5)

    assert outcomes == [True, True, True]
    assert here.counters.dropped == {Reason.OVERFLOW: 1, Reason.EXPIRED: 1}
    assert here.counters.queued - sum(here.counters.dropped.values()) == len(here.ledger.outbox) == 1


async def test_what_is_too_large_for_the_outbox_is_not_called_queued() -> None:
    here = Fixture(outbox=OutboxLimits(bytes=10))
    attempt = here.opened()

    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=0.0)

    assert not (await attempt.done).queued


async def test_a_resend_says_how_old_it_is() -> None:
    here = Fixture()
    attempt = here.opened("x")
    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=0.0)
    item = here.ledger.outbox.peek()
    assert item is not None

    again = envelopes.decode(item.payload(now=2.5))

    assert (again.id, again.retry_age_ms) == (attempt.publication.envelope.id, 2_500)


async def test_room_comes_when_an_attempt_ends() -> None:
    here = Fixture(limit=2)
    first, _ = here.opened(), here.opened()
    waiting = asyncio.create_task(here.ledger.room())
    await asyncio.sleep(0)
    assert here.ledger.full
    assert not waiting.done()

    here.ledger.confirm(first, now=1.0)

    await asyncio.wait_for(waiting, 10)
    assert not here.ledger.full


async def test_an_outcome_that_nobody_waits_for_leaves_no_warning() -> None:
    here = Fixture()
    attempt = here.opened(fail=True)
    attempt.done.cancel()

    here.ledger.settle_here(attempt, Reason.TIMEOUT, now=0.0)

    assert len(here.ledger) == 0

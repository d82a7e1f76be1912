"""What this process published and is not settled yet: attempts that wait for the broker's word, and the outbox for
later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from antiphon.codes import Reason
from antiphon.errors import PublishFailed
from antiphon.outbox import Outbox, OutboxLimits
from antiphon.publication import Publication
from antiphon.stats import LinkCounters
from antiphon.wire.signing import Signer, seal

__all__ = ["Attempt", "Ledger", "Outcome", "Queued"]


class Outcome(NamedTuple):
    """What became of a publication."""

    confirmed: bool
    """The broker took it: every replica that it reached hears it."""
    replicas: int | None
    """Subscribers that the broker handed it to; None when it did not say."""
    connections: int
    """Sockets of this process that it was given to."""
    queued: bool
    """It waits in the outbox."""
    reason: Reason | None
    """Why it was not confirmed."""


class Attempt:
    """One publication under way."""

    __slots__ = (
        "connections",
        "done",
        "echo_since",
        "echoed",
        "fail",
        "keep",
        "payload",
        "publication",
        "refused",
        "replicas",
        "sends",
        "since",
    )

    def __init__(
        self, publication: Publication, *, fail: bool, keep: bool, since: float, signer: Signer | None = None
    ) -> None:
        self.publication = publication
        self.payload = seal(signer, publication.route, publication.envelope)
        self.fail = fail
        """Raise instead of delivering here when the broker does not take it."""
        self.keep = keep
        """Put it into the outbox when the broker does not take it."""
        self.since = since
        self.sends = 0
        """How often it was handed to the broker and may have been carried out."""
        self.refused: Reason | None = None
        """The broker refused it; it waits until what was published before it has reached this replica's clients."""
        self.replicas: int | None = None
        self.echoed = True
        """Nobody waits for the own copy, or it has come back."""
        self.echo_since: float | None = None
        self.connections = 0
        self.done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self.done.add_done_callback(_look)


def _look(future: asyncio.Future[Outcome]) -> None:
    """A caller that went away must not leave a warning that nobody looked at the exception."""
    if not future.cancelled():
        future.exception()


@dataclass(frozen=True, slots=True)
class Queued:
    """One publication in the outbox."""

    publication: Publication
    since: float

    def payload(self, *, now: float, signer: Signer | None = None) -> bytes:
        """The envelope for sending it again: it says how old it is, and is signed anew."""
        age_ms = max(0, round((now - self.since) * 1000))
        return seal(signer, self.publication.route, replace(self.publication.envelope, retry_age_ms=age_ms))


class Ledger:
    """Every publication is in one of three places: in flight, in the outbox, or settled."""

    def __init__(
        self,
        *,
        counters: LinkCounters,
        outbox_limits: OutboxLimits,
        deliver_here: Callable[[Publication], int],
        limit: int = 8_192,
        limit_bytes: int = 32 * 1024 * 1024,
    ) -> None:
        self._counters = counters
        self._deliver_here = deliver_here
        self._flight: dict[str, Attempt] = {}
        self._bytes = 0
        self._refused = 0
        self._awaited: dict[str, deque[Attempt]] = {}
        self._limit = limit
        self._limit_bytes = limit_bytes
        self._room: list[asyncio.Future[None]] = []
        self.outbox: Outbox[Queued] = Outbox(outbox_limits)

    def __len__(self) -> int:
        return len(self._flight)

    def __iter__(self) -> Iterator[Attempt]:
        """The attempts in flight, oldest first."""
        return iter(self._flight.values())

    # -- in flight -----------------------------------------------------------------------------------------------

    @property
    def full(self) -> bool:
        """Whether as much is in flight as the bound allows."""
        return len(self._flight) >= self._limit or self._bytes >= self._limit_bytes

    async def room(self) -> None:
        """Wait until there is room in flight; each attempt there ends by its deadline, so this does."""
        while self.full:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._room.append(waiter)
            await waiter

    def open(self, attempt: Attempt) -> None:
        """Note that an attempt is under way."""
        id = attempt.publication.envelope.id
        assert id is not None
        self._flight[id] = attempt
        self._bytes += len(attempt.payload)
        if not attempt.echoed:
            self._awaited.setdefault(attempt.publication.route, deque()).append(attempt)

    def echo(self, attempt: Attempt) -> None:
        """The own copy is about to be delivered: what was published before it on its route goes first.

        Those copies would have come earlier, so they will not come; whether the broker took them is another question.
        """
        if attempt.echoed:
            return
        awaited = self._awaited.get(attempt.publication.route)
        while awaited:
            earlier = awaited.popleft()
            if earlier is attempt:
                break
            if not earlier.echoed and not earlier.fail:
                earlier.connections += self._deliver_here(earlier.publication)
            earlier.echoed = True
        if not awaited:
            self._awaited.pop(attempt.publication.route, None)
        attempt.echoed = True

    def find(self, id: str) -> Attempt | None:
        """The attempt with this id, if it is in flight."""
        return self._flight.get(id)

    def _close(self, attempt: Attempt) -> None:
        id = attempt.publication.envelope.id
        assert id is not None
        if self._flight.pop(id, None) is None:
            return
        self._bytes -= len(attempt.payload)
        self._refused -= attempt.refused is not None
        awaited = self._awaited.get(attempt.publication.route)
        attempt.echoed = True
        while awaited and awaited[0].echoed:
            awaited.popleft()
        if awaited is not None and not awaited:
            del self._awaited[attempt.publication.route]
        if self._room and not self.full:
            for waiter in self._room:
                if not waiter.done():
                    waiter.set_result(None)
            self._room.clear()

    # -- settling ------------------------------------------------------------------------------------------------

    def confirm(self, attempt: Attempt, *, now: float) -> None:
        """The broker took it, and the own copy is here."""
        self._close(attempt)
        if self._refused:
            self._settle_refused(now=now)
        self._end(attempt, Outcome(True, attempt.replicas, attempt.connections, False, None))

    def settle_here(
        self, attempt: Attempt, reason: Reason, *, keep: bool = True, closing: bool = False, now: float
    ) -> None:
        """The broker did not take it, or it is not known: deliver here, and keep it for later if that makes sense.

        When the relay is closing, what is kept is dropped next, so the outcome does not call it queued.
        """
        self._close(attempt)
        publication = attempt.publication
        if attempt.replicas is not None:
            # Confirmed, only the own copy is missing: what it would have reached is reached without it.
            attempt.connections += self._deliver_here(publication)
            self._end(attempt, Outcome(True, attempt.replicas, attempt.connections, False, None))
            return
        if attempt.fail:
            if not attempt.done.done():
                unknown = attempt.sends > 0
                id = publication.envelope.id or ""
                attempt.done.set_exception(
                    PublishFailed(reason=reason, channel=publication.channel, id=id, outcome_unknown=unknown)
                )
            return
        attempt.connections += self._deliver_here(publication)
        queued = False
        if not attempt.keep:
            self._counters.dropped[Reason.EPHEMERAL] += 1
        elif keep:
            queued = self._keep(publication, size_bytes=len(attempt.payload), since=attempt.since, now=now)
        self._end(attempt, Outcome(False, None, attempt.connections, queued and not closing, reason))

    def refuse(self, attempt: Attempt, reason: Reason, *, now: float) -> None:
        """The broker refused this one: it stays here, after what was published before it."""
        attempt.refused = reason
        if attempt.sends == 1:
            attempt.sends = 0  # so nothing of it is in doubt; an earlier sending may have been carried out
        self._refused += 1
        self._settle_refused(now=now)

    def _settle_refused(self, *, now: float) -> None:
        while (oldest := next(iter(self._flight.values()), None)) is not None and oldest.refused is not None:
            self.settle_here(oldest, oldest.refused, keep=False, now=now)

    def settle_all_here(self, reason: Reason, *, closing: bool = False, now: float) -> None:
        """Settle everything that is in flight, in the order in which it was published."""
        for attempt in list(self._flight.values()):
            refused = attempt.refused
            self.settle_here(attempt, refused or reason, keep=refused is None, closing=closing, now=now)
        self._awaited.clear()

    @staticmethod
    def _end(attempt: Attempt, outcome: Outcome) -> None:
        if not attempt.done.done():
            attempt.done.set_result(outcome)

    # -- for later -----------------------------------------------------------------------------------------------

    def _keep(self, publication: Publication, *, size_bytes: int, since: float, now: float) -> bool:
        item = Queued(publication, since)
        self._counters.queued += 1
        dropped = self.outbox.put(item, size_bytes=size_bytes, now=now)
        self.count_dropped(dropped)
        return all(gone is not item for gone, _ in dropped)

    def expire(self, *, now: float) -> None:
        """Drop from the outbox what is too old."""
        self.count_dropped(self.outbox.expire(now))

    def count_dropped(self, dropped: list[tuple[Queued, Reason]]) -> None:
        """Count what the outbox gave up."""
        for _, reason in dropped:
            self._counters.dropped[reason] += 1

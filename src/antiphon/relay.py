"""The supervised link to one broker: dials, keeps the state, and gives every publication its outcome.

starting ── dial, prove ──▶ up ◀──▶ suspect (the publishing connection is made anew)
    └──────────▶ degraded ◀──┘ any doubt; from there, with a back-off, dial and prove again
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable

from antiphon.brokers.base import Broker
from antiphon.codes import Reason, State
from antiphon.dedupe import Dedupe
from antiphon.errors import BrokerError
from antiphon.health.history import LinkHistory
from antiphon.journal import Journal
from antiphon.ledger import Attempt, Ledger, Outcome
from antiphon.link import Clock, Link
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication
from antiphon.routes import Listener, Routes
from antiphon.settings import Timings
from antiphon.stats import LinkCounters, LinkStats
from antiphon.topics import route_of
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer, Verifier

__all__ = ["Relay"]

_PATIENT = frozenset({Reason.AUTHENTICATION, Reason.PERMISSION, Reason.MAX_CLIENTS})
"""Refusals that somebody has to mend: asking often would only fill the broker's log."""

_PATIENCE_S = 1.0
_SOUND_S = 1.0
_STILL_S = 3.0
_PEERS = 10_000


class Relay:
    """The link to one broker, shared by all managers of one event loop that use the same address."""

    def __init__(
        self,
        broker: Broker,
        *,
        timings: Timings | None = None,
        outbox_limits: OutboxLimits | None = None,
        signer: Signer | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.replica = secrets.token_hex(6)
        self.counters = LinkCounters()
        self._history = LinkHistory(State.DEGRADED)
        self.history: LinkHistory | None = self._history
        self._broker = broker
        self._timings = timings if timings is not None else Timings()
        self._rng = rng if rng is not None else random.Random()
        self._journal = Journal()
        self._states = Journal(every_s=1.0)
        self._said: Reason | None = None
        self._degraded_at = 0.0
        self._signer = signer
        self._routes = Routes(
            counters=self.counters,
            dedupe=Dedupe(),
            journal=self._journal,
            verifier=Verifier(signer) if signer is not None else None,
        )
        self._ledger = Ledger(
            counters=self.counters,
            outbox_limits=outbox_limits if outbox_limits is not None else OutboxLimits(),
            deliver_here=self._routes.deliver_here,
        )
        self._clock = Clock()
        self._link: Link | None = None
        self._reason: Reason | None = Reason.STARTING
        self._closed = False
        self._expected_replicas: int | None = None
        self._peers: dict[str, float] = {}
        self._first_dial = asyncio.Event()
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._task: asyncio.Task[None] | None = None
        self._watchers: list[Callable[[State], None]] = []
        self._rooms: list[Callable[[], Awaitable[None]]] = []
        self._control: dict[str, Callable[[Envelope], None]] = {}

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the link stands."""
        if self._closed:
            return State.CLOSED
        if self._live is None:
            return State.DEGRADED
        return State.SUSPECT if self._live.mending else State.UP

    @property
    def reason(self) -> Reason | None:
        """Why the link is degraded; None when it is not."""
        return self._reason

    @property
    def replicas(self) -> int | None:
        """Replicas that heard the last probe, this one included; None when degraded."""
        return self._live.replicas if self._live is not None else None

    @property
    def _live(self) -> Link | None:
        link = self._link
        return link if link is not None and link.live else None

    def watch(self, watcher: Callable[[State], None]) -> None:
        """Call `watcher` with each new state."""
        self._watchers.append(watcher)

    def unwatch(self, watcher: Callable[[State], None]) -> None:
        """Take a `watch` back."""
        if watcher in self._watchers:
            self._watchers.remove(watcher)

    def add_room(self, room: Callable[[], Awaitable[None]]) -> None:
        """Wait for `room` between two batches from the broker, so that reading does not outrun the sockets."""
        self._rooms.append(room)

    def on_control(self, kind: str, handler: Callable[[Envelope], None]) -> None:
        """Call `handler` with each control message of this kind."""
        self._control[kind] = handler

    def stats(self) -> LinkStats:
        """A snapshot."""
        counters, outbox = self.counters, self._ledger.outbox
        return LinkStats(
            address=self._broker.address,
            state=self.state,
            reason=self._reason,
            replica=self.replica,
            replicas=self.replicas,
            routes=len(self._routes),
            in_flight=len(self._ledger),
            outbox_messages=len(outbox),
            outbox_bytes=outbox.size_bytes,
            received=counters.received,
            rejected=dict(counters.rejected),
            duplicates=counters.duplicates,
            stale_retries=counters.stale_retries,
            queued=counters.queued,
            flushed=counters.flushed,
            dropped={str(reason): count for reason, count in counters.dropped.items()},
            dials=counters.dials,
            losses={str(reason): count for reason, count in counters.losses.items()},
            publisher_redials=counters.publisher_redials,
        )

    # -- life ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start dialling; returns at once. Idempotent."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._supervise(), name="antiphon-relay")

    async def first_dial(self) -> None:
        """Wait until the first attempt to connect has ended, well or not; at most about as long as one may take."""
        if not self._first_dial.is_set():
            limit_s = self._timings.connect_s
            try:
                async with asyncio.timeout(limit_s):
                    await self._first_dial.wait()
            except TimeoutError:
                pass

    async def close(self) -> None:
        """End the link. What waits in the outbox or in flight is settled locally and counted as dropped. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._reason = Reason.CLOSED
        self._history.enter(State.CLOSED)
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._first_dial.set()
        self._ledger.settle_all_here(Reason.CLOSED, closing=True, now=self._clock.now())
        while self._ledger.outbox.pop() is not None:
            self.counters.dropped[Reason.CLOSED] += 1
        self._routes.lost()

    async def _supervise(self) -> None:
        backoff_s = 0.0
        while True:
            proved_for_s: float | None = None
            try:
                proved_for_s, ending = await self._one_life()
                reason, text = ending.reason, str(ending)
            except BrokerError as refused:
                reason, text = refused.reason, str(refused)
            except Exception as defect:
                self._journal.warning("defect", "the broker link failed by a defect of this library", error=defect)
                reason, text = Reason.CONNECTION_LOST, f"{type(defect).__name__}: {defect}"
            self._degrade(reason, text)
            self._first_dial.set()
            timings = self._timings
            if reason in _PATIENT:
                delay_s = _PATIENCE_S * (1 + self._rng.random() / 4)
            elif proved_for_s is not None:
                # At once, unless something ends every connection as soon as it is proved.
                backoff_s = 0.0
                delay_s = 0.0 if proved_for_s > _SOUND_S else self._rng.uniform(0, 2 * timings.backoff_first_s)
            else:
                backoff_s = min(timings.backoff_max_s, max(timings.backoff_first_s, backoff_s * 2))
                delay_s = self._rng.uniform(0, backoff_s)
            await asyncio.sleep(delay_s)
            self._ledger.expire(now=self._clock.now())

    async def _one_life(self) -> tuple[float | None, BrokerError]:
        """Returns for how long the link was proved, None for never, and what ended it.

        Raises BrokerError when it could not be dialled.
        """
        link = Link(
            self._broker,
            replica=self.replica,
            timings=self._timings,
            routes=self._routes,
            ledger=self._ledger,
            counters=self.counters,
            clock=self._clock,
            on_control=self._on_control,
            on_peer=self._on_peer,
            room=self._room,
            history=self._history,
            signer=self._signer,
        )
        up_since: float | None = None

        def on_up() -> None:
            nonlocal up_since
            up_since = self._clock.now()
            self._rise(link)

        try:
            await link.dial()
            self._link = link
            ending = await link.run(expected_replicas=self._expected_replicas, on_up=on_up)
            if up_since is None:
                return None, ending
            self._recount((link.replicas or 1) + link.newcomers)
            self._history.detect.observe(self._clock.now() - link.heard_at)
            return max(0.0, self._clock.now() - up_since), ending
        finally:
            self._link = None
            await link.close()

    def _on_peer(self, replica: str) -> bool:
        """Another replica showed itself. Returns whether that is news."""
        news = replica not in self._peers
        if not news or len(self._peers) < _PEERS:
            self._peers[replica] = self._clock.now()
        return news

    def _recount(self, counted: int) -> None:
        """The link is lost: remember how many there were. Each shows itself once in a probe's interval."""
        oldest = self._clock.now() - 2.5 * self._timings.probe_every_s
        self._peers = {replica: seen for replica, seen in self._peers.items() if seen > oldest}
        self._expected_replicas = max(counted, 1 + len(self._peers))

    def _rise(self, link: Link) -> None:
        self._reason = None
        self._history.enter(State.UP)
        # Who was there before the outage has the usual time to show itself again.
        self._peers = dict.fromkeys(self._peers, self._clock.now())
        if not self._say_up(link):
            asyncio.get_running_loop().call_later(1.1 * _SOUND_S, self._say_up, link)
        self._first_dial.set()
        self._tell(State.UP)

    def _say_up(self, link: Link) -> bool:
        """Log the good news, if it still is; False when it has to wait."""
        if not link.live:
            return True
        return self._states.info(
            "up", "up: %s (replica %s, %s in all)", self._broker.address, self.replica, link.replicas
        )

    def _degrade(self, reason: Reason, text: str) -> None:
        self._routes.lost()
        self._settle(reason)
        self._history.enter(State.DEGRADED)
        before, self._reason = self._reason, reason
        if before is None or before is Reason.STARTING:
            self.counters.losses[reason] += 1
            said = self._states.warning(
                "degraded",
                "degraded (%s): %s Messages reach this replica's clients at once, the others' when the broker is back.",
                reason,
                text if text.endswith((".", "?", "!")) else f"{text}.",
            )
            self._said = reason if said else None
            self._degraded_at = self._clock.now()
            self._tell(State.DEGRADED)
        elif self._said is not reason and self._clock.now() - self._degraded_at > _STILL_S:
            # Not at once: after a loss the first attempts fail in the ways of a server that is going down.
            said = self._journal.warning("degraded", "still degraded, now (%s): %s", reason, text)
            self._said = reason if said else self._said

    def _settle(self, reason: Reason) -> None:
        self._ledger.settle_all_here(reason, now=self._clock.now())

    def _tell(self, state: State) -> None:
        for watcher in tuple(self._watchers):
            try:
                watcher(state)
            except Exception as error:
                self._journal.warning("watcher", "a watcher of the link's state raised", error=error)

    async def _room(self) -> None:
        for room in self._rooms:
            await room()

    def _on_control(self, envelope: Envelope) -> None:
        handler = self._control.get(envelope.kind or "")
        if handler is None:
            return
        try:
            handler(envelope)
        except Exception as error:
            self._journal.warning("control", "a control message %r could not be handled", envelope.kind, error=error)

    # -- hearing -------------------------------------------------------------------------------------------------

    def listen(self, channel: str, topic: str | None, listener: Listener) -> None:
        """Let a listener hear a channel, or a topic of it, from the broker's next confirmation on."""
        if self._routes.add(channel, topic, listener) and self._link is not None:
            self._link.hear(route_of(channel, topic))

    def unlisten(self, channel: str, topic: str | None, listener: Listener) -> None:
        """Take one `listen` back."""
        self._routes.discard(channel, topic, listener, now=self._clock.now())

    async def heard(self, route: str) -> bool:
        """Wait until the broker confirmed a route. Returns False, without waiting longer, when the link is degraded."""
        await self.first_dial()
        if self._live is None:
            return False
        return await self._routes.wait(route)

    # -- publishing ----------------------------------------------------------------------------------------------

    @property
    def is_ready(self) -> bool:
        """Whether `ready` would return at once."""
        return self._first_dial.is_set() and not self._ledger.full and not self._waiting

    async def ready(self) -> None:
        """Wait while the first dial is under way, or while too much is in flight; bounded by the deadlines."""
        self._waiting += 1
        try:
            async with self._turn:  # one after the other, so that nobody is overtaken
                await self.first_dial()
                await self._ledger.room()
        finally:
            self._waiting -= 1

    def publish(self, publication: Publication, *, fail: bool, keep: bool) -> asyncio.Future[Outcome]:
        """Publish; the order of the calls is the order for every client. The future always ends, by the deadlines.

        It raises PublishFailed only where `fail` is asked for.
        """
        now = self._clock.now()
        attempt = Attempt(publication, fail=fail, keep=keep, since=now, signer=self._signer)
        link = self._live
        if link is None:
            reason = self._reason or Reason.CONNECTION_LOST
            if len(self._ledger):
                self._settle(reason)  # the link was lost in this very moment: what is older goes first
            self._ledger.settle_here(attempt, reason, keep=not self._closed, now=now)
        else:
            attempt.echoed = not self._routes.confirmed(publication.route)
            self._ledger.open(attempt)
            link.send(attempt)
        return attempt.done

    def tell(self, route: str, envelope: Envelope) -> asyncio.Future[int] | None:
        """Publish a control message; None when degraded. The future may end with a BrokerError."""
        link = self._live
        return link.tell(route, envelope) if link is not None else None

    def discard_room(self, room: Callable[[], Awaitable[None]]) -> None:
        """Take an `add_room` back."""
        if room in self._rooms:
            self._rooms.remove(room)

"""One life of the link to the broker: two connections, watched, proved before use, and ended at the first doubt.

The rules follow from how Redis and TCP fail (docs/how-it-works.md): a connection may be dead without an error, a
time-out says nothing about whether a command was carried out, and a subscriber may be deaf while publishing works.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from antiphon.brokers.base import Broker, Listening, Message, Pong, Publishing, Subscribed
from antiphon.codes import Reason, State
from antiphon.errors import BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable
from antiphon.health.history import SAMPLE_MASK, LinkHistory
from antiphon.ledger import Attempt, Ledger
from antiphon.routes import Routes
from antiphon.settings import Timings
from antiphon.stats import LinkCounters
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire import codec
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer, seal

__all__ = ["Clock", "Link"]

_HOPELESS = frozenset({Reason.LOADING, Reason.READ_ONLY, Reason.OUT_OF_MEMORY, Reason.AUTHENTICATION})
"""Refusals that concern the server and not the one command: the link is of no use while they last."""

_FLUSH_BATCH = 100
_OTHERS = 10_000
_READ_PACE_S = 0.25
_LATE_TICKS = 8
_TOLERATED_S = 0.2

_SILENT = "it is frozen or overloaded, or the network drops packets"
_UNHEARD = "look for a proxy between, and at the user's permission to subscribe"

_Opened = TypeVar("_Opened", Listening, Publishing)


class Clock:
    """The event loop's time without the moments in which the loop itself stood still.

    A handler that blocks for five seconds must not make the broker look dead: what it answered meanwhile is still
    unread.
    """

    def __init__(self) -> None:
        self._stalled_s = 0.0

    def now(self) -> float:
        """Seconds. Goes back by as much as the loop stood still once that is noticed."""
        return asyncio.get_running_loop().time() - self._stalled_s

    async def tick(self, seconds: float) -> None:
        """Sleep, and leave out by how much too late the loop woke us.

        Returns after a sleep that was on time, so that what came while the loop stood still has been read by then; but
        after some tries in any case: a machine that is always late must find out about a dead broker too.
        """
        loop = asyncio.get_running_loop()
        for _ in range(_LATE_TICKS):
            since = loop.time()
            await asyncio.sleep(seconds)
            late_s = loop.time() - since - seconds
            if late_s <= _TOLERATED_S:
                return
            self._stalled_s += late_s


class Link:
    """One life of the two connections. `run` ends with the BrokerError that ended them; then it is of no use any
    more.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        replica: str,
        timings: Timings,
        routes: Routes,
        ledger: Ledger,
        counters: LinkCounters,
        clock: Clock,
        on_control: Callable[[Envelope], None],
        on_peer: Callable[[str], bool],
        room: Callable[[], Awaitable[None]],
        signer: Signer | None = None,
        history: LinkHistory | None = None,
    ) -> None:
        self._broker = broker
        self._replica = replica
        self._timings = timings
        self._routes = routes
        self._ledger = ledger
        self._counters = counters
        self._clock = clock
        self._on_control = on_control
        self._on_peer = on_peer
        self._room = room
        self._history = history if history is not None else LinkHistory(State.DEGRADED)
        self.heard_at = clock.now()
        """When the broker last gave a sign of life."""
        self._signer = signer
        self._listening: Listening | None = None
        self._publishing: Publishing | None = None
        self._control_routes = (CONTROL_ROUTE, replica_route(replica))
        self._control_heard: set[str] = set()
        self._news = asyncio.Event()
        self._probes: dict[str, float] = {}
        self._probe_due = clock.now() + timings.probe_every_s
        self._others: set[str] = set()
        """Replicas that showed themselves in this life."""
        self._pings: deque[tuple[bytes, float]] = deque()
        self._numbers = itertools.count(1)
        self._publisher_ping: tuple[asyncio.Future[None], float] | None = None
        self._lost: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._mend: asyncio.Event = asyncio.Event()
        self.live = False
        """Publications go to the broker; false before the proof and after the end."""
        self.replicas: int | None = None
        """Replicas that heard the last probe."""
        self.newcomers = 0
        """New replicas that showed themselves since."""

    @property
    def mending(self) -> bool:
        """Whether the publishing connection is being made anew, which publications wait for."""
        return self._mend.is_set()

    # -- the life ------------------------------------------------------------------------------------------------

    async def dial(self) -> None:
        """Connect both ways. Raises BrokerError."""
        self._counters.dials += 1
        listening = asyncio.create_task(self._in_time(self._broker.open_listening))
        publishing = asyncio.create_task(self._in_time(self._broker.open_publishing))
        try:
            self._listening, self._publishing = await asyncio.gather(listening, publishing)
        except BaseException:
            for opening in (listening, publishing):
                opening.cancel()
            for opened in await asyncio.gather(listening, publishing, return_exceptions=True):
                if not isinstance(opened, BaseException):
                    await opened.close()
            raise

    async def _in_time(self, open_one: Callable[[], Awaitable[_Opened]]) -> _Opened:
        try:
            async with asyncio.timeout(self._timings.connect_s):
                return await open_one()
        except TimeoutError as error:
            text = f"{self._broker.address} did not answer within {self._timings.connect_s:g} s: {_SILENT}"
            raise BrokerUnavailable(text, reason=Reason.TIMEOUT) from error

    async def run(self, *, expected_replicas: int | None, on_up: Callable[[], None]) -> BrokerError:
        """Prove the connections, send what waited, call `on_up`, and watch until the end. Returns why it ended."""
        parts = [
            asyncio.create_task(self._read(), name="antiphon-read"),
            asyncio.create_task(self._watch(), name="antiphon-watch"),
            asyncio.create_task(self._mend_publishing(), name="antiphon-mend"),
            asyncio.create_task(self._rise(expected_replicas, on_up), name="antiphon-rise"),
        ]
        for part in parts:
            part.add_done_callback(self._on_part_done)
        try:
            ending = await self._lost
            if isinstance(ending, BrokerError):
                return ending
            raise ending
        finally:
            self.live = False
            for part in parts:
                part.cancel()
            await asyncio.gather(*parts, return_exceptions=True)

    async def close(self) -> None:
        """Let both connections go."""
        self.live = False
        for connection in (self._listening, self._publishing):
            if connection is not None:
                await connection.close()

    def lose(self, error: BaseException) -> None:
        """End this life."""
        self.live = False
        if not self._lost.done():
            self._lost.set_result(error)

    def _on_part_done(self, part: asyncio.Task[None]) -> None:
        if not part.cancelled() and (error := part.exception()) is not None:
            self.lose(error)

    # -- hearing -------------------------------------------------------------------------------------------------

    def hear(self, name: str) -> None:
        """Ask the broker for one more route."""
        if self._listening is not None:
            self._listening.subscribe([name])

    async def _read(self) -> None:
        listening = self._listening
        assert listening is not None
        while True:
            events = await listening.receive()
            self.heard_at = self._clock.now()
            for event in events:
                if isinstance(event, Message):
                    self._on_message(event)
                elif isinstance(event, Subscribed):
                    self._on_subscribed(event.route)
                elif isinstance(event, Pong):
                    while self._pings and self._pings.popleft()[0] != event.token:
                        pass
            # Not `wait_for`: before Python 3.12 it may swallow a cancellation, and it makes a task each time.
            try:
                async with asyncio.timeout(_READ_PACE_S):
                    await self._room()
            except TimeoutError:
                pass

    def _on_subscribed(self, name: str) -> None:
        if name in self._control_routes:
            self._control_heard.add(name)
        else:
            self._routes.confirm(name)
        self._news.set()

    def _on_message(self, message: Message) -> None:
        envelope = self._routes.read(message.route, message.payload)
        if envelope is None:
            return
        if message.route in self._control_routes:
            if envelope.kind != "probe":
                self._on_control(envelope)
            elif envelope.sender == self._replica:
                self._probes.pop(str(codec.decode(envelope.payload)), None)
                self._news.set()
            elif envelope.sender is not None:
                self._on_other(envelope.sender)
            return
        if envelope.kind is not None:
            self._counters.rejected["kind"] += 1
            return
        attempt = None
        if envelope.sender == self._replica and envelope.id is not None:
            attempt = self._ledger.find(envelope.id)
        if attempt is None:
            self._routes.arrived(message.route, envelope)
            # What was sent again tells how long the outage was, not how quick the way is.
            if not self._counters.received & SAMPLE_MASK and envelope.at_ms and envelope.retry_age_ms is None:
                self._history.delivered(envelope.at_ms)
            return
        self._ledger.echo(attempt)
        attempt.connections += self._routes.arrived(message.route, envelope)
        if not self._counters.received & SAMPLE_MASK:
            self._history.own.observe(self._clock.now() - attempt.since)
        if attempt.replicas is not None:
            self._ledger.confirm(attempt, now=self._clock.now())

    def _on_other(self, replica: str) -> None:
        """Another replica has probed. One that this life has not heard of yet is not counted perhaps, nor counts this
        replica: after an outage all come back, one by one, and each counts those who are there already.
        """
        is_new = self._on_peer(replica)
        self.newcomers += is_new
        if is_new or (replica not in self._others and len(self._others) < _OTHERS):
            self._others.add(replica)
            self._probe_due = min(self._probe_due, self._clock.now() + self._timings.ping_every_s)

    # -- publishing ----------------------------------------------------------------------------------------------

    def send(self, attempt: Attempt) -> None:
        """Hand an attempt to the broker; while the publishing connection is made anew it waits for that."""
        publishing = self._publishing
        if self.mending or publishing is None:
            return
        attempt.sends += 1
        reply = asyncio.ensure_future(publishing.publish(attempt.publication.route, attempt.payload))
        reply.add_done_callback(partial(self._on_reply, attempt, publishing))

    def tell(self, route: str, envelope: Envelope) -> asyncio.Future[int]:
        """Publish a control message. The future ends with the number of receivers, or with a BrokerError."""
        assert self._publishing is not None
        reply = asyncio.ensure_future(self._publishing.publish(route, seal(self._signer, route, envelope)))
        reply.add_done_callback(_look)
        return reply

    def _on_reply(self, attempt: Attempt, publishing: Publishing, reply: asyncio.Future[int]) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        if self._ledger.find(attempt.publication.envelope.id or "") is not attempt:
            return
        if error is None:
            attempt.replicas = reply.result()
            attempt.echo_since = self._clock.now()
            if attempt.echoed:
                self._ledger.confirm(attempt, now=attempt.echo_since)
        elif isinstance(error, BrokerRefused):
            if error.reason in _HOPELESS:
                if attempt.sends == 1:
                    attempt.sends = 0
                self.lose(error)
            else:
                self._ledger.refuse(attempt, error.reason, now=self._clock.now())
        elif publishing is self._publishing and self.live:
            self._begin_mending()

    def _begin_mending(self) -> None:
        self._mend.set()
        self._history.enter(State.SUSPECT)

    async def _mend_publishing(self) -> None:
        """Make the publishing connection anew when it alone was lost, and send again, under the same ids, what has
        no reply.
        """
        while True:
            await self._mend.wait()
            assert self._publishing is not None
            await self._publishing.close()
            since = self._clock.now()
            while True:
                try:
                    self._publishing = await self._in_time(self._broker.open_publishing)
                    break
                except BrokerRefused:
                    raise
                except BrokerError:
                    if self._clock.now() - since > self._timings.command_s:
                        raise
                    await asyncio.sleep(self._timings.backoff_first_s)
            self._counters.publisher_redials += 1
            self._mend.clear()
            if self.live:
                self._history.enter(State.UP)
            for attempt in list(self._ledger):
                if attempt.replicas is None:
                    self.send(attempt)

    # -- rising --------------------------------------------------------------------------------------------------

    async def _rise(self, expected_replicas: int | None, on_up: Callable[[], None]) -> None:
        assert self._listening is not None
        self._listening.subscribe([*self._control_routes, *self._routes])
        try:
            async with asyncio.timeout(self._timings.prove_s):
                while len(self._control_heard) < len(self._control_routes) or self._routes.unconfirmed():
                    await self._changed()
                await self._probe()
                while self._probes:
                    await self._changed()
        except TimeoutError as error:
            text = f"{self._broker.address} takes publications, but what is published does not come back: {_UNHEARD}"
            raise BrokerTimeout(text, reason=Reason.DEAF) from error
        if self._ledger.outbox:
            await self._wait_for_others(expected_replicas)
            await self._flush()
        self.live = True
        on_up()

    async def _changed(self) -> None:
        self._news.clear()
        await self._news.wait()

    def _probe(self) -> asyncio.Future[int]:
        """Publish a token to all replicas: it counts them, and its coming back proves that this one hears."""
        token = str(next(self._numbers))
        self._probes[token] = self._clock.now()
        envelope = Envelope(id=None, payload=codec.encode(token), sender=self._replica, kind="probe")
        reply = self.tell(CONTROL_ROUTE, envelope)
        reply.add_done_callback(partial(self._on_probe_reply, token))
        return reply

    def _on_probe_reply(self, token: str, reply: asyncio.Future[int]) -> None:
        if reply.cancelled():
            return
        error = reply.exception()
        if error is None:
            self.replicas = reply.result()
            self.newcomers = 0
        elif isinstance(error, BrokerRefused):
            self.lose(error)
        else:
            self._probes.pop(token, None)

    async def _wait_for_others(self, expected_replicas: int | None) -> None:
        """After an outage the first replica back would send its outbox to nobody: wait a moment for the others.

        Where it is not known how many they are, for as long as each may pause between two attempts to connect.
        """
        timings = self._timings
        wait_s = timings.others_wait_s if expected_replicas is not None else 1.5 * timings.backoff_max_s
        until = self._clock.now() + wait_s
        while self._clock.now() < until and (expected_replicas is None or (self.replicas or 0) < expected_replicas):
            await asyncio.sleep(timings.backoff_first_s)
            await self._probe()

    async def _flush(self) -> None:
        """Send the outbox, oldest first. What has no reply stays in it, for the next life."""
        outbox = self._ledger.outbox
        while True:
            now = self._clock.now()
            self._ledger.expire(now=now)
            batch = outbox.head(_FLUSH_BATCH)
            if not batch:
                return
            assert self._publishing is not None
            publish = self._publishing.publish
            replies = [
                asyncio.ensure_future(publish(item.publication.route, item.payload(now=now, signer=self._signer)))
                for item in batch
            ]
            for reply in replies:
                reply.add_done_callback(_look)
            await asyncio.wait(replies, timeout=self._timings.command_s)
            for item, reply in zip(batch, replies, strict=True):
                if not reply.done():
                    raise BrokerTimeout(
                        f"{self._broker.address} stopped answering while the outbox was sent: {_SILENT}"
                    )
                error = reply.exception()
                if isinstance(error, BrokerRefused) and error.reason not in _HOPELESS:
                    if outbox.remove(item):
                        self._counters.dropped[error.reason] += 1
                elif error is not None:
                    raise error
                elif outbox.remove(item):
                    self._counters.flushed += 1

    # -- watching ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        """The deadlines of this life, and the pings that make a dead connection show."""
        timings = self._timings
        ping_due = self._clock.now()
        while True:
            now = self._clock.now()
            if now >= ping_due:
                ping_due = now + timings.ping_every_s
                self._ping(now)
            self._check_pings(now)
            self._check_attempts(now)
            if self.live and now >= self._probe_due and not self.mending:
                self._probe_due = now + timings.probe_every_s
                self._probe()
            gone = self._routes.expire(before=now - timings.linger_s)
            if gone and self._listening is not None:
                self._listening.unsubscribe(gone)
            if self.live and self._publishing is not None and self._publishing.lost:
                self._begin_mending()
            await self._clock.tick(timings.ping_every_s / 4)

    def _ping(self, now: float) -> None:
        assert self._listening is not None
        assert self._publishing is not None
        token = b"antiphon-%d" % next(self._numbers)
        self._pings.append((token, now))
        self._listening.ping(token)
        if not self.mending and self._publisher_ping is None and not self._publishing.lost:
            pong = asyncio.ensure_future(self._publishing.ping())
            self._publisher_ping = (pong, now)
            pong.add_done_callback(self._on_publisher_pong)

    def _on_publisher_pong(self, pong: asyncio.Future[None]) -> None:
        self._publisher_ping = None
        if not pong.cancelled() and isinstance(error := pong.exception(), BrokerRefused):
            self.lose(error)

    def _check_pings(self, now: float) -> None:
        dead_after_s = self._timings.dead_after_s
        oldest = [since for _, since in itertools.islice(self._pings, 1)]
        oldest += itertools.islice(self._probes.values(), 1)
        if self._publisher_ping is not None:
            oldest.append(self._publisher_ping[1])
        if oldest and now - min(oldest) > dead_after_s:
            raise BrokerTimeout(f"{self._broker.address} has not answered for {dead_after_s:g} s: {_SILENT}")

    def _check_attempts(self, now: float) -> None:
        for attempt in list(self._ledger):
            # Noted while the loop stood still and before that was noticed: the clock has gone back since.
            attempt.since = min(attempt.since, now)
            if attempt.refused is not None:
                continue
            if attempt.replicas is None:
                if now - attempt.since > self._timings.command_s:
                    raise BrokerTimeout(
                        f"{self._broker.address} has not answered a PUBLISH for {now - attempt.since:.1f} s"
                    )
                if not self.mending:
                    return
                continue
            attempt.echo_since = now if attempt.echo_since is None else min(attempt.echo_since, now)
            if now - attempt.echo_since > self._timings.own_copy_s:
                if self._routes.confirmed(attempt.publication.route):
                    text = f"{self._broker.address} takes publications, but the own copies do not come back: {_UNHEARD}"
                    raise BrokerTimeout(text, reason=Reason.DEAF)
                self._ledger.confirm(attempt, now=self._clock.now())


def _look(future: asyncio.Future[int]) -> None:
    """Nobody may be left to look at the exception; that alone is no news."""
    if not future.cancelled():
        future.exception()

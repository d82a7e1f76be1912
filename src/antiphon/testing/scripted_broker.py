"""A broker whose every step a test decides: connections that fail, hang or come late, answers given by hand.

    broker = ScriptedBroker()
    broker.next_dials(Fail(BrokerUnavailable("gone")), Hang(), Succeed(after_s=0.3))
    ...
    listening = await broker.listening()          # the next one that was opened
    listening.say(Message("chat", b"{}"))
    listening.lose()

Without a script it works like a server that nobody else uses: it confirms, answers pings, answers publications with 1
and hands nothing on. Together with `antiphon.testing.virtual_time` no test has to wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from antiphon.brokers._arrivals import Arrivals
from antiphon.brokers.base import Event, Pong, Subscribed, Unsubscribed
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerUnavailable

__all__ = [
    "Asked",
    "Fail",
    "Hang",
    "Publication",
    "ScriptedBroker",
    "ScriptedListening",
    "ScriptedPublishing",
    "Succeed",
]


@dataclass(frozen=True, slots=True)
class Succeed:
    """The dial succeeds, after a while if so wished."""

    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Fail:
    """The dial ends with this error, after a while if so wished."""

    error: BrokerError
    after_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Hang:
    """The dial never ends by itself."""


Dial: TypeAlias = "Succeed | Fail | Hang"


@dataclass(frozen=True, slots=True)
class Asked:
    """One thing that a listening connection was asked: `what` is subscribe, unsubscribe or ping."""

    what: str
    argument: str


@dataclass(slots=True)
class Publication:
    """One publication that has no answer yet, unless `ScriptedPublishing.answers` gave it."""

    route: str
    payload: bytes
    answer: asyncio.Future[int] = field(repr=False)

    def reply(self, subscribers: int = 1) -> None:
        """The broker carried it out."""
        if not self.answer.done():
            self.answer.set_result(subscribers)

    def refuse(self, reason: Reason = Reason.REFUSED) -> None:
        """The broker answers with an error."""
        _fail(self.answer, BrokerRefused(f"scripted: {reason}", reason=reason))


class ScriptedListening:
    """A connection that hears what the test says."""

    def __init__(self) -> None:
        self.asked: list[Asked] = []
        """Everything that it was asked."""
        self.confirms = True
        """Confirm subscriptions by itself."""
        self.pongs = True
        """Answer pings by itself."""
        self.closed = False
        self._arrivals = Arrivals()

    @property
    def routes(self) -> set[str]:
        """What it is subscribed to, if all that was asked is confirmed."""
        routes: set[str] = set()
        for asked in self.asked:
            if asked.what == "subscribe":
                routes.add(asked.argument)
            elif asked.what == "unsubscribe":
                routes.discard(asked.argument)
        return routes

    def say(self, *events: Event) -> None:
        """Let these events arrive together."""
        self._arrivals.add(list(events), size_bytes=0)

    def lose(self, reason: Reason = Reason.CONNECTION_LOST) -> None:
        """End the connection, as the network does."""
        self._arrivals.end(BrokerUnavailable(f"scripted: {reason}", reason=reason))

    def fail(self, error: BrokerError) -> None:
        """End the connection with this error."""
        self._arrivals.end(error)

    async def receive(self) -> Sequence[Event]:
        """What was said since the last call."""
        return await self._arrivals.take()

    def subscribe(self, routes: Collection[str]) -> None:
        """Record the request, and confirm it if `confirms`."""
        for route in routes:
            self.asked.append(Asked("subscribe", route))
            if self.confirms:
                self.say(Subscribed(route))

    def unsubscribe(self, routes: Collection[str]) -> None:
        """Record the request, and confirm it if `confirms`."""
        for route in routes:
            self.asked.append(Asked("unsubscribe", route))
            if self.confirms:
                self.say(Unsubscribed(route))

    def ping(self, token: bytes) -> None:
        """Record the request, and answer it if `pongs`."""
        self.asked.append(Asked("ping", token.decode(errors="replace")))
        if self.pongs:
            self.say(Pong(token))

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self.closed = True
        self.lose(Reason.CLOSED)


class ScriptedPublishing:
    """A connection whose publications the test answers, or that answers them itself."""

    def __init__(self) -> None:
        self.publications: list[Publication] = []
        """Everything that was published over it."""
        self.answers: int | None = 1
        """Answer each publication at once with this number; None leaves them to the test."""
        self.pongs = True
        """Answer pings by itself."""
        self.closed = False
        self._pings: list[asyncio.Future[None]] = []
        self._end: BrokerError | None = None

    @property
    def unanswered(self) -> list[Publication]:
        """The publications that wait for an answer, oldest first."""
        return [publication for publication in self.publications if not publication.answer.done()]

    @property
    def payloads(self) -> list[bytes]:
        """What was published over it."""
        return [publication.payload for publication in self.publications]

    def publish(self, route: str, payload: bytes) -> Awaitable[int]:
        """Record the publication, and answer it with `answers` if that is a number."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            _fail(answer, _copy(self._end))
            return answer
        publication = Publication(route, payload, answer)
        self.publications.append(publication)
        if self.answers is not None:
            publication.reply(self.answers)
        return answer

    def ping(self) -> Awaitable[None]:
        """Record the ping, and answer it if `pongs`."""
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self._end is not None:
            _fail(answer, _copy(self._end))
        elif self.pongs:
            answer.set_result(None)
        else:
            self._pings.append(answer)
        return answer

    @property
    def lost(self) -> bool:
        """Whether the connection has ended."""
        return self._end is not None

    def lose(self, reason: Reason = Reason.CONNECTION_LOST) -> None:
        """End the connection, as the network does: what has no answer is of unknown outcome."""
        if self._end is None:
            self._end = BrokerUnavailable(f"scripted: {reason}", reason=reason)
            for publication in self.publications:
                _fail(publication.answer, _copy(self._end))
            for ping in self._pings:
                _fail(ping, _copy(self._end))

    async def close(self) -> None:
        """End the connection. Idempotent."""
        self.closed = True
        self.lose(Reason.CLOSED)


class ScriptedBroker:
    """A `Broker` that follows a script, dial by dial."""

    def __init__(self, *dials: Dial) -> None:
        self.dials = 0
        """How often somebody tried to connect."""
        self.open_listenings: list[ScriptedListening] = []
        """Every listening connection that was opened, oldest first."""
        self.open_publishings: list[ScriptedPublishing] = []
        """Every publishing connection that was opened, oldest first."""
        self.cancelled_dials = 0
        self._script: deque[Dial] = deque(dials)
        self._taken_listenings = 0
        self._taken_publishings = 0
        self._changed = asyncio.Event()

    @property
    def address(self) -> str:
        """Always `scripted`."""
        return "scripted"

    def next_dials(self, *dials: Dial) -> None:
        """What becomes of the next dials, of either kind, in their order; those after them succeed."""
        self._script.extend(dials)

    async def listening(self) -> ScriptedListening:
        """The next listening connection that was opened or will be."""
        while len(self.open_listenings) <= self._taken_listenings:
            await self._change()
        self._taken_listenings += 1
        return self.open_listenings[self._taken_listenings - 1]

    async def publishing(self) -> ScriptedPublishing:
        """The next publishing connection that was opened or will be."""
        while len(self.open_publishings) <= self._taken_publishings:
            await self._change()
        self._taken_publishings += 1
        return self.open_publishings[self._taken_publishings - 1]

    async def open_listening(self) -> ScriptedListening:
        """As the script says."""
        await self._dial()
        listening = ScriptedListening()
        self.open_listenings.append(listening)
        self._changed.set()
        return listening

    async def open_publishing(self) -> ScriptedPublishing:
        """As the script says."""
        await self._dial()
        publishing = ScriptedPublishing()
        self.open_publishings.append(publishing)
        self._changed.set()
        return publishing

    async def _dial(self) -> None:
        self.dials += 1
        step = self._script.popleft() if self._script else Succeed()
        try:
            match step:
                case Hang():
                    await asyncio.get_running_loop().create_future()
                case Fail(error, after_s):
                    await asyncio.sleep(after_s)
                    raise _copy(error)
                case Succeed(after_s):
                    await asyncio.sleep(after_s)
        except asyncio.CancelledError:
            self.cancelled_dials += 1
            raise

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def _copy(error: BrokerError) -> BrokerError:
    return type(error)(str(error), reason=error.reason)


def _fail(answer: asyncio.Future[int] | asyncio.Future[None], error: BrokerError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # counts as seen: nobody has to look at the answer to a publication

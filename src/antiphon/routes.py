"""What this process hears from one broker: who listens to which route, and the way in for what arrives.

A route is a Redis channel's full name: a channel, or a channel and a topic. The broker is asked for a route while
somebody listens to it, and for a while longer, so that clients that come and go do not make it subscribe and
unsubscribe all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from antiphon.dedupe import Dedupe
from antiphon.errors import EnvelopeError, UnsupportedEnvelope, UntrustedEnvelope
from antiphon.journal import Journal
from antiphon.publication import Publication
from antiphon.stats import LinkCounters
from antiphon.topics import route_of
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Verifier

__all__ = ["Listener", "Route", "Routes"]

Listener = Callable[[Publication], int]
"""Takes a publication and returns to how many sockets it was given."""


class Route:
    """One route: its listeners, and whether the broker confirmed it."""

    __slots__ = ("channel", "confirmed", "idle_since", "listeners", "name", "topic", "waiters")

    def __init__(self, channel: str, topic: str | None) -> None:
        self.name = route_of(channel, topic)
        self.channel = channel
        self.topic = topic
        self.listeners: dict[Listener, int] = {}
        self.confirmed = False
        self.idle_since: float | None = None
        self.waiters: list[asyncio.Future[bool]] = []


class Routes:
    """The routes of one broker link, and the way of a payload from there to the listeners."""

    def __init__(
        self, *, counters: LinkCounters, dedupe: Dedupe, journal: Journal, verifier: Verifier | None = None
    ) -> None:
        self._routes: dict[str, Route] = {}
        self._idle: dict[str, Route] = {}
        self._counters = counters
        self._dedupe = dedupe
        self._journal = journal
        self._verifier = verifier

    def __len__(self) -> int:
        return len(self._routes)

    def __iter__(self) -> Iterator[str]:
        return iter(self._routes)

    # -- listeners -----------------------------------------------------------------------------------------------

    def add(self, channel: str, topic: str | None, listener: Listener) -> bool:
        """Let a listener hear a route. Returns whether the broker has to be asked for it."""
        name = route_of(channel, topic)
        route = self._routes.get(name)
        asked = route is not None
        if route is None:
            route = self._routes[name] = Route(channel, topic)
        if route.idle_since is not None:
            route.idle_since = None
            del self._idle[name]
        route.listeners[listener] = route.listeners.get(listener, 0) + 1
        return not asked

    def discard(self, channel: str, topic: str | None, listener: Listener, *, now: float) -> None:
        """Take one `add` back. The last one starts the linger time."""
        name = route_of(channel, topic)
        route = self._routes.get(name)
        if route is None or listener not in route.listeners:
            return
        route.listeners[listener] -= 1
        if route.listeners[listener] <= 0:
            del route.listeners[listener]
        if not route.listeners:
            route.idle_since = now
            self._idle[name] = route

    def expire(self, *, before: float) -> list[str]:
        """Forget the routes that nobody has listened to since `before`, and name them."""
        gone = []
        for name, route in self._idle.items():
            assert route.idle_since is not None
            if route.idle_since > before:
                break
            gone.append(name)
        for name in gone:
            del self._idle[name]
            self._wake(self._routes.pop(name), False)
        return gone

    # -- the broker's word ---------------------------------------------------------------------------------------

    def confirm(self, name: str) -> bool:
        """The broker hears us on a route. Returns whether that was news: it says it once for each subscription."""
        route = self._routes.get(name)
        if route is None:
            return True
        news = not route.confirmed
        route.confirmed = True
        self._wake(route, True)
        return news

    def confirmed(self, name: str) -> bool:
        """Whether the broker confirmed the route."""
        route = self._routes.get(name)
        return route is not None and route.confirmed

    def unconfirmed(self) -> list[str]:
        """The routes that the broker has not confirmed."""
        return [name for name, route in self._routes.items() if not route.confirmed]

    def lost(self) -> None:
        """The connection is gone: nothing is confirmed any more, and nobody waits for it."""
        for route in self._routes.values():
            route.confirmed = False
            self._wake(route, False)

    def wait(self, name: str) -> asyncio.Future[bool]:
        """A future that ends with True when the route is confirmed, and with False when that will not happen now."""
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        route = self._routes.get(name)
        if route is None or route.confirmed:
            future.set_result(route is not None)
        else:
            route.waiters.append(future)
        return future

    @staticmethod
    def _wake(route: Route, result: bool) -> None:
        for waiter in route.waiters:
            if not waiter.done():
                waiter.set_result(result)
        route.waiters.clear()

    # -- the way in ----------------------------------------------------------------------------------------------

    def read(self, name: str, payload: bytes) -> Envelope | None:
        """Understand a payload from the broker; None, and counted, when it cannot be, or may not be believed."""
        self._counters.received += 1
        verifier = self._verifier
        try:
            return envelopes.decode(payload) if verifier is None else verifier.decode(name, payload)
        except UntrustedEnvelope as error:
            if error.why == "replayed":  # as a rule one of the library's own re-sends
                self._counters.duplicates += 1
            else:
                self._counters.rejected[error.why] += 1
                self._journal.warning(error.why, "a message was not delivered: %s", error)
        except UnsupportedEnvelope as error:
            self._counters.rejected["version"] += 1
            self._journal.warning("version", "a message was not delivered: %s", error)
        except EnvelopeError as error:
            self._counters.rejected["malformed"] += 1
            self._journal.warning("malformed", "a payload that is not a JSON object was ignored: %s", error)
        return None

    def arrived(self, name: str, envelope: Envelope) -> int:
        """Deliver what came from the broker, unless it was here before. Returns to how many sockets."""
        route = self._routes.get(name)
        if route is None:
            return 0
        if envelope.id is not None:
            if envelope.retry_age_ms is not None and not self._dedupe.covers(envelope.retry_age_ms / 1000):
                self._counters.stale_retries += 1
                return 0
            if not self._dedupe.first_time(envelope.id):
                self._counters.duplicates += 1
                return 0
        if not route.listeners:
            return 0
        return self._tell(route, Publication(envelope, channel=route.channel, topic=route.topic))

    def deliver_here(self, publication: Publication) -> int:
        """Deliver a publication of this replica without the broker, unless it was here before."""
        if publication.envelope.id is not None and not self._dedupe.first_time(publication.envelope.id):
            return 0
        return self.tell(publication)

    def tell(self, publication: Publication) -> int:
        """Hand a publication to who listens to its route. Returns to how many sockets it was given."""
        route = self._routes.get(publication.route)
        return self._tell(route, publication) if route is not None else 0

    def _tell(self, route: Route, publication: Publication) -> int:
        count = 0
        for listener in tuple(route.listeners):
            try:
                count += listener(publication)
            except Exception as error:
                # A defect of ours, or of what the application hooked in: the others still get the message.
                self._journal.warning("listener", "delivering a message on %r failed", route.name, error=error)
        return count

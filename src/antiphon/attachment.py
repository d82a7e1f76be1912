"""A manager on its event loop: the relay it shares there, the lanes to its sockets, and what it listens to."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from threading import get_ident

from antiphon import relays
from antiphon.brokers.base import Broker
from antiphon.brokers.store import Store
from antiphon.codes import Reason
from antiphon.hub import Hub
from antiphon.ledger import Outcome
from antiphon.loop_lag import LoopLag
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts, count_distinct, sketch
from antiphon.publication import Publication, frame_of, numbers
from antiphon.receipt import Receipt
from antiphon.relays import LocalRelay
from antiphon.settings import Timings
from antiphon.topics import check_topic, route_of
from antiphon.transports.choice import Lanes
from antiphon.wire.signing import Signer

__all__ = ["Attachment"]

_POLL_S = 0.02
_ASKS_QUICKLY = sys.version_info >= (3, 12)
"""Which loop runs takes a system call to ask before Python 3.12; then it is inferred: a thread runs one at a time."""

_NO_BROKER = Reason.NO_BROKER
_tuple = tuple.__new__


class Attachment:
    """Made on the running loop, at the manager's first use there; `close` gives everything back."""

    def __init__(
        self,
        hub: Hub,
        *,
        broker: Broker | None,
        key: object,
        timings: Timings,
        outbox_limits: OutboxLimits,
        signer: Signer | None = None,
        store_for: Callable[[], Store] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self._thread = get_ident()
        self.lanes = Lanes(dropped=hub.counters.dropped_slow)
        self.lag = LoopLag.acquire()
        self._hub = hub
        self._shared = relays.acquire(
            broker, key=key, timings=timings, outbox_limits=outbox_limits, signer=signer, store_for=store_for
        )
        self.relay = self._shared.relay
        self.relay.add_room(self.lanes.room)
        self.census = self._shared.census
        self.census.add(hub.channel, self._answer)
        self._local = self.relay if isinstance(self.relay, LocalRelay) else None
        self._here: Sequence[Hub] = self._local.join(hub) if self._local is not None else ()
        """The hubs of this channel here, where there is no broker."""
        self._prefix = f"{self.relay.replica}-"
        self.store = self._shared.store
        """What replicas share beside messages; None where there is no Redis."""
        self.on_gone: Callable[[str], None] | None = None
        """Told the id of each connection that has gone."""
        self._heard: Counter[str | None] = Counter()
        self._pending: set[asyncio.Future[Outcome]] = set()

    # -- listening -----------------------------------------------------------------------------------------------

    def listen(self, topic: str | None) -> None:
        """One more connection here hears the channel (None) or a topic."""
        if self._local is not None:
            return  # without a broker the hub alone has to know
        self._heard[topic] += 1
        if self._heard[topic] == 1:
            self.relay.listen(self._hub.channel, topic, self._hub.deliver)

    def unlisten(self, topic: str | None) -> None:
        """One connection less does."""
        if self._local is not None:
            return
        self._heard[topic] -= 1
        if self._heard[topic] <= 0:
            del self._heard[topic]
            self.relay.unlisten(self._hub.channel, topic, self._hub.deliver)

    async def heard(self, topic: str | None) -> bool:
        """Wait until the broker confirmed that this replica hears the channel or the topic; False when it is away."""
        return await self.relay.heard(route_of(self._hub.channel, topic))

    # -- publishing ----------------------------------------------------------------------------------------------

    def publish_here(self, message: object, topic: str | None, *, limit_bytes: int) -> Receipt | None:
        """The short way, where nothing is to be decided: for everybody, without a broker, a filter or an expiry.

        Before Python 3.12 a loop that goes on in another thread, while the thread of its first use runs a second loop
        with the same manager, is not noticed here, as all other methods do.

        Returns None, and has done nothing, where that is not so. The caller waits for `lanes.room`. Raises what
        `new_publication` raises.
        """
        hub = self._hub
        if _ASKS_QUICKLY:
            is_here = asyncio._get_running_loop() is self.loop
        else:
            is_here = self.loop.is_running() and self._thread == get_ident()
        if not is_here or len(self._here) != 1 or hub.message_filter is not None:
            return None
        if topic is not None and type(topic) is not str:
            topic = check_topic(topic)
        frame = frame_of(message, limit_bytes=limit_bytes)
        id = f"{self._prefix}{next(numbers)}"
        if self.lanes.speak_v1:
            frame.about = (id, topic)
        connections = hub.deliver_to_all(frame, topic)
        if not connections and topic is not None:
            check_topic(topic)  # what somebody hears is a topic
        counters = hub.counters
        counters.published += 1
        counters.published_local += 1
        # Not by the class's constructor, which is a function in Python.
        return _tuple(Receipt, (id, "local", None, connections, False, _NO_BROKER))

    async def publish(self, publication: Publication, *, fail: bool, keep: bool) -> Outcome:
        """Publish and wait for the outcome. Cancelling the caller takes nothing back."""
        relay = self.relay
        counters = self._hub.counters
        if not relay.is_ready:
            await relay.ready()
        counters.published += 1
        outcome = relay.publish(publication, fail=fail, keep=keep)
        if isinstance(outcome, Outcome):
            self._count(outcome)
        else:
            self._pending.add(outcome)
            outcome.add_done_callback(self._count_later)
            outcome = await asyncio.shield(outcome)
        if not self.lanes.has_room:
            await self.lanes.room()
        return outcome

    def _count_later(self, future: asyncio.Future[Outcome]) -> None:
        self._pending.discard(future)
        if future.cancelled() or future.exception() is not None:
            self._hub.counters.publish_failed += 1
        else:
            self._count(future.result())

    def _count(self, outcome: Outcome) -> None:
        if outcome.confirmed:
            self._hub.counters.published_cluster += 1
        else:
            self._hub.counters.published_local += 1

    # -- counting ------------------------------------------------------------------------------------------------

    def _answer(self, question: Mapping[str, object]) -> Mapping[str, object]:
        hub = self._hub
        user_id = question.get("user_id")
        if isinstance(user_id, str):
            return {"here": hub.has_user(user_id)}
        return {"connections": len(hub), "users": hub.user_count, "sketch": sketch(hub.users())}

    async def counts(self, *, timeout_s: float) -> ClusterCounts:
        """Ask all replicas how many are connected."""
        answers = await self.census.ask(self._hub.channel, {}, timeout_s=timeout_s)
        connections, sketches = 0, []
        for answer in answers.data:
            found, hashes = answer.get("connections"), answer.get("sketch")
            connections += found if isinstance(found, int) else 0
            sketches.append(hashes if isinstance(hashes, list) else [])
        return ClusterCounts(connections, count_distinct(sketches), answers.replicas, answers.complete)

    async def has_user(self, user_id: str, *, timeout_s: float) -> bool:
        """Ask all replicas whether a user is there."""
        if self._hub.has_user(user_id):
            return True
        answers = await self.census.ask(self._hub.channel, {"user_id": user_id}, timeout_s=timeout_s, enough=_is_here)
        return any(map(_is_here, answers.data))

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, *, limit_s: float) -> None:
        """Let what is under way reach this replica's clients: wait a little for the broker, then do without it."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=limit_s)
        if self._pending and self._shared.holders == 1:
            await relays.retire(self._shared)

    async def settle(self, *, limit_s: float) -> bool:
        """Wait until all frames have left and the outbox is empty; False when that takes longer."""
        deadline = self.loop.time() + limit_s
        sent = await self.lanes.drain(limit_s=limit_s)
        while (link := self.relay.stats()) is not None and link.outbox_messages:
            if self.loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_S)
        return sent

    async def close(self) -> None:
        """Give everything back. The relay ends with its last manager."""
        for topic in list(self._heard):
            self.relay.unlisten(self._hub.channel, topic, self._hub.deliver)
        self._heard.clear()
        self.census.discard(self._hub.channel, self._answer)
        self.relay.discard_room(self.lanes.room)
        if self._local is not None:
            self._local.leave(self._hub)
        await relays.release(self._shared)
        self.lanes.close()
        self.lag.release()


def _is_here(answer: Mapping[str, object]) -> bool:
    return answer.get("here") is True

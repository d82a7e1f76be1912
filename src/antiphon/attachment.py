"""A manager on its event loop: the relay it shares there, the lanes to its sockets, and what it listens to."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping

from antiphon import relays
from antiphon.brokers.base import Broker
from antiphon.hub import Hub
from antiphon.ledger import Outcome
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts, count_distinct, sketch
from antiphon.publication import Publication
from antiphon.settings import Timings
from antiphon.topics import route_of
from antiphon.transports.choice import Lanes

__all__ = ["Attachment"]


class Attachment:
    """Made on the running loop, at the manager's first use there; `close` gives everything back."""

    def __init__(
        self, hub: Hub, *, broker: Broker | None, key: object, timings: Timings, outbox_limits: OutboxLimits
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.lanes = Lanes()
        self._hub = hub
        self._shared = relays.acquire(broker, key=key, timings=timings, outbox_limits=outbox_limits)
        self.relay = self._shared.relay
        self.relay.add_room(self.lanes.room)
        self._census = self._shared.census
        self._census.add(hub.channel, self._answer)
        self._heard: Counter[str | None] = Counter()
        self._pending: set[asyncio.Future[Outcome]] = set()

    # -- listening -----------------------------------------------------------------------------------------------

    def listen(self, topic: str | None) -> None:
        """One more connection here hears the channel (None) or a topic."""
        self._heard[topic] += 1
        if self._heard[topic] == 1:
            self.relay.listen(self._hub.channel, topic, self._hub.deliver)

    def unlisten(self, topic: str | None) -> None:
        """One connection less does."""
        self._heard[topic] -= 1
        if self._heard[topic] <= 0:
            del self._heard[topic]
            self.relay.unlisten(self._hub.channel, topic, self._hub.deliver)

    async def heard(self, topic: str | None) -> bool:
        """Wait until the broker confirmed that this replica hears the channel or the topic; False when it is away."""
        return await self.relay.heard(route_of(self._hub.channel, topic))

    # -- publishing ----------------------------------------------------------------------------------------------

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
        answers = await self._census.ask(self._hub.channel, {}, timeout_s=timeout_s)
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
        answers = await self._census.ask(self._hub.channel, {"user_id": user_id}, timeout_s=timeout_s, enough=_is_here)
        return any(map(_is_here, answers.data))

    # -- the end -------------------------------------------------------------------------------------------------

    async def finish(self, *, limit_s: float) -> None:
        """Let what is under way reach this replica's clients: wait a little for the broker, then do without it."""
        if self._pending:
            await asyncio.wait(self._pending, timeout=limit_s)
        if self._pending and self._shared.holders == 1:
            await relays.retire(self._shared)

    async def close(self) -> None:
        """Give everything back. The relay ends with its last manager."""
        for topic in list(self._heard):
            self.relay.unlisten(self._hub.channel, topic, self._hub.deliver)
        self._heard.clear()
        self._census.discard(self._hub.channel, self._answer)
        self.relay.discard_room(self.lanes.room)
        await relays.release(self._shared)
        self.lanes.close()


def _is_here(answer: Mapping[str, object]) -> bool:
    return answer.get("here") is True

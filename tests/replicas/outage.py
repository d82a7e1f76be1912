"""A fault from its beginning to the recovery: when each replica noticed, when it was back, and what may be missing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from functools import partial

from tests.replicas.checker import Window
from tests.replicas.cluster import Cluster
from tests.replicas.recorder import Listener, Send
from tests.replicas.replica import Change, Replica, eventually

__all__ = ["Outage"]

EARLY_S = 0.5
LATE_S = 1.0


class Outage:
    """Made by `begin`; `noticed`, `heal` and `over` follow in this order, as far as the fault has them."""

    def __init__(self, cluster: Cluster, hit: list[Replica]) -> None:
        self.cluster = cluster
        self.hit = hit
        self.at = time.monotonic()
        self.healed = self.at
        self.degraded: dict[str, float] = {}
        self.up: dict[str, Change] = {}

    @classmethod
    async def begin(cls, cluster: Cluster, fault: Callable[[], object], *, hit: Iterable[Replica] = ()) -> Outage:
        """Let the fault happen. It hits all replicas unless told otherwise."""
        outage = cls(cluster, list(hit) or cluster.running)
        await asyncio.to_thread(fault)
        return outage

    async def noticed(self) -> None:
        """Wait until each replica that was hit has been degraded, if only for a moment."""
        for replica in self.hit:
            changes = await eventually(
                partial(replica.changes, since=self.at),
                lambda changes: any(change.state == "degraded" for change in changes),
                what=f"{replica.name} noticing the fault",
            )
            self.degraded[replica.name] = next(change.at for change in changes if change.state == "degraded")

    async def heal(self, mend: Callable[[], object]) -> None:
        """Undo the fault."""
        await asyncio.to_thread(mend)
        self.healed = time.monotonic()

    async def over(self) -> None:
        """Wait until each replica that was hit is up again, and stays so for the moment."""
        for replica in self.hit:
            since = self.degraded[replica.name]
            changes = await eventually(
                partial(replica.changes, since=since),
                lambda changes: changes[-1].state == "up",
                what=f"{replica.name} being back",
            )
            self.up[replica.name] = changes[-1]

    @property
    def detect_s(self) -> list[float]:
        """Seconds from the fault until each replica's state said so."""
        return [at - self.at for at in self.degraded.values()]

    @property
    def recover_s(self) -> list[float]:
        """Seconds from the healing until each replica was up."""
        return [max(0.0, change.at - self.healed) for change in self.up.values()]

    @property
    def window(self) -> Window:
        """From the fault to the recovery, generously."""
        return Window(self.at - EARLY_S, max(change.at for change in self.up.values()) + LATE_S)

    def forgives(self, listener: Listener, send: Send) -> bool:
        """Whether an ephemeral message may be missing at a client, by what the library promises.

        The publisher's own clients get everything. The others may lose what the broker had confirmed and took with it
        when it died. What waited in the outbox reaches all replicas that are back when it is sent; a replica waits for
        the others, but not for ever, and the one that did not see all of them may have sent it too early.
        """
        if listener.replica == send.key.publisher:
            return False
        noticed = max(self.degraded.values(), default=self.at)
        if Window(self.at - EARLY_S, noticed + EARLY_S).covers(send):
            return True
        back = self.up.get(send.key.publisher)
        saw_all = back is not None and (back.replicas or 0) >= len(self.cluster.running)
        return not saw_all and self.window.covers(send)

"""`Quotas`: who is let in, and who is counted out."""

from __future__ import annotations

from antiphon.brokers.store import Store
from antiphon.journal import Journal
from antiphon.quotas.counts import Counts, QuotaCounters
from antiphon.quotas.places import Places
from antiphon.quotas.timings import QuotaTimings

__all__ = ["Quotas"]


class Quotas:
    """Lets connections in as long as their user and their address have fewer than the limit, over all replicas.

    While the store answers, limits are exact, however many connect at once; the places of a replica that was killed are
    free `dead_after_s` later. While it is away, each replica enforces the limits for itself, and nobody waits: only who
    is under way when the store goes silent waits for its time-out, about a second. When it is back, all places are
    entered again; then there may be more than the limit, and nobody is cut for that.

    Args:
        store: Where the replicas count together; None counts this replica's connections alone.
        per_user: The limit of each user id. None: no limit.
        per_address: The limit of each IPv4 address, and of each /64 network of IPv6 addresses. None: no limit.
        scope: What is counted apart from other scopes in the same store, such as the manager's channel.
        timings: How places are kept; the same on every replica.
    """

    def __init__(
        self,
        store: Store | None = None,
        *,
        per_user: int | None = 64,
        per_address: int | None = None,
        scope: str = "",
        timings: QuotaTimings | None = None,
        counters: QuotaCounters | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.counters = counters if counters is not None else QuotaCounters()
        self._counts = Counts(per_user=per_user, per_address=per_address, scope=scope)
        self._held: dict[str, tuple[str, ...]] = {}
        self._places: Places | None = None
        if store is not None:
            self._places = Places(
                store,
                self._held,
                timings=timings if timings is not None else QuotaTimings(),
                counters=self.counters,
                journal=journal if journal is not None else Journal(),
            )

    def __len__(self) -> int:
        """Connections of this replica that count somewhere."""
        return len(self._held)

    @property
    def is_shared(self) -> bool:
        """Whether the limits hold over all replicas now."""
        return self._places is not None and self._places.is_shared

    async def enter(self, connection_id: str, user_id: str | None, address: str | None) -> None:
        """Count a connection in, or raise TooManyConnections (with `before_upgrade` when it is the address' limit).

        Returns at once where no limit applies, and after one round trip to the store otherwise; a refusal by the counts
        of other replicas takes `second_try_s`. Cancelling it counts it out.
        """
        limits = self._counts.limits_of(user_id, address)
        if not limits or connection_id in self._held:
            return
        full = self._counts.full(limits)
        if full is not None:
            raise self._counts.refusal(full, self.counters)
        keys = tuple(limits)
        self._counts.add(keys)
        try:
            full = await self._places.take(connection_id, limits) if self._places is not None else None
        except BaseException:
            self._counts.subtract(keys)
            self._release(connection_id, keys)
            raise
        if full is not None:
            self._counts.subtract(keys)
            raise self._counts.refusal(full, self.counters)
        self._held[connection_id] = keys

    def leave(self, connection_id: str) -> None:
        """Count a connection out. Idempotent, never blocks; whoever enters here next finds the place free."""
        keys = self._held.pop(connection_id, None)
        if keys is not None:
            self._counts.subtract(keys)
            self._release(connection_id, keys)

    def _release(self, connection_id: str, keys: tuple[str, ...]) -> None:
        if self._places is not None:
            self._places.release(connection_id, keys)

    async def count(self, *, user_id: str | None = None, address: str | None = None) -> int:
        """Connections of one user or one address: over all replicas, or here while the store is away."""
        key = self._counts.key_of(user_id=user_id, address=address)
        shared = await self._places.count(key) if self._places is not None else None
        return shared if shared is not None else self._counts.here(key)

    def start(self) -> None:
        """Begin to count with the other replicas, on the running loop; `enter` does it otherwise. Idempotent."""
        if self._places is not None:
            self._places.start()

    async def close(self) -> None:
        """Give all places back, within about a second; from then on this replica counts alone. Idempotent.

        The store stays open: it belongs to whoever made it.
        """
        if self._places is not None:
            await self._places.close()

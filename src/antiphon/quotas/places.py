"""This replica's places at the store: one life after another, each with a name of its own."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Final

from antiphon.brokers.store import Store
from antiphon.errors import AntiphonError, BrokerError
from antiphon.journal import Journal
from antiphon.quotas.counts import QuotaCounters
from antiphon.quotas.timings import QuotaTimings

__all__ = ["Places"]

BATCH: Final = 256
"""Connections whose places are renewed in one round trip."""

SECOND_TRIES: Final = 256
"""Connections that may wait for a second try at once; more are refused at the first."""


class Places:
    """Takes and keeps places for the connections in `held`, which maps their ids to the keys that they count under.

    A life ends with the first call that fails, since nobody knows then what the store has carried out, and will carry
    out when it goes on. The next one begins as soon as the store answers, and takes what is held then.
    """

    def __init__(
        self,
        store: Store,
        held: Mapping[str, Iterable[str]],
        *,
        timings: QuotaTimings,
        counters: QuotaCounters,
        journal: Journal,
    ) -> None:
        self._store = store
        self._held = held
        self._timings = timings
        self._counters = counters
        self._journal = journal
        self._owner = ""
        self._up = False
        self._said_away = False
        self._renew_at = 0.0
        self._second_tries = 0
        self._settled = asyncio.Event()
        """Set once the store has answered, or failed to, for the first time."""
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def is_shared(self) -> bool:
        """Whether the store is asked now."""
        return self._up

    def start(self) -> None:
        """Begin, on the running loop. Idempotent."""
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._watch(), name="antiphon-quotas")
            self._task.add_done_callback(self._on_end)

    async def close(self) -> None:
        """Give all places back, within about a second. Idempotent."""
        self._closed = True
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        was_up, self._up = self._up, False
        if was_up:
            try:
                await self._store.end(self._owner)
            except BrokerError:
                pass  # the places wear off

    # -- places --------------------------------------------------------------------------------------------------

    async def take(self, connection_id: str, limits: dict[str, int]) -> str | None:
        """Hold a place for a connection under each key; returns the first that is full, and holds none then.

        None when it holds them, and also when nobody can tell now: then it gets them in the next life.
        """
        full = await self._hold(connection_id, limits)
        if full is None or not self._timings.second_try_s or self._second_tries >= SECOND_TRIES:
            return full
        self._second_tries += 1
        try:
            await asyncio.sleep(self._timings.second_try_s)
        finally:
            self._second_tries -= 1
        return await self._hold(connection_id, limits)

    async def _hold(self, connection_id: str, limits: dict[str, int]) -> str | None:
        """The key that is full at the store now."""
        self.start()
        if not self._settled.is_set() and not self._closed:
            await self._settled.wait()
        for _ in range(2):  # a new life may begin while the old one is asked
            if not self._up:
                break
            owner = self._owner
            try:
                full = await self._store.hold(owner, connection_id, limits, ttl_s=self._timings.lease_s)
            except BrokerError as error:
                self._lost(owner, error)
                continue
            if full is not None or (self.is_shared and owner == self._owner):
                return full
        self._counters.unshared += 1
        self._renew_at = 0.0
        return None

    def release(self, connection_id: str, keys: Iterable[str]) -> None:
        """Give the places of a connection back, before anything that is asked later. Never blocks."""
        task = self._task
        if not self._up or task is None or task.get_loop().is_closed():
            return  # the next life enters only what is held then
        answer = asyncio.ensure_future(self._store.release(self._owner, [(key, connection_id) for key in keys]))
        answer.add_done_callback(partial(self._on_release, self._owner))

    def _on_release(self, owner: str, answer: asyncio.Future[object]) -> None:
        error = None if answer.cancelled() else answer.exception()
        if isinstance(error, AntiphonError):
            self._lost(owner, error)

    async def count(self, key: str) -> int | None:
        """Places under this key over all replicas; None when nobody can tell now."""
        if self._up:
            owner = self._owner
            try:
                return await self._store.count(key)
            except BrokerError as error:
                self._lost(owner, error)
        return None

    # -- the life ------------------------------------------------------------------------------------------------

    async def _watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                if self._up:
                    await self._beat()
                else:
                    await self._begin()
                self._settled.set()
                if loop.time() >= self._renew_at:
                    await self.renew(now=loop.time())
            except BrokerError as error:
                self._lost(self._owner, error)
            self._settled.set()
            await asyncio.sleep(self._timings.beat_every_s * random.uniform(0.8, 1.2))

    def _on_end(self, task: asyncio.Task[None]) -> None:
        self._settled.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            self._up = False
            self._journal.warning(
                "quotas-end", "limits on connections hold on each replica for itself from now on", error=error
            )

    async def _begin(self) -> None:
        """Start a life with a new name at the store.

        What the last one asked for may be carried out at any time, or never: with its end it does not count.
        """
        if self._owner:
            await self._store.end(self._owner)
        owner = secrets.token_hex(6)
        await self._store.beat(owner, ttl_s=self._timings.dead_after_s)
        self._owner, self._up, self._renew_at = owner, True, 0.0
        if self._said_away:
            self._said_away = False
            self._journal.info("quotas-back", "limits on connections hold over all replicas again")

    async def _beat(self) -> None:
        if not await self._store.beat(self._owner, ttl_s=self._timings.dead_after_s):
            # The server was emptied, or this replica stood still for so long that others took it for dead.
            self._renew_at = 0.0

    async def renew(self, *, now: float) -> None:
        """Enter the places of all connections again, some hundred in one round trip."""
        owner, held = self._owner, list(self._held)
        self._renew_at = now + self._timings.renew_every_s
        for start in range(0, len(held), BATCH):
            leases = [(key, id) for id in held[start : start + BATCH] for key in self._held.get(id, ())]
            await self._store.renew(owner, leases, ttl_s=self._timings.lease_s)
            if not (self._up and self._owner == owner):
                return

    def _lost(self, owner: str, error: AntiphonError) -> None:
        """Count alone until `_watch` has begun a new life; `owner` is the life in which it happened."""
        if owner != self._owner:
            return
        if self._up:
            self._up = False
            self._counters.outages += 1
        if not self._said_away and not self._closed:
            self._said_away = True
            self._journal.warning(
                "quotas-away", "limits on connections hold on each replica for itself until this is over: %s", error
            )

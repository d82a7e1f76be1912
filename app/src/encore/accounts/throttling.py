"""How often somebody may try: counted for all replicas together in Redis, or in this process alone without it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import redis.asyncio
from limits import RateLimitItem
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.aio.strategies import FixedWindowRateLimiter
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from encore.errors import TooManyRequests
from encore.settings import read_settings

__all__ = ["Patience", "Throttle", "close_throttle", "throttle"]

log = logging.getLogger("encore.accounts")

ANSWER_S = 0.5
"""How long Redis may take to answer."""
AWAY_S = 5.0
"""How long it is not asked again after it failed."""
OWN_KEYS = 20_000
"""Counters that are kept in this process. To fill them somebody needs as many hashed passwords."""
KEY_PREFIX = "encore-throttle"

Storage = MemoryStorage | RedisStorage
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Patience:
    """Wrong tries that cost nothing; each one after them makes the next wait twice as long, up to a limit.

    So nobody is locked out for good: when the longest wait is over, one more try is looked at.
    """

    free: int
    longest_s: int
    memory_s: int = 3600
    """Tries are forgotten so long after the first."""

    def wait_s(self, tries: int) -> int:
        """How long to wait after so many."""
        return 0 if tries < self.free else min(2 ** min(tries - self.free + 1, 20), self.longest_s)


class Throttle:
    """Counts tries. While Redis is away each replica counts for itself, from nothing, and asks it again after 5 s."""

    def __init__(self, redis_url: str | None = None) -> None:
        self._own = MemoryStorage()
        self.forgotten = 0
        """How often the counters in this process were thrown away, since they had become too many."""
        self._pool: redis.asyncio.ConnectionPool | None = None
        self._shared: RedisStorage | None = None
        self._away_until_s = 0.0
        self._is_told = False
        if redis_url is not None:
            self._pool = redis.asyncio.ConnectionPool.from_url(
                redis_url.replace("valkey", "redis", 1) if redis_url.startswith("valkey") else redis_url,
                socket_timeout=ANSWER_S,
                socket_connect_timeout=ANSWER_S,
                retry=Retry(NoBackoff(), 0),
            )
            self._shared = RedisStorage(
                "async+redis://",
                implementation="redispy",
                key_prefix=KEY_PREFIX,
                connection_pool=self._pool,  # type: ignore[arg-type]  # documented; the annotation forgets it
            )

    @property
    def is_shared(self) -> bool:
        """Whether all replicas count together now, as far as is known."""
        return self._shared is not None and time.monotonic() >= self._away_until_s

    async def wait_s(self, *names: str) -> float:
        """How long somebody has to wait who has tried too often; 0: not at all."""
        return max([await self._remaining_s(name) for name in names])

    async def count(self, name: str, *, patience: Patience) -> bool:
        """Count one try, and let the next one wait if it is one too many.

        False, when another try at the same moment has begun the wait: this one has come too late.
        """
        tries = await self._do(lambda storage: storage.incr(_count(name), patience.memory_s))
        wait_s = patience.wait_s(tries)
        if not wait_s:
            return True
        return await self._do(lambda storage: storage.incr(_block(name), wait_s)) == 1

    async def forgive(self, *names: str) -> None:
        """Forget what was counted: the right password was known."""
        for name in names:
            await self._clear(_count(name))
            await self._clear(_block(name))

    async def limit(self, name: str, *items: RateLimitItem, detail: str) -> None:
        """Count one of something that may be done so often. Raises TooManyRequests when a limit is reached."""
        for item in items:
            wait_s = await self._take_s(item, _hidden(name))
            if wait_s:
                raise TooManyRequests(detail, retry_after_s=math.ceil(wait_s))

    async def close(self) -> None:
        """Give the connections back."""
        timer = self._own.timer
        if timer is not None:
            timer.cancel()
            await asyncio.gather(timer, return_exceptions=True)
        if self._pool is not None:
            await self._pool.aclose()

    async def _remaining_s(self, name: str) -> float:
        return await self._do(lambda storage: _remaining_s(storage, _block(name)))

    async def _clear(self, key: str) -> None:
        await self._do(lambda storage: storage.clear(key))

    async def _take_s(self, item: RateLimitItem, key: str) -> float:
        """Take one of a window; 0, or how long to wait where there is none left."""

        async def take(storage: Storage) -> float:
            limiter = FixedWindowRateLimiter(storage)
            if await limiter.hit(item, key):
                return 0.0
            stats = await limiter.get_window_stats(item, key)
            return max(1.0, stats.reset_time - time.time())

        return await self._do(take)

    async def _do(self, work: Callable[[Storage], Awaitable[Value]]) -> Value:
        if self._shared is not None and self.is_shared:
            try:
                async with asyncio.timeout(2 * ANSWER_S):
                    value = await work(self._shared)
            except (redis.RedisError, OSError, TimeoutError) as error:
                self._away_until_s = time.monotonic() + AWAY_S
                if not self._is_told:  # one line for each outage
                    self._is_told = True
                    log.warning("Redis is away (%s): each replica limits sign-ins for itself", type(error).__name__)
            else:
                self._is_told = False
                return value
        if len(self._own.expirations) >= OWN_KEYS:
            # A flood of names and addresses; each look at so many keys would hold everybody up.
            self.forgotten += 1
            log.warning("more than %d counters of tries: they begin anew", OWN_KEYS)
            await self._own.reset()
        return await work(self._own)


def _hidden(name: str) -> str:
    """Names and addresses of people are not written into Redis, nor anything that they typed."""
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:40]


def _count(name: str) -> str:
    return f"tries/{_hidden(name)}"


def _block(name: str) -> str:
    return f"wait/{_hidden(name)}"


async def _remaining_s(storage: Storage, key: str) -> float:
    if not await storage.get(key):
        return 0.0
    # Redis tells whole seconds, rounded.
    return max(1.0, await storage.get_expiry(key) - time.time())


_throttle: Throttle | None = None


def throttle() -> Throttle:
    """This process' own, with the Redis of the settings."""
    global _throttle
    if _throttle is None:
        url = read_settings().redis_url
        _throttle = Throttle(None if url is None else url.get_secret_value())
    return _throttle


async def close_throttle() -> None:
    """Give its connections back. The next use makes a new one."""
    global _throttle
    closing, _throttle = _throttle, None
    if closing is not None:
        await closing.close()

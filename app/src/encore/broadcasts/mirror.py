"""The keys in Redis by which other programs see the active broadcast and its acknowledgements.

`current_broadcast` holds the active broadcast as JSON; `broadcast:{id}:ack:{user_id}` exists once that user has
acknowledged it.
The database is the record: nothing is read from here, and nothing waits for it for more than half a second.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from encore.settings import read_settings

__all__ = ["Mirror", "mirror"]

log = logging.getLogger("encore.broadcasts")

CURRENT: Final = "current_broadcast"
ACKNOWLEDGED_S: Final = 30 * 86_400
AWAY_S: Final = 2.0
"""How long Redis is left alone after it did not answer."""
COMMAND_S: Final = 0.5


class Mirror:
    """Writes the keys, as far as Redis is there. `is_stale` says that something could not be written."""

    def __init__(self, url: str | None) -> None:
        retry = Retry(NoBackoff(), 0)
        self._redis = (
            None
            if url is None
            else Redis.from_url(url, socket_timeout=COMMAND_S, socket_connect_timeout=COMMAND_S, retry=retry)
        )
        self._away_until = 0.0
        self._is_told = False
        self.is_stale = url is not None
        self.failures = 0

    async def current(self, payload: str | None) -> None:
        """Show this as the active broadcast; None: there is none."""
        redis = self._redis
        if redis is not None:
            await self._try(lambda: redis.delete(CURRENT) if payload is None else redis.set(CURRENT, payload))

    async def acknowledged(self, broadcast_id: int, user_ids: Iterable[int]) -> None:
        """Show that these have acknowledged it."""
        redis = self._redis
        keys = [f"broadcast:{broadcast_id}:ack:{user_id}" for user_id in user_ids]
        if redis is None or not keys:
            return

        async def write() -> object:
            async with redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.set(key, b"1", ex=ACKNOWLEDGED_S)
                return await pipeline.execute()

        await self._try(write)

    async def close(self) -> None:
        if self._redis is not None:
            await self._redis.aclose()

    @property
    def may_be_there(self) -> bool:
        """Whether it is worth asking."""
        return self._redis is not None and time.monotonic() >= self._away_until

    async def _try(self, write: Callable[[], Awaitable[object]]) -> None:
        if not self.may_be_there:
            self.is_stale = True
            return
        try:
            await write()
        except (RedisError, OSError) as error:
            self.is_stale = True
            self.failures += 1
            self._away_until = time.monotonic() + AWAY_S
            if not self._is_told:  # one line for each outage, however often it is tried
                self._is_told = True
                log.warning("the active broadcast is not shown in Redis for now: %s", type(error).__name__)
            return
        if self._is_told:
            self._is_told = False
            log.info("the active broadcast is shown in Redis again")


def _made() -> Mirror:
    url = read_settings().redis_url
    return Mirror(None if url is None else url.get_secret_value())


mirror = _made()

"""The ways to a broker, and to a store: `base` and `store` say what they must offer."""

from __future__ import annotations

from antiphon.brokers.base import Broker
from antiphon.brokers.memory_store import MemoryStore
from antiphon.brokers.store import Store

__all__ = ["broker_for", "store_for"]


def broker_for(url: str | None, *, require_tls: bool | None = None) -> Broker | None:
    """The broker at an address; None without one. Makes no connection.

    Raises InvalidBrokerURL; and TLSRequired for one without TLS where `require_tls`, or `ANTIPHON_REQUIRE_TLS`, asks
    for it.
    """
    if url is None:
        return None
    # Imported here so that single-replica mode does not load the Redis client.
    from antiphon.brokers.redis_pubsub import RedisBroker

    return RedisBroker(url, require_tls=require_tls)


def store_for(url: str | None, *, require_tls: bool | None = None) -> Store:
    """A store at an address; without one, a new one in this process' memory. Raises as `broker_for` does, and makes no
    connection.
    """
    if url is None:
        return MemoryStore()
    from antiphon.brokers.redis_store import RedisStore

    return RedisStore(url, require_tls=require_tls)

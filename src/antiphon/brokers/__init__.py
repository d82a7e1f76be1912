"""The ways to a broker: `base` says what one must offer."""

from __future__ import annotations

from antiphon.brokers.base import Broker

__all__ = ["broker_for"]


def broker_for(url: str | None) -> Broker | None:
    """The broker at an address; None without one. Raises InvalidBrokerURL. Makes no connection."""
    if url is None:
        return None
    # Imported here so that single-replica mode does not load the Redis client.
    from antiphon.brokers.redis_pubsub import RedisBroker

    return RedisBroker(url)

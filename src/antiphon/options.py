"""What a manager is constructed with: checked at once, so that a mistake shows at import time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from antiphon.brokers import broker_for, store_for
from antiphon.brokers.base import Broker
from antiphon.brokers.store import Store
from antiphon.errors import ConfigurationError
from antiphon.limits import Limits
from antiphon.outbox import OutboxLimits
from antiphon.quotas import QuotaTimings
from antiphon.receipt import OutagePolicy, check_outage
from antiphon.security import Security
from antiphon.settings import Timings, read_settings, read_signing_keys
from antiphon.transports.base import SendLimits
from antiphon.wire.signing import Signer

__all__ = ["Options", "read_options", "signer_for"]

_Kind = TypeVar("_Kind", Limits, SendLimits, OutboxLimits, Timings, Security, QuotaTimings)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one manager."""

    broker: Broker | None
    """None in single-replica mode."""
    broker_key: object = field(repr=False)  # it holds the password
    """Managers with the same key, timings and outbox limits share a link."""
    outage: OutagePolicy
    limits: Limits
    send_limits: SendLimits
    outbox_limits: OutboxLimits
    timings: Timings
    signer: Signer | None
    """None: nothing is signed."""
    security: Security
    has_own_security: bool
    """Whether the application gave it."""
    quota_timings: QuotaTimings
    store_for: Callable[[], Store] | None = field(repr=False)
    """Makes what replicas share beside messages; None without an address."""


def signer_for(keys: str | Iterable[str] | None, *, accept_unsigned: bool = False) -> Signer | None:
    """Who signs, with the environment's keys unless some are given; None without keys. Raises InvalidSigningKey."""
    found = keys if keys is not None else read_signing_keys()
    if found is None and accept_unsigned:
        raise ConfigurationError("accept_unsigned=True means something only with signing_keys")
    return None if found is None else Signer(found, accept_unsigned=accept_unsigned)


def read_options(
    *,
    url: str | None,
    broker: Broker | None,
    outage: str,
    limits: Limits | None,
    send_limits: SendLimits | None,
    outbox_limits: OutboxLimits | None,
    timings: Timings | None,
    signing_keys: str | Iterable[str] | None,
    accept_unsigned: bool,
    require_tls: bool | None,
    security: Security | None,
    quota_timings: QuotaTimings | None,
) -> Options:
    """Check what a manager was given, and add the environment and the defaults.

    Raises InvalidBrokerURL and ConfigurationError, naming the fix.
    """
    policy = check_outage(outage)
    checked = (
        _checked("limits", limits, Limits),
        _checked("send_limits", send_limits, SendLimits),
        _checked("outbox_limits", outbox_limits, OutboxLimits),
        _checked("timings", timings, Timings),
        signer_for(signing_keys, accept_unsigned=accept_unsigned),
        _checked("security", security, Security),
        security is not None,
        _checked("quota_timings", quota_timings, QuotaTimings),
    )
    if broker is None:
        address = read_settings(url).broker_url
        found = broker_for(address, require_tls=require_tls)
        if address is None:
            return Options(found, id(None), policy, *checked, None)
        return Options(found, address, policy, *checked, partial(store_for, address, require_tls=require_tls))
    if url is not None:
        raise ConfigurationError("give either url= or broker=, not both")
    if not isinstance(broker, Broker):
        raise ConfigurationError("broker= takes a broker object; an address goes into url=")
    return Options(broker, id(broker), policy, *checked, None)


def _checked(name: str, value: _Kind | None, kind: type[_Kind]) -> _Kind:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name}= takes {kind.__name__}(…), not {type(value).__name__}")
    return value

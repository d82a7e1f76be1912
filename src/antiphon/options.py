"""What a manager is constructed with: checked at once, so that a mistake shows at import time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from antiphon.brokers import broker_for
from antiphon.brokers.base import Broker
from antiphon.errors import ConfigurationError
from antiphon.limits import Limits
from antiphon.outbox import OutboxLimits
from antiphon.receipt import OutagePolicy, check_outage
from antiphon.settings import Timings, read_settings
from antiphon.transports.base import SendLimits

__all__ = ["Options", "read_options"]

_Kind = TypeVar("_Kind", Limits, SendLimits, OutboxLimits, Timings)


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of one manager."""

    broker: Broker | None
    """None in single-replica mode."""
    broker_key: object
    """Managers with the same key, timings and outbox limits share a link."""
    outage: OutagePolicy
    limits: Limits
    send_limits: SendLimits
    outbox_limits: OutboxLimits
    timings: Timings


def read_options(
    *,
    url: str | None,
    broker: Broker | None,
    outage: str,
    limits: Limits | None,
    send_limits: SendLimits | None,
    outbox_limits: OutboxLimits | None,
    timings: Timings | None,
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
    )
    if broker is None:
        address = read_settings(url).broker_url
        found = broker_for(address)
        return Options(found, address if address is not None else id(None), policy, *checked)
    if url is not None:
        raise ConfigurationError("give either url= or broker=, not both")
    if not isinstance(broker, Broker):
        raise ConfigurationError("broker= takes a broker object; an address goes into url=")
    return Options(broker, id(broker), policy, *checked)


def _checked(name: str, value: _Kind | None, kind: type[_Kind]) -> _Kind:
    if value is None:
        return kind()
    if not isinstance(value, kind):
        raise ConfigurationError(f"{name}= takes {kind.__name__}(…), not {type(value).__name__}")
    return value

"""From statistics to one word that a load balancer understands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from antiphon.codes import Reason, State
from antiphon.stats import LinkStats, ManagerStats

__all__ = ["BrokerHealth", "Health", "Status", "health_of", "without_user"]

Status: TypeAlias = Literal["ok", "degraded", "draining", "starting", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerHealth:
    """The link to one broker."""

    address: str
    """Without user name and password. Not part of `Health.as_dict`: whoever may ask need not know it."""
    state: State
    reason: Reason | None
    """Why it is degraded; None when it is not."""
    since_s: float | None
    """For how many seconds it has been in this state; None when nobody noted it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How a manager, or a whole replica, is."""

    ready: bool
    """Whether a load balancer should send new clients here."""
    status: Status
    """`ok`; `degraded`: a broker is away, so messages reach this replica's clients alone; `starting`: the first attempt
    to connect to a broker has not ended; `draining`: the replica is about to end; `closed`: all managers are."""
    draining: bool
    brokers: tuple[BrokerHealth, ...]
    """One for each link, in the order of their addresses; empty in single-replica mode and before the first use."""

    def as_dict(self) -> dict[str, object]:
        """As JSON may show it to anybody: no address, no version, no name."""
        return {
            "ready": self.ready,
            "status": self.status,
            "draining": self.draining,
            "brokers": [
                {
                    "state": str(broker.state),
                    "reason": None if broker.reason is None else str(broker.reason),
                    "since_s": None if broker.since_s is None else round(broker.since_s, 1),
                }
                for broker in self.brokers
            ],
        }


def health_of(
    managers: Iterable[ManagerStats],
    *,
    draining: bool = False,
    red_when_degraded: bool = False,
    since_s: Mapping[str, float] | None = None,
) -> Health:
    """What the statistics of some managers of one replica come to. Never raises.

    A degraded replica is ready all the same, since it serves its clients and would be replaced by another that has the
    same broker; with `red_when_degraded` it is not. A manager that was not used yet is ready: its first client starts
    it. `since_s` says for how long each link has been in its state, by the replica's id at that broker.
    """
    found = list(managers)
    links: dict[str, LinkStats] = {manager.link.replica: manager.link for manager in found if manager.link is not None}
    status = _status(found, links.values(), draining=draining)
    times = since_s or {}
    brokers = [
        BrokerHealth(
            address=without_user(link.address), state=link.state, reason=link.reason, since_s=times.get(link.replica)
        )
        for link in links.values()
    ]
    brokers.sort(key=lambda broker: broker.address)
    ready = status == "ok" or (status == "degraded" and not red_when_degraded)
    return Health(ready=ready, status=status, draining=draining, brokers=tuple(brokers))


def _status(managers: list[ManagerStats], links: Iterable[LinkStats], *, draining: bool) -> Status:
    if managers and all(manager.state is State.CLOSED for manager in managers):
        return "closed"
    if draining:
        return "draining"
    states = [(link.state, link.reason) for link in links]
    if (State.DEGRADED, Reason.STARTING) in states:
        return "starting"
    return "degraded" if any(state is State.DEGRADED for state, _ in states) else "ok"


def without_user(address: str) -> str:
    """An address without user and password: brokers give it so, those that other people wrote may not."""
    scheme, found, rest = address.rpartition("://")
    return f"{scheme}{found}{rest.rpartition('@')[2]}"

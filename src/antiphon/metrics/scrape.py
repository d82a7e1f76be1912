"""Reading everything that is counted, at one moment: managers of one channel, and links to one broker, are added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeAlias

from antiphon.codes import State
from antiphon.health.history import LinkHistory
from antiphon.health.status import without_user
from antiphon.health.vitals import Measured, Vitals
from antiphon.histogram import Histogram
from antiphon.loop_lag import LoopLag
from antiphon.metrics.families import FAMILIES
from antiphon.stats import LinkStats, ManagerStats

__all__ = ["Counted", "Scrape", "cumulative", "scrape"]


class Counted(Protocol):
    """What has statistics: a manager."""

    def stats(self) -> ManagerStats: ...


Values: TypeAlias = dict[str, dict[tuple[str, ...], float]]
Histograms: TypeAlias = dict[str, dict[tuple[str, ...], list[Histogram]]]


class Scrape:
    """What the managers of this process come to; those of one channel, and links to one broker, are added up."""

    def __init__(self) -> None:
        self.values: Values = {name: {} for name, family in FAMILIES.items() if family.kind != "histogram"}
        self.histograms: Histograms = {name: {} for name, family in FAMILIES.items() if family.kind == "histogram"}
        self._links: set[str] = set()
        self._lags: list[LoopLag] = []
        self._securities: list[Mapping[str, int]] = []

    def add(self, name: str, value: float, *labels: str) -> None:
        found = self.values[name]
        found[labels] = found.get(labels, 0) + value

    def peak(self, name: str, value: float, *labels: str) -> None:
        found = self.values[name]
        found[labels] = max(found.get(labels, 0), value)

    def reasons(self, name: str, counts: Mapping[str, int], *labels: str) -> None:
        for reason, count in dict(counts).items():
            self.add(name, count, *labels, str(reason))

    def manager(self, stats: ManagerStats, vitals: Vitals | None) -> None:
        channel, add = stats.channel, self.add
        add("antiphon_connections", stats.connections, channel)
        add("antiphon_users", stats.users, channel)
        add("antiphon_topics", stats.topics, channel)
        add("antiphon_connects_total", stats.connects, channel)
        add("antiphon_disconnects_total", stats.disconnects, channel)
        self.reasons("antiphon_lost_connections_total", stats.lost, channel)
        self.reasons("antiphon_slow_dropped_total", stats.dropped_slow, channel)
        add("antiphon_handler_errors_total", stats.handler_errors, channel)
        add("antiphon_publications_total", stats.published_cluster, channel, "cluster")
        add("antiphon_publications_total", stats.published_local, channel, "local")
        add("antiphon_publications_total", stats.publish_failed, channel, "failed")
        add("antiphon_deliveries_total", stats.delivered, channel)
        add("antiphon_undelivered_total", stats.filtered, channel, "filtered")
        add("antiphon_undelivered_total", stats.filter_errors, channel, "filter_error")
        add("antiphon_undelivered_total", stats.expired, channel, "expired")
        if vitals is not None:
            self._vitals(channel, vitals)
        link = stats.link
        if link is not None and link.replica not in self._links:
            self._links.add(link.replica)
            self._link(link, vitals.history if vitals is not None else None)

    def _vitals(self, channel: str, vitals: Vitals) -> None:
        add = self.add
        self.peak("antiphon_draining", int(vitals.draining), channel)
        add("antiphon_received_messages_total", vitals.received, channel)
        add("antiphon_received_bytes_total", vitals.received_bytes, channel)
        add("antiphon_sent_bytes_total", vitals.sent_bytes, channel)
        add("antiphon_queued_bytes", vitals.queued_bytes, channel)
        add("antiphon_queued_connections", vitals.queued_connections, channel)
        add("antiphon_backlog_bytes", vitals.backlog_bytes, channel)
        self.reasons("antiphon_refused_connections_total", vitals.refused_connections, channel)
        self.reasons("antiphon_refused_messages_total", vitals.refused_messages, channel)
        self.reasons("antiphon_ended_connections_total", vitals.ended_connections, channel)
        add("antiphon_unshared_connections_total", vitals.unshared_connections, channel)
        add("antiphon_quota_outages_total", vitals.quota_outages, channel)
        self.reasons("antiphon_recheck_errors_total", vitals.recheck_errors, channel)
        add("antiphon_forgotten_revocations_total", vitals.forgotten_revocations, channel)
        add("antiphon_unnoted_revocations_total", vitals.unnoted_revocations, channel)
        add("antiphon_unchecked_connections_total", vitals.unchecked_connections, channel)
        security = vitals.security
        if security is not None and all(security is not one for one in self._securities):
            self._securities.append(security)
            self.reasons("antiphon_refused_handshakes_total", security)
            self.reasons("antiphon_security_errors_total", vitals.security_errors)
            add("antiphon_security_timeouts_total", vitals.security_timeouts)
            add("antiphon_denied_topics_total", vitals.denied_topics)
        lag = vitals.loop_lag
        if lag is not None and all(lag is not one for one in self._lags):
            self._lags.append(lag)
            self.histogram("antiphon_loop_lag_seconds", lag.seconds)
            self.peak("antiphon_loop_lag_worst_seconds", lag.worst_s)

    def _link(self, link: LinkStats, history: LinkHistory | None) -> None:
        broker, add = without_user(link.address), self.add
        for state in (State.UP, State.SUSPECT, State.DEGRADED):
            self.peak("antiphon_relay_state", int(link.state is state), broker, str(state))
        self.peak("antiphon_relay_replicas", link.replicas or 0, broker)
        add("antiphon_relay_routes", link.routes, broker)
        add("antiphon_relay_in_flight", link.in_flight, broker)
        add("antiphon_relay_received_total", link.received, broker)
        self.reasons("antiphon_relay_rejected_total", link.rejected, broker)
        add("antiphon_relay_duplicates_total", link.duplicates, broker)
        add("antiphon_relay_stale_retries_total", link.stale_retries, broker)
        add("antiphon_relay_dials_total", link.dials, broker)
        self.reasons("antiphon_relay_losses_total", link.losses, broker)
        add("antiphon_relay_publisher_redials_total", link.publisher_redials, broker)
        add("antiphon_outbox_messages", link.outbox_messages, broker)
        add("antiphon_outbox_bytes", link.outbox_bytes, broker)
        add("antiphon_outbox_queued_total", link.queued, broker)
        add("antiphon_outbox_flushed_total", link.flushed, broker)
        self.reasons("antiphon_outbox_dropped_total", link.dropped, broker)
        if history is not None:
            for state, seconds in history.seconds.items():
                if state in (State.UP, State.SUSPECT, State.DEGRADED):
                    add("antiphon_relay_state_seconds_total", seconds, broker, str(state))
            self.histogram("antiphon_relay_detect_seconds", history.detect, broker)
            self.histogram("antiphon_relay_recover_seconds", history.recover, broker)
            self.histogram("antiphon_publish_to_deliver_seconds", history.own, broker, "own")
            self.histogram("antiphon_publish_to_deliver_seconds", history.others, broker, "other")

    def histogram(self, name: str, histogram: Histogram, *labels: str) -> None:
        self.histograms[name].setdefault(labels, []).append(histogram)


def scrape(managers: Iterable[Counted]) -> Scrape:
    found = Scrape()
    for manager in managers:
        found.manager(manager.stats(), manager.vitals() if isinstance(manager, Measured) else None)
    return found


def cumulative(histograms: Sequence[Histogram]) -> tuple[list[tuple[str, float]], float]:
    """What Prometheus wants to see: how many were below each bound, all below included."""
    bounds = [*histograms[0].bounds, float("inf")]
    counts = [sum(column) for column in zip(*(histogram.counts for histogram in histograms), strict=True)]
    buckets, below = [], 0
    for bound, count in zip(bounds, counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == float("inf") else repr(bound), float(below)))
    return buckets, sum(histogram.sum for histogram in histograms)

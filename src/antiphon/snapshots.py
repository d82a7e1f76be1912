"""What a manager shows of itself: its statistics, what is measured beside them, and how it is."""

from __future__ import annotations

from collections import Counter

from antiphon.attachment import Attachment
from antiphon.codes import CloseCode, State
from antiphon.health.gate import gate_is_open
from antiphon.health.status import Health, health_of
from antiphon.health.vitals import Vitals
from antiphon.hub import Hub
from antiphon.security import Security
from antiphon.stats import ManagerStats
from antiphon.stay import Tally

__all__ = ["health_from", "stats_of", "vitals_of"]


def stats_of(hub: Hub, *, state: State, attachment: Attachment | None) -> ManagerStats:
    """The statistics of a manager at this moment."""
    counters = hub.counters
    return ManagerStats(
        channel=hub.channel,
        state=state,
        connections=len(hub),
        users=hub.user_count,
        topics=len(hub.topics),
        published=counters.published,
        published_cluster=counters.published_cluster,
        published_local=counters.published_local,
        publish_failed=counters.publish_failed,
        delivered=counters.delivered,
        filtered=counters.filtered,
        filter_errors=counters.filter_errors,
        handler_errors=counters.handler_errors,
        expired=counters.expired,
        connects=counters.connects,
        disconnects=counters.disconnects,
        lost=dict(counters.lost),
        dropped_slow=dict(counters.dropped_slow),
        link=attachment.relay.stats() if attachment is not None else None,
    )


def vitals_of(hub: Hub, tally: Tally, *, attachment: Attachment | None, security: Security) -> Vitals:
    """What is measured of a manager beside its statistics."""
    inbound, cut, asked = tally.inbound, tally.revocations, security.counters
    ended = Counter(inbound.closed)
    ended.update(cut.ended_by)
    if cut.revoked:
        ended[CloseCode.REVOKED.name] += cut.revoked
    clients, queued_bytes = attachment.lanes.waiting() if attachment is not None else (0, 0)
    return Vitals(
        draining=attachment is not None and not gate_is_open(attachment.loop),
        received=inbound.received,
        received_bytes=inbound.received_bytes,
        sent_bytes=hub.counters.sent_bytes,
        queued_bytes=queued_bytes,
        queued_connections=clients,
        backlog_bytes=attachment.lanes.backlog_bytes if attachment is not None else 0,
        refused_connections=tally.refused,
        refused_messages=inbound.refused,
        ended_connections=ended,
        security=asked.refused,
        security_errors={
            "authenticator": asked.authenticator_errors,
            "authorize": asked.authorize_errors,
            "recheck": asked.recheck_errors,
        },
        security_timeouts=asked.timeouts,
        denied_topics=asked.topics_denied,
        recheck_errors={"error": cut.errors, "timeout": cut.timeouts},
        forgotten_revocations=cut.forgotten,
        unnoted_revocations=cut.unnoted,
        unchecked_connections=cut.unchecked,
        unshared_connections=tally.quotas.unshared,
        quota_outages=tally.quotas.outages,
        history=attachment.relay.history if attachment is not None else None,
        loop_lag=attachment.lag if attachment is not None else None,
    )


def health_from(stats: ManagerStats, vitals: Vitals, *, red_when_degraded: bool) -> Health:
    """Whether a manager's replica should get new clients, and how its link to the broker is."""
    since_s = {} if stats.link is None or vitals.history is None else {stats.link.replica: vitals.history.since_s}
    return health_of([stats], draining=vitals.draining, red_when_degraded=red_when_degraded, since_s=since_s)

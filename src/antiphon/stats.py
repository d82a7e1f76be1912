"""Counters, and the read-only snapshots that are taken of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from antiphon.codes import Reason, State

__all__ = ["HubCounters", "LinkCounters", "LinkStats", "ManagerStats"]


@dataclass(slots=True)
class HubCounters:
    """What one manager counts on this replica, from its construction on. All grow only."""

    published: int = 0
    """Publications made through this manager."""
    published_cluster: int = 0
    """Those that the broker confirmed."""
    published_local: int = 0
    """Those that reached this replica's clients alone, at least at first."""
    publish_failed: int = 0
    """Those that raised PublishFailed, by the policy "fail"."""
    delivered: int = 0
    """Messages given to this replica's sockets: one message to 100 clients counts 100."""
    sent_bytes: int = 0
    """Bytes of those messages, uncompressed and without the frames' headers."""
    filtered: int = 0
    """Messages that the filter kept back."""
    filter_errors: int = 0
    """Messages kept back because the filter raised."""
    handler_errors: int = 0
    """Times that `on_connect`, `on_message` or `on_close` raised."""
    expired: int = 0
    """Messages that arrived after their expiry."""
    connects: int = 0
    disconnects: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    """Connections that this replica had to end, by reason: `slow`, `error`, `closed`; not those whose client left."""
    dropped_slow: Counter[str] = field(default_factory=Counter)
    """Messages with a policy that were dropped for one client that was behind, by reason: `drop_oldest` (no room),
    `replaced` (a newer one of its key came), `aged`. One message that 100 clients miss counts 100."""


@dataclass(slots=True)
class LinkCounters:
    """What the link to one broker counts in this process. All grow only."""

    received: int = 0
    """Payloads that came from the broker."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Payloads that could not be understood, by reason: `malformed`, `version`."""
    duplicates: int = 0
    """Copies that were dropped because this replica had the same id before."""
    stale_retries: int = 0
    """Late re-sends that were dropped because it is not known any more whether they are copies."""
    queued: int = 0
    """Publications that went into the outbox while the broker was away."""
    flushed: int = 0
    """Publications that left the outbox and were confirmed by the broker."""
    dropped: Counter[Reason] = field(default_factory=Counter)
    """Publications that the outbox dropped, by reason, and ephemeral ones that it never took."""
    dials: int = 0
    """Attempts to connect."""
    losses: Counter[Reason] = field(default_factory=Counter)
    """Times that the link was lost, by reason."""
    publisher_redials: int = 0
    """Times that the publishing connection alone was made anew."""


@dataclass(frozen=True, slots=True)
class LinkStats:
    """One broker link at one moment. Counts are since the start of the process."""

    address: str
    state: State
    reason: Reason | None
    """Why it is degraded; None when it is not."""
    replica: str
    """This replica's id at the broker."""
    replicas: int | None
    """Replicas that the broker knew when it was last asked, this one included; None before the first answer."""
    routes: int
    """Routes (Redis channels) that this replica hears or wants to hear."""
    in_flight: int
    outbox_messages: int
    outbox_bytes: int
    received: int
    rejected: Mapping[str, int]
    duplicates: int
    stale_retries: int
    queued: int
    flushed: int
    dropped: Mapping[str, int]
    dials: int
    losses: Mapping[str, int]
    publisher_redials: int


@dataclass(frozen=True, slots=True)
class ManagerStats:
    """One manager at one moment, on this replica. Counts are since its construction."""

    channel: str
    state: State
    connections: int
    users: int
    topics: int
    published: int
    published_cluster: int
    published_local: int
    publish_failed: int
    delivered: int
    filtered: int
    filter_errors: int
    handler_errors: int
    expired: int
    connects: int
    disconnects: int
    lost: Mapping[str, int]
    dropped_slow: Mapping[str, int]
    link: LinkStats | None
    """The broker link; None in single-replica mode and before the first use."""

"""What is measured of one manager beside its statistics: a snapshot for metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from antiphon.health.history import LinkHistory
from antiphon.loop_lag import LoopLag
from antiphon.stats import ManagerStats

__all__ = ["Measured", "Vitals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Vitals:
    """One manager at one moment. Counts are since its construction."""

    draining: bool = False
    """New sockets are refused, because the replica is about to end."""
    received: int = 0
    """Messages from clients, where the library reads the sockets."""
    received_bytes: int = 0
    sent_bytes: int = 0
    """Bytes of the messages given to sockets, uncompressed: one of 1 KiB to 100 clients counts 100 KiB."""
    queued_bytes: int = 0
    """Bytes that wait for clients which do not read quickly enough."""
    queued_connections: int = 0
    """How many clients those are."""
    backlog_bytes: int = 0
    """Bytes of messages that are not yet handed to every socket; each message counts once."""
    refused_connections: Mapping[str, int] = field(default_factory=dict)
    """Sockets that the manager did not let in, by the refusal's kind."""
    refused_messages: Mapping[str, int] = field(default_factory=dict)
    """Messages of clients that were answered with an error, by its code."""
    ended_connections: Mapping[str, int] = field(default_factory=dict)
    """Sockets that were ended for what the client sent, did not send, or may do no longer, by the close code's name."""
    security: Mapping[str, int] | None = None
    """The counter itself of handshakes and requests that were refused, by kind; one may serve many managers."""
    security_errors: Mapping[str, int] = field(default_factory=dict)
    """Questions that nobody could answer, by whom was asked: `authenticator`, `authorize`, `recheck`. Counted with
    `security`, as are the next two.
    """
    security_timeouts: int = 0
    """Those of a handshake that took too long; they are among the errors too."""
    denied_topics: int = 0
    """Topics that `authorize` said no to, or raised for."""
    recheck_errors: Mapping[str, int] = field(default_factory=dict)
    """Questions of re-checks without an answer, whose connections were kept: `error`, `timeout`."""
    forgotten_revocations: int = 0
    """Revocations that this replica forgot before their time, because there were too many."""
    unnoted_revocations: int = 0
    """Revocations that replicas which were not in use at the time cannot know of."""
    unchecked_connections: int = 0
    """Sockets that were let in without a look at the revocations that this replica was not there to hear of."""
    unshared_connections: int = 0
    """Sockets that were let in by this replica's counts alone, because the store was away."""
    quota_outages: int = 0
    """Times that the store was lost."""
    history: LinkHistory | None = None
    """The past of the broker link; None where there is none."""
    loop_lag: LoopLag | None = None
    """How late the manager's event loop is."""


@runtime_checkable
class Measured(Protocol):
    """What can be asked for its statistics and its vitals."""

    def stats(self) -> ManagerStats: ...

    def vitals(self) -> Vitals: ...

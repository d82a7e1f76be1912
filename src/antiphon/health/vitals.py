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
    history: LinkHistory | None = None
    """The past of the broker link; None where there is none."""
    loop_lag: LoopLag | None = None
    """How late the manager's event loop is."""


@runtime_checkable
class Measured(Protocol):
    """What can be asked for its statistics and its vitals."""

    def stats(self) -> ManagerStats: ...

    def vitals(self) -> Vitals: ...

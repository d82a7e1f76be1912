"""The good-bye of a replica: no new sockets, the open ones sent away in waves, the outbox flushed, then the end."""

from antiphon.drain.endpoints import drain_endpoint, health_endpoint, liveness_endpoint, readiness
from antiphon.drain.sequence import Drain, Drainable, DrainReport
from antiphon.drain.signals import drains_on_signals, install_signals, restore_signals

__all__ = [
    "Drain",
    "DrainReport",
    "Drainable",
    "drain_endpoint",
    "drains_on_signals",
    "health_endpoint",
    "install_signals",
    "liveness_endpoint",
    "readiness",
    "restore_signals",
]

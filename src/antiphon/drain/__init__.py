"""The good-bye of a replica: no new sockets, the open ones sent away in waves, the outbox flushed, then the end."""

from functools import partial

from antiphon.drain.endpoints import drain_endpoint, health_endpoint, liveness_endpoint, readiness
from antiphon.drain.sequence import Drain, Drainable, DrainReport
from antiphon.drain.signals import drains_on_signals, install_signals, restore_signals
from antiphon.manager import on_first_use

# Wherever uvicorn serves: nobody has to ask for it.
on_first_use.append(partial(install_signals, before_uvicorn_only=True))

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

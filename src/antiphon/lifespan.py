"""Starting and closing all managers with the application, for those who want it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from antiphon.drain import drains_on_signals
from antiphon.errors import WrongEventLoop
from antiphon.manager import WebSocketManager, managers_here
from antiphon.settings import collector_may_freeze

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[None]:
    """Connect every manager to its broker before the first request, and close them all at the end.

        app = FastAPI(lifespan=antiphon.lifespan)

    Without it managers start at their first use. Takes at most about a second when the broker is away, and never raises
    because of that. Managers that another event loop of this process uses are left alone.

    SIGTERM and SIGINT begin a drain (`Drain`) before the server's own handling of them. What the application has made
    by then is kept out of the garbage collector's further runs (`gc.freeze`), which otherwise look at all of it again
    and again while clients connect; `ANTIPHON_GC_FREEZE=false` leaves the collector alone.
    """
    with drains_on_signals():
        await _with_each(WebSocketManager.start)
        frozen = collector_may_freeze()
        if frozen:
            gc.collect()
            gc.freeze()
        try:
            yield
        finally:
            if frozen:
                gc.unfreeze()
            await _with_each(WebSocketManager.stop)


async def _with_each(work: Callable[[WebSocketManager], Awaitable[None]]) -> None:
    """Do this with all managers at the same time; one that fails keeps the others from nothing."""
    endings = await asyncio.gather(*map(work, managers_here()), return_exceptions=True)
    for ending in endings:
        if ending is not None and not isinstance(ending, WrongEventLoop):
            raise ending

"""Starting and closing all managers with the application, for those who want it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from antiphon.errors import WrongEventLoop
from antiphon.manager import WebSocketManager, managers_here

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[None]:
    """Connect every manager to its broker before the first request, and close them all at the end.

        app = FastAPI(lifespan=antiphon.lifespan)

    Without it managers start at their first use. Takes at most about a second when the broker is away, and never raises
    because of that. Managers that another event loop of this process uses are left alone.
    """
    await _with_each(WebSocketManager.start)
    try:
        yield
    finally:
        await _with_each(WebSocketManager.stop)


async def _with_each(work: Callable[[WebSocketManager], Awaitable[None]]) -> None:
    """Do this with all managers at the same time; one that fails keeps the others from nothing."""
    endings = await asyncio.gather(*map(work, managers_here()), return_exceptions=True)
    for ending in endings:
        if ending is not None and not isinstance(ending, WrongEventLoop):
            raise ending

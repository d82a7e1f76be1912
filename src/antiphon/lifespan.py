"""Starting and closing all managers with the application, for those who want it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from antiphon.manager import managers_here

__all__ = ["lifespan"]


@asynccontextmanager
async def lifespan(app: object = None) -> AsyncIterator[None]:
    """Connect every manager to its broker before the first request, and close them all at the end.

        app = FastAPI(lifespan=antiphon.lifespan)

    Without it managers start at their first use. Takes at most about a second when the broker is away, and never raises
    because of that.
    """
    for manager in managers_here():
        await manager.start()
    try:
        yield
    finally:
        for manager in managers_here():
            await manager.close()

"""Old notifications go, read or not, so that the tables stay as large as half a year is."""

from __future__ import annotations

import asyncio
import datetime
from typing import Final

from encore.db import database, now
from encore.forum import notification_service
from encore.live import while_serving

__all__ = ["KEPT", "forget_old", "keep_forgetting"]

KEPT: Final = datetime.timedelta(days=180)
EVERY_S: Final = 3600.0
AT_ONCE: Final = 20
"""Notifications in one unit of work; each may have been told to everyone."""


@while_serving
async def keep_forgetting() -> None:
    """Every replica looks once an hour; what another one has just removed is not there any more."""
    while True:
        await forget_old()
        await asyncio.sleep(EVERY_S)


async def forget_old() -> int:
    """Remove the notifications that are older than 180 days, and tell those who had them. How many."""
    count = 0
    while True:
        async with database().reading() as session:
            ids = await notification_service.old_ids(session, before=now() - KEPT, limit=AT_ONCE)
        if not ids:
            return count
        async with database().writing() as session:
            await notification_service.forget(session, ids)
        count += len(ids)

"""What every replica does about broadcasts without being asked: sends what is due, and writes down who got what."""

from __future__ import annotations

import logging
from typing import Final

from sqlalchemy.exc import SQLAlchemyError

from encore.broadcasts import service
from encore.broadcasts.channel import audience
from encore.broadcasts.figures import keep_reach, reach
from encore.broadcasts.mirror import mirror
from encore.broadcasts.models import Broadcast
from encore.db import database
from encore.live import while_serving

__all__ = ["keep_time"]

log = logging.getLogger("encore.broadcasts")

TICK_S: Final = 0.5


@while_serving
async def keep_time() -> None:
    """All replicas look; of those that see one that is due, the database lets one send it."""
    try:
        while True:
            await send_due()
            await write_down()
            if mirror.is_stale and mirror.may_be_there:
                async with database().reading() as session:
                    await service.repair_mirror(session)
            await audience.news(timeout_s=TICK_S)
    finally:
        await mirror.close()


async def send_due() -> None:
    """Send the scheduled broadcasts whose time has come, each in a unit of work of its own."""
    async with database().reading() as session:
        due = await service.due_ids(session)
    for broadcast_id in due:
        async with database().writing() as session:
            announcement = await service.fire(session, broadcast_id)
        if announcement is None or announcement.receipt is None:
            continue
        here = announcement.receipt.connections
        async with database().reading() as session:
            targets = await service.targets_of(session, await session.get_one(Broadcast, broadcast_id))
        reached, _ = await reach(targets, here=here)
        async with database().writing() as session:
            await keep_reach(session, broadcast_id, sent_to_users=here, reached=reached)


async def write_down() -> None:
    """Keep what this replica noted about deliveries; what the database does not take waits for the next time."""
    notes = audience.take_notes()
    if not notes:
        return
    try:
        async with database().writing() as session:
            await service.record_deliveries(session, notes)
    except SQLAlchemyError:
        for note in notes:
            audience.note(note)
        raise

"""The channel `forum`: who may hear which thread, and how what happens in one is told."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from antiphon import Identity
from encore.accounts.sockets import claimed_rightly, site_security
from encore.db import database
from encore.forum.access import is_public, may_read, topic_of
from encore.live import LIMITS, Announcement, ServerMessage, announce, channel

__all__ = ["SignedIn", "manager", "security", "tell_everybody", "tell_thread"]

PUBLIC_S = 30.0
MOST_PUBLIC = 10_000
_public_until: dict[int, float] = {}
"""Threads that were seen to be public, which they stay, and how long that is believed: they may be deleted.

Everybody who is connected is asked about every minute, for each thread they hear: without this the database would be.
"""

_TOPIC = re.compile(r"thread:([1-9][0-9]{0,17})")


async def may_hear(identity: Identity | None, topic: str) -> bool:
    """Whether somebody may hear a topic of the channel. Asked at every subscription, and again every minute."""
    found = _TOPIC.fullmatch(topic)
    if found is None or identity is None or identity.user_id is None:
        return False
    thread_id, now = int(found[1]), time.monotonic()
    if _public_until.get(thread_id, now) > now:
        return True
    async with database().reading() as session:
        if await is_public(session, thread_id):
            if len(_public_until) >= MOST_PUBLIC:
                _public_until.clear()
            _public_until[thread_id] = now + PUBLIC_S
            return True
        return await may_read(session, user_id=int(identity.user_id), thread_id=thread_id)


security = site_security(authorize=may_hear)
manager = channel("forum", security=security, limits=replace(LIMITS, frames_burst=160))
"""The burst: a page that comes back subscribes again to all that it shows, up to 128 threads, in one go."""
SignedIn = Annotated[Identity, Depends(claimed_rightly(security))]
"""Who is at the other end of a socket of the forum."""


def tell_thread(
    session: AsyncSession, thread_id: int, message: ServerMessage, *, visible_to: set[int] | None
) -> Announcement:
    """Announce a message to those who hear a thread, and of them only to `visible_to`, unless that is None.

    A private thread's messages always name its members: whoever was one, and hears the topic still, gets nothing.
    """
    return announce(session, manager, message, topic=topic_of(thread_id), target_user_ids=_names(visible_to))


def tell_everybody(session: AsyncSession, message: ServerMessage, *, visible_to: set[int] | None) -> Announcement:
    """Announce a message to everybody on the channel, or to all sockets of `visible_to`."""
    return announce(session, manager, message, target_user_ids=_names(visible_to))


def _names(user_ids: set[int] | None) -> set[str] | None:
    return None if user_ids is None else {str(user_id) for user_id in user_ids}

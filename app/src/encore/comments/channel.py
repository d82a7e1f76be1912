"""The channel `track_comments`: a topic for each track, and who types where."""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Final

from fastapi import Depends

from antiphon import Identity
from encore.accounts.sockets import claimed_rightly, site_security
from encore.catalogue.service import track_for_comments
from encore.db import database
from encore.live import channel

__all__ = ["SignedIn", "TypingNotes", "manager", "topic_of", "typing_notes"]

_TOPIC = re.compile(r"track:([1-9][0-9]{0,17})")


async def may_hear(identity: Identity | None, topic: str) -> bool:
    """Everybody who is signed in may hear every track that there is."""
    found = _TOPIC.fullmatch(topic)
    if found is None or identity is None:
        return False
    async with database().reading() as session:
        return await track_for_comments(session, int(found[1])) is not None


security = site_security(authorize=may_hear)
manager = channel("track_comments", security=security)
SignedIn = Annotated[Identity, Depends(claimed_rightly(security))]


def topic_of(track_id: int) -> str:
    """The topic on which a track's comments are told."""
    return f"track:{track_id}"


class TypingNotes:
    """When each person's typing was last told, so that it is not told with every key.

    "Types" is told once in two seconds; "has stopped" only after it. Bounded: the oldest notes are forgotten, which at
    most tells something once more.
    """

    EVERY_S: Final = 2.0
    LIMIT: Final = 10_000

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: OrderedDict[tuple[str, int], float] = OrderedDict()

    def is_news(self, user_id: str, track_id: int, *, is_typing: bool) -> bool:
        """Whether to tell it, which is noted then."""
        key, now = (user_id, track_id), self._clock()
        told_at = self._told.get(key)
        if not is_typing:
            return self._told.pop(key, None) is not None
        if told_at is not None and now - told_at < self.EVERY_S:
            return False
        self._told[key] = now
        self._told.move_to_end(key)
        if len(self._told) > self.LIMIT:
            self._told.popitem(last=False)
        return True


typing_notes = TypingNotes()

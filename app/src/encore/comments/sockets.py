"""Which track a socket is about."""

from __future__ import annotations

from fastapi import WebSocket

from antiphon import CloseCode, Refused, refuse
from encore.catalogue.service import track_for_comments
from encore.db import database

__all__ = ["NoSuchTrack", "existing_track"]


class NoSuchTrack(Refused):
    """The address names a track that is not there."""

    close_code = CloseCode.BAD_REQUEST
    close_reason = "there is no such track"
    http_status = 404
    kind = "no_such_track"


async def existing_track(websocket: WebSocket, track_id: str) -> int:
    """The track's number; the socket is refused, with 4506 and the reason, when there is none."""
    is_number = track_id.isascii() and track_id.isdigit() and len(track_id) < 19
    if is_number:
        async with database().reading() as session:
            if await track_for_comments(session, int(track_id)) is not None:
                return int(track_id)
    await refuse(websocket, NoSuchTrack(track_id[:40]))

"""What goes over the channel `broadcasts`."""

from __future__ import annotations

from typing import Literal

from encore.broadcasts.schemas import BroadcastData, Id
from encore.live import ClientMessage, Heartbeat, Ping, Pong, Problem, ServerMessage

__all__ = [
    "FROM_CLIENT",
    "FROM_SERVER",
    "AcknowledgeBroadcast",
    "ActiveBroadcast",
    "BroadcastCleared",
    "Connected",
    "GetActiveBroadcast",
    "NewBroadcast",
]


class Connected(ServerMessage):
    type: Literal["connected"] = "connected"
    message: str = "Connected to broadcast live updates"


class NewBroadcast(ServerMessage):
    type: Literal["new_broadcast"] = "new_broadcast"
    broadcast: BroadcastData


class ActiveBroadcast(ServerMessage):
    """Straight after connecting, when something is active that this user has not acknowledged; or when asked for."""

    type: Literal["active_broadcast"] = "active_broadcast"
    broadcast: BroadcastData | None


class BroadcastCleared(ServerMessage):
    """To be shown no longer: it was cleared, or this user has acknowledged it on some device."""

    type: Literal["broadcast_cleared"] = "broadcast_cleared"
    broadcast_id: int


class AcknowledgeBroadcast(ClientMessage):
    type: Literal["acknowledge_broadcast"] = "acknowledge_broadcast"
    broadcast_id: Id


class GetActiveBroadcast(ClientMessage):
    type: Literal["get_active_broadcast"] = "get_active_broadcast"


FROM_SERVER = (Connected, NewBroadcast, ActiveBroadcast, BroadcastCleared, Problem, Pong, Heartbeat)
FROM_CLIENT = (AcknowledgeBroadcast, GetActiveBroadcast, Ping)

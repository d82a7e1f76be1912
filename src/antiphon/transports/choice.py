"""Which transport a WebSocket gets: the quickest that its server allows. The application never chooses."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, cast

from antiphon.transports.asgi import AsgiLane, AsgiSend, AsgiTransport
from antiphon.transports.base import OnLost, SendLimits, Transport
from antiphon.transports.door import EXTENSION, Door
from antiphon.transports.pressure import BYTES, MESSAGES, Pressure
from antiphon.transports.sockets import SocketLane, SocketTransport

if TYPE_CHECKING:
    from starlette.websockets import WebSocket

__all__ = ["Lanes", "transport_for"]

POLL_S = 0.002


class Lanes:
    """The lanes of one manager on the running event loop. Each kind is made when the first socket needs it."""

    __slots__ = ("_asgi", "_dropped", "_pressures", "_sockets", "speak_v1")

    def __init__(self, *, dropped: Counter[str] | None = None) -> None:
        self._dropped = dropped
        """Where frames are counted that were dropped because a client was behind, by reason."""
        self._asgi: dict[bool, AsgiLane] = {}
        self._sockets: dict[tuple[bool, bool], SocketLane] = {}
        self._pressures: tuple[Pressure, ...] = ()
        """Of the lanes that write to sockets."""
        self.speak_v1 = False
        """Whether a client that speaks `antiphon.v1` has been here."""

    def asgi(self, *, v1: bool = False) -> AsgiLane:
        """For the sockets of any server whose clients speak `antiphon.v1`, or do not."""
        lane = self._asgi.get(v1)
        if lane is None:
            lane = self._asgi[v1] = AsgiLane(v1=v1, dropped=self._dropped)
            self.speak_v1 |= v1
        return lane

    def sockets(self, *, deflates: bool = False, v1: bool = False) -> SocketLane:
        """For the sockets of servers that let the library write to them directly, and clients that understand that."""
        lane = self._sockets.get((deflates, v1))
        if lane is None:
            lane = self._sockets[deflates, v1] = SocketLane(deflates=deflates, v1=v1, dropped=self._dropped)
            self.speak_v1 |= v1
            self._pressures += (lane.pressure,)
        return lane

    def _made(self) -> list[AsgiLane | SocketLane]:
        return [*self._sockets.values(), *self._asgi.values()]

    @property
    def backlog_bytes(self) -> int:
        """Bytes of frames that were delivered and not yet handed to every socket."""
        return sum(lane.backlog_bytes for lane in self._made())

    @property
    def has_room(self) -> bool:
        """Whether `room` would return at once."""
        for pressure in self._pressures:
            if pressure.messages > MESSAGES or pressure.bytes > BYTES or pressure.crowded:
                return False
        # A lane of tasks has to be given a turn first.
        return not self._asgi or not any(lane.pressure.messages for lane in self._asgi.values())

    def waiting(self) -> tuple[int, int]:
        """Clients that bytes wait for because they do not read, and how many bytes."""
        sizes = [transport.queued_bytes for lane in self._made() for transport in lane.waiting()]
        return len(sizes), sum(sizes)

    async def room(self) -> None:
        """Return at once while the backlog of every lane is small, else when it is."""
        for lane in self._made():
            await lane.room()

    async def drain(self, *, limit_s: float) -> bool:
        """Wait until nothing is queued any more, close frames included. False when it took longer than `limit_s`."""
        deadline = asyncio.get_running_loop().time() + limit_s
        while not all(lane.is_idle for lane in self._made()):
            if asyncio.get_running_loop().time() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def close(self) -> None:
        """End the tasks and timers of the lanes. The sockets stay open; what is queued for them is dropped."""
        for lane in self._made():
            lane.close()


def transport_for(
    websocket: WebSocket, *, lanes: Lanes, on_lost: OnLost, limits: SendLimits, v1: bool = False
) -> Transport:
    """The way to an accepted WebSocket. Call it on the socket's event loop.

    `on_lost` is told at most once, from the event loop and never from inside another call.
    """
    extensions = websocket.scope.get("extensions") or {}
    offer = extensions.get(EXTENSION)
    door = offer.get("door") if isinstance(offer, dict) else None
    if isinstance(door, Door) and door.is_open:
        lane = lanes.sockets(deflates=door.deflates, v1=v1)
        return SocketTransport(door, lane=lane, on_lost=on_lost, limits=limits)
    # Starlette's own `send` checks for each message what the server checks again.
    send = cast(AsgiSend, getattr(websocket, "_send", websocket.send))
    return AsgiTransport(send, lane=lanes.asgi(v1=v1), on_lost=on_lost, limits=limits)

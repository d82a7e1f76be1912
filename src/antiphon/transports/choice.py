"""Which transport a WebSocket gets: the quickest that its server allows. The application never chooses."""

from __future__ import annotations

import asyncio
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

    __slots__ = ("_asgi", "_deflating", "_pressures", "_sockets")

    def __init__(self) -> None:
        self._asgi: AsgiLane | None = None
        self._sockets: SocketLane | None = None
        self._deflating: SocketLane | None = None
        self._pressures: tuple[Pressure, ...] = ()
        """Of the lanes that write to sockets."""

    @property
    def asgi(self) -> AsgiLane:
        """For the sockets of any server."""
        if self._asgi is None:
            self._asgi = AsgiLane()
        return self._asgi

    @property
    def sockets(self) -> SocketLane:
        """For the sockets of servers that let the library write to them directly."""
        if self._sockets is None:
            self._sockets = SocketLane()
            self._pressures += (self._sockets.pressure,)
        return self._sockets

    @property
    def deflating(self) -> SocketLane:
        """For those among them whose clients take compressed messages."""
        if self._deflating is None:
            self._deflating = SocketLane(deflates=True)
            self._pressures += (self._deflating.pressure,)
        return self._deflating

    def _made(self) -> list[AsgiLane | SocketLane]:
        return [lane for lane in (self._sockets, self._deflating, self._asgi) if lane is not None]

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
        return self._asgi is None or not self._asgi.pressure.messages

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


def transport_for(websocket: WebSocket, *, lanes: Lanes, on_lost: OnLost, limits: SendLimits) -> Transport:
    """The way to an accepted WebSocket. Call it on the socket's event loop.

    `on_lost` is told at most once, from the event loop and never from inside another call.
    """
    extensions = websocket.scope.get("extensions") or {}
    offer = extensions.get(EXTENSION)
    door = offer.get("door") if isinstance(offer, dict) else None
    if isinstance(door, Door) and door.is_open:
        lane = lanes.deflating if door.deflates else lanes.sockets
        return SocketTransport(door, lane=lane, on_lost=on_lost, limits=limits)
    # Starlette's own `send` checks for each message what the server checks again.
    send = cast(AsgiSend, getattr(websocket, "_send", websocket.send))
    return AsgiTransport(send, lane=lanes.asgi, on_lost=on_lost, limits=limits)

"""What the library keeps for one idle connection, beside the server's own objects."""

from __future__ import annotations

from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.transports.base import SendLimits
from antiphon.transports.sockets import SocketTransport
from benchmarks.micro.audience import Audience, audience
from benchmarks.micro.counting import peak_bytes

MORE = 64


async def test_an_idle_connection_takes_little_memory() -> None:
    async with audience(MORE) as there:
        doors = [connection._transport for connection in there.connections]
        other = Audience()
        hub = Hub("second")
        limits = SendLimits()
        with peak_bytes() as result:
            for number, transport in enumerate(doors):
                assert isinstance(transport, SocketTransport)
                second = SocketTransport(transport._door, lane=other.lane, on_lost=_ignore, limits=limits)
                hub.add(Connection(f"d{number}", user_id=None, transport=second))
        await other.close()
    assert 0 < result[1] / MORE <= 1024


def _ignore(reason: str) -> None:
    """A client has gone."""

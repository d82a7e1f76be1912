"""What fan-out and idle connections take of memory, measured in a process that does nothing else.

`python -m benchmarks.micro.memory` prints the figures as JSON. Beside other tests they would be of no use: what another
thread allocates in the meantime would count too.
"""

from __future__ import annotations

import asyncio
import json

from antiphon.connection import Connection
from antiphon.hub import Hub
from antiphon.transports.base import SendLimits
from antiphon.transports.sockets import SocketTransport
from benchmarks.micro.audience import Audience, audience, publication
from benchmarks.micro.counting import peak_bytes
from benchmarks.micro.protocol import Wire, server

SMALL, LARGE, MORE = 40, 160, 64


async def peak_of_a_delivery(connections: int) -> int:
    """The highest memory at any moment of one delivery to so many connections, in bytes."""
    async with audience(connections) as there:
        found = []
        for number in range(3):
            each = publication(number)
            _ = each.frame.wire
            with peak_bytes() as result:
                await there.deliver(each)
            there.received()
            found.append(result[0])
        return min(found)


async def left_after_deliveries() -> int:
    """What 64 deliveries to many connections leave behind, in bytes."""
    async with audience(LARGE) as there:
        for number in range(8):
            await there.deliver(publication(number))
        there.received()
        with peak_bytes() as result:
            for number in range(64):
                await there.deliver(publication(number))
        return result[1]


async def an_idle_connection() -> float:
    """What the library keeps for one connection beside the server's own objects, in bytes."""
    async with audience(MORE) as there:
        transports = [connection._transport for connection in there.connections]
        other = Audience()
        hub = Hub("second")
        limits = SendLimits()
        with peak_bytes() as result:
            for number, transport in enumerate(transports):
                assert isinstance(transport, SocketTransport)
                second = SocketTransport(transport._door, lane=other.lane, on_lost=_ignore, limits=limits)
                hub.add(Connection(f"d{number}", user_id=None, transport=second))
        await other.close()
        return result[1] / MORE


async def an_adopted_client() -> float:
    """What the protocol keeps for one client whose socket the library reads, beside the event loop's own, in bytes."""
    async with server() as made:
        wires = [Wire() for _ in range(MORE)]
        with peak_bytes() as result:
            protocols = [made.begin(wire) for wire in wires]
            await made.settled()
        assert len(protocols) == MORE
        return result[1] / MORE


def _ignore(reason: str) -> None:
    """A client has gone."""


async def measure() -> dict[str, float]:
    """All figures."""
    small, large = await peak_of_a_delivery(SMALL), await peak_of_a_delivery(LARGE)
    return {
        "a delivery, for each connection": (large - small) / (LARGE - SMALL),
        "left behind": await left_after_deliveries(),
        "an idle connection": await an_idle_connection(),
        "an adopted client": await an_adopted_client(),
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure())))

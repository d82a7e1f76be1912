"""The way through any server's `send`: what a connection adds there."""

from __future__ import annotations

import asyncio

from antiphon.transports.asgi import AsgiLane, AsgiTransport
from antiphon.transports.base import SendLimits
from antiphon.wire.frames import Frame
from benchmarks.micro.counting import Counts, count

SMALL, LARGE = 40, 160


async def _counts(size: int) -> Counts:
    received: list[object] = []

    async def send(event: dict[str, object]) -> None:
        received.append(event)

    lane = AsgiLane()
    group = lane.group()
    transports = [AsgiTransport(send, lane=lane, on_lost=lambda reason: None, limits=SendLimits()) for _ in range(size)]
    for transport in transports:
        group.add(transport)
    frame = Frame.json(b'{"type":"x"}')

    async def deliver() -> None:
        received.clear()
        group.deliver(frame)
        while len(received) < size:
            await asyncio.sleep(0)

    await deliver()
    with count() as counts:
        await deliver()
    lane.close()
    await asyncio.sleep(0)
    assert received == [frame.event] * size
    return counts


async def test_a_connection_adds_few_instructions_and_no_task() -> None:
    small, large = await _counts(SMALL), await _counts(LARGE)
    each = (large.instructions - small.instructions) / (LARGE - SMALL)
    assert 5 < each <= 70
    assert large.python_calls["BaseEventLoop.create_task"] == small.python_calls["BaseEventLoop.create_task"]
    assert large.python_calls["BaseEventLoop.call_soon"] == small.python_calls["BaseEventLoop.call_soon"]


async def test_a_connection_adds_one_call_of_its_send_and_little_else() -> None:
    small, large = await _counts(SMALL), await _counts(LARGE)
    assert (large.calls - small.calls) / (LARGE - SMALL) <= 3

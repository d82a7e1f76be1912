"""One timer keeps all connections of a server alive."""

from __future__ import annotations

import asyncio
import time

import pytest

from antiphon.transports.keepalive import Keepalive
from tests.transports.servers import WAIT_S, clients, site, until


class Kept:
    """A connection that notes what is done to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, closing: bool = False) -> None:
        self._loop = loop
        self.closing = closing
        self.pings: list[tuple[float, bytes]] = []
        self.timeouts: list[float] = []

    def ping(self, payload: bytes, frame: bytes) -> bool:
        if self.closing:
            return False
        assert frame == b"\x89\x04" + payload
        self.pings.append((round(self._loop.time(), 3), payload))
        return True

    def keepalive_timeout(self) -> None:
        self.timeouts.append(round(self._loop.time(), 3))


@pytest.mark.virtual_time
async def test_every_connection_is_pinged_an_interval_after_it_came_and_answered() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    keepalive = Keepalive(loop, interval_s=20, timeout_s=30)
    kept = []
    for _ in range(6):
        kept.append(Kept(loop))
        keepalive.add(kept[-1])
        await asyncio.sleep(3)
    for _ in range(3):
        await asyncio.sleep(20)
        for each in kept:
            keepalive.answered(each)
    for number, each in enumerate(kept):
        first = each.pings[0][0] - start - 3 * number
        assert 19 <= first <= 20.5
        assert len(each.pings) >= 2
        assert each.timeouts == []
    assert len({payload for each in kept for _, payload in each.pings}) > 1


@pytest.mark.virtual_time
async def test_connection_that_does_not_answer_is_told_once_and_pinged_no_more() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    keepalive = Keepalive(loop, interval_s=20, timeout_s=10)
    silent, answering, gone = Kept(loop), Kept(loop), Kept(loop)
    for each in (silent, answering, gone):
        keepalive.add(each)
    await asyncio.sleep(21)
    keepalive.answered(answering)
    keepalive.answered(answering)
    keepalive.discard(gone)
    await asyncio.sleep(30)
    assert [len(each.pings) for each in (silent, answering, gone)] == [1, 2, 1]
    [timeout] = silent.timeouts
    assert 29 <= timeout - start <= 31.5
    assert gone.timeouts == []
    assert len(keepalive) == 1


@pytest.mark.virtual_time
async def test_deadline_of_a_pong_is_kept_when_it_comes_before_the_next_ping() -> None:
    loop = asyncio.get_running_loop()
    keepalive = Keepalive(loop, interval_s=5, timeout_s=100)
    first, second = Kept(loop), Kept(loop)
    keepalive.add(first)
    await asyncio.sleep(6)
    keepalive.add(second)  # the timer waits for the first one's pong
    await asyncio.sleep(6)
    assert len(second.pings) == 1
    await asyncio.sleep(120)
    assert len(first.timeouts) == len(second.timeouts) == 1


@pytest.mark.virtual_time
async def test_pings_go_on_when_nobody_has_to_answer_and_stop_at_a_closing_connection() -> None:
    loop = asyncio.get_running_loop()
    keepalive = Keepalive(loop, interval_s=1, timeout_s=None)
    kept, closing = Kept(loop), Kept(loop, closing=True)
    keepalive.add(kept)
    keepalive.add(closing)
    await asyncio.sleep(10)
    assert 9 <= len(kept.pings) <= 11
    assert len(keepalive) == 1
    keepalive.discard(kept)
    await asyncio.sleep(5)
    assert len(kept.pings) <= 11
    assert len(keepalive) == 0


class Faulty(Kept):
    """Fails when it is pinged, or is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, at_ping: bool) -> None:
        super().__init__(loop)
        self.at_ping = at_ping

    def ping(self, payload: bytes, frame: bytes) -> bool:
        if self.at_ping:
            raise RuntimeError("the handler is closed")
        return super().ping(payload, frame)

    def keepalive_timeout(self) -> None:
        raise RuntimeError("the handler is closed")


@pytest.mark.virtual_time
async def test_connection_that_fails_keeps_the_others_from_nothing() -> None:
    loop = asyncio.get_running_loop()
    complaints: list[object] = []
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))
    keepalive = Keepalive(loop, interval_s=10, timeout_s=5)
    kept = [Faulty(loop, at_ping=True), Faulty(loop, at_ping=False), Kept(loop)]
    for each in kept:
        keepalive.add(each)
    await asyncio.sleep(30)
    assert len(complaints) == 2
    assert (len(kept[2].pings), len(kept[2].timeouts)) == (1, 1)
    assert len(keepalive) == 0


@pytest.mark.parametrize("interval_s", [None, 0])
async def test_nothing_is_pinged_when_there_is_no_interval(interval_s: float | None) -> None:
    keepalive = Keepalive(asyncio.get_running_loop(), interval_s=interval_s, timeout_s=1)
    keepalive.add(Kept(asyncio.get_running_loop()))
    assert len(keepalive) == 0


@pytest.mark.every_loop
async def test_real_clients_answer_and_stay() -> None:
    async with site("protocol", ping_s=0.2) as served, clients(served, 5):
        deadline = time.monotonic() + 1.0
        await until(lambda: time.monotonic() > deadline)
        assert served.sockets == 5
        assert [client.left_with for client in served.clients] == [""] * 5


@pytest.mark.every_loop
async def test_memory_of_a_connection_that_has_gone_is_not_kept() -> None:
    async with site("protocol", ping_s=30) as served:
        async with clients(served, 3):
            assert served.server is not None
            [keepalive] = {connection._common.keepalive for connection in served.server.server_state.connections}  # type: ignore[union-attr] # ours
            assert len(keepalive) == 3
        await asyncio.wait_for(asyncio.gather(*(client.left.wait() for client in served.clients)), WAIT_S)
        await until(lambda: len(keepalive) == 0)

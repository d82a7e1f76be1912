"""S22 on the port itself: clients that hold connections open and say little or nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from tests.attacks.attacker import HOST, ask, handshake, json_frame, json_of, opened, socket_of
from tests.attacks.credentials import cookie
from tests.attacks.target import Target
from tests.transports.raw_client import RawClient
from tests.transports.servers import WAIT_S

EACH = 50
KIB = 1024
HEADER = handshake("/site")[:-2] + b"X-Slow: "
BODY = f"POST /publish HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n".encode()


async def drip(clients: list[RawClient]) -> None:
    """One byte for each, over and over."""
    while True:
        for client in clients:
            await client.send(b"x")
        await asyncio.sleep(0.05)


async def test_clients_that_drip_hold_up_nobody_and_leave_nothing(site: Target, figures: list[str]) -> None:
    """That they are sent away is the proxy's part; what they may take here is little."""
    await ask(site.port, "GET /livez")
    descriptors, memory = site.descriptors, site.memory_bytes
    tasks = (await site.look())["tasks"]
    async with AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(opened(site.port)) for _ in range(3 * EACH)]
        for number, client in enumerate(clients):
            await client.send((b"", HEADER, BODY)[number % 3])
        dripping = asyncio.create_task(drip([client for number, client in enumerate(clients) if number % 3]))
        await site.until(lambda: site.descriptors >= descriptors + 3 * EACH)
        for number in range(10):
            async with socket_of(site.port, cookie=cookie("alice"), v1=True) as honest:
                await honest.send(json_frame({"type": "ping", "ref": number}))
                assert json_of(await honest.answer()) == {"type": "pong", "ref": number}
            assert (await ask(site.port, "GET /livez")).status == 200
        each_bytes = (site.memory_bytes - memory) / (3 * EACH)
        dripping.cancel()
        await asyncio.wait([dripping])
    figures.append(f"S22 {site.way}: {3 * EACH} slow clients, {each_bytes / KIB:.0f} KiB each")
    assert each_bytes < 100 * KIB
    await site.until(lambda: site.descriptors <= descriptors + 2)
    async with asyncio.timeout(WAIT_S):
        while (await site.look())["tasks"] > tasks + 2:
            await asyncio.sleep(0.05)


async def test_head_without_an_end_is_not_kept(site: Target) -> None:
    """A header line that never ends, as quickly as the server takes it."""
    memory = site.memory_bytes
    async with opened(site.port) as client:
        await client.send(HEADER)
        for _ in range(200):
            if not await client.send(b"x" * 64 * KIB):
                break
        else:
            raise AssertionError("12 MiB of one header were taken")
    assert site.memory_bytes - memory < 4 * KIB * KIB

"""S22 through nginx, with the lines of docs/operation.md: slow clients are sent away before they reach the server."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack, suppress

from tests.attacks.attacker import HOST, ask, handshake, json_frame, json_of, socket_of
from tests.attacks.credentials import cookie
from tests.attacks.proxy import TIMEOUT_S, proxy
from tests.attacks.target import Target
from tests.transports.servers import WAIT_S

HEADER = handshake("/site")[:-2] + b"X-Slow: "
BODY = f"POST /publish HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 100000\r\n\r\n".encode()
SLACK_S = 10.0


async def drip(writer: asyncio.StreamWriter) -> None:
    """A byte now and then, until the connection is closed."""
    while not writer.is_closing():
        writer.write(b"x")
        await asyncio.sleep(0.2)


async def test_slow_clients_are_closed_in_time_when_nginx_is_in_front(site: Target, figures: list[str]) -> None:
    descriptors = site.descriptors
    async with AsyncExitStack() as stack:
        front = stack.enter_context(proxy(site.port))
        started = time.monotonic()
        dripping = []
        readers = []
        for sent in (b"", HEADER, BODY):
            reader, writer = await asyncio.open_connection("127.0.0.1", front.port)
            stack.callback(writer.close)
            writer.write(sent)
            readers.append(reader)
            if sent:
                dripping.append(asyncio.create_task(drip(writer)))
        for reader in readers[:2]:
            with suppress(ConnectionError):  # closed with something unread: that is a reset
                async with asyncio.timeout(WAIT_S):
                    while await reader.read(1000):
                        pass
        took_s = time.monotonic() - started
        # The one with the slow body may stay at nginx for as long as it sends: the server does not see it.
        assert site.descriptors <= descriptors + 2
        async with socket_of(front.port, cookie=cookie("alice"), v1=True) as honest:
            await honest.send(json_frame({"type": "ping", "ref": 1}))
            assert json_of(await honest.answer()) == {"type": "pong", "ref": 1}
        assert (await ask(front.port, "GET /livez?ticket=SECRET")).status == 200
        for task in dripping:
            task.cancel()
        await asyncio.wait(dripping)
        figures.append(f"S22 {site.way}, behind nginx: closed after {took_s:.1f} s (time-out {TIMEOUT_S} s)")
        assert TIMEOUT_S - 0.5 <= took_s <= TIMEOUT_S + SLACK_S
        await site.until(lambda: '"GET /livez" 200' in front.log)
        assert "SECRET" not in front.log

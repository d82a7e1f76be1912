"""CPU µs per message that comes in from Redis or Valkey, and that goes out, with and without hiredis.

    python -m benchmarks.micro.redis_io [--messages N]

A measurement, not a test: the figures are this machine's. The server and the other side run as processes of their own,
so that only the work of this side is counted. `redis-py` is the library's usual client, for comparison.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from statistics import median
from typing import cast

__all__ = ["main"]

ROUTE = "bench"
BATCHES = (1, 16)
REPEATS = 5
PAUSE_S = 0.0005
PAYLOAD = json.dumps({"type": "new_comment", "track_id": "12345", "text": "x" * 150}).encode()

Figures = dict[str, float]


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def feed(port: int, messages: int, batch: int) -> None:
    """The other side, in a process of its own: publish in batches, each in one write, with a pause behind it."""
    data = _command(b"PUBLISH", ROUTE.encode(), PAYLOAD) * batch
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(messages // batch):
            connection.sendall(data)
            answers = 0
            while answers < batch:
                answers += connection.recv(65536).count(b"\r\n")
            time.sleep(PAUSE_S)


@contextlib.contextmanager
def _feeding(port: int, messages: int, batch: int) -> Iterator[None]:
    program = [sys.executable, "-m", "benchmarks.micro.redis_io"]
    feeder = subprocess.Popen([*program, "--feed", str(port), "--messages", str(messages), "--batch", str(batch)])
    try:
        yield
        feeder.wait(30)
    finally:
        if feeder.poll() is None:
            feeder.kill()
            feeder.wait()


async def _own_in(url: str, port: int, messages: int, batch: int) -> float:
    from antiphon.brokers.base import Message, Subscribed
    from antiphon.brokers.redis_pubsub import RedisBroker

    listening = await RedisBroker(url).open_listening()
    listening.subscribe([ROUTE])
    assert any(isinstance(event, Subscribed) for event in await listening.receive())
    got = 0
    with _feeding(port, messages, batch):
        before = time.process_time()
        while got < messages:
            for event in await listening.receive():
                got += type(event) is Message
        used = time.process_time() - before
    await listening.close()
    return used / messages * 1e6


async def _redis_py_in(url: str, port: int, messages: int, batch: int) -> float:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client, client.pubsub() as listening:
        await listening.subscribe(ROUTE)
        got = 0
        with _feeding(port, messages, batch):
            before = time.process_time()
            while got < messages:
                message = await listening.get_message(ignore_subscribe_messages=True, timeout=5)
                got += message is not None
            used = time.process_time() - before
    return used / messages * 1e6


async def _own_out(url: str, port: int, messages: int, batch: int) -> float:
    from antiphon.brokers.redis_pubsub import RedisBroker

    publishing = await RedisBroker(url).open_publishing()
    before = time.process_time()
    for _ in range(messages // batch):
        answers = [publishing.publish(ROUTE, PAYLOAD) for _ in range(batch)]
        for answer in answers:
            await answer
    used = time.process_time() - before
    await publishing.close()
    return used / messages * 1e6


async def _redis_py_out(url: str, port: int, messages: int, batch: int) -> float:
    from redis.asyncio import Redis

    async with Redis.from_url(url) as client:
        before = time.process_time()
        for _ in range(messages // batch):
            if batch == 1:
                await client.publish(ROUTE, PAYLOAD)
                continue
            pipeline = client.pipeline(transaction=False)
            for _ in range(batch):
                pipeline.publish(ROUTE, PAYLOAD)
            await pipeline.execute()
        used = time.process_time() - before
    return used / messages * 1e6


MEASUREMENTS: dict[str, Callable[[str, int, int, int], Awaitable[float]]] = {
    "in, antiphon": _own_in,
    "in, redis-py": _redis_py_in,
    "out, antiphon": _own_out,
    "out, redis-py": _redis_py_out,
}


def _measure(port: int, messages: int) -> Figures:
    """All figures with the parser that this process has: medians of some repeats, after one that warms up."""
    url = f"redis://127.0.0.1:{port}/0"
    figures = {}
    for name, measurement in MEASUREMENTS.items():
        for batch in BATCHES:
            values = [asyncio.run(_once(measurement, url, port, messages, batch)) for _ in range(REPEATS + 1)]
            figures[f"{name}, {batch} at a time"] = round(median(values[1:]), 2)
    return figures


async def _once(
    measurement: Callable[[str, int, int, int], Awaitable[float]], url: str, port: int, messages: int, batch: int
) -> float:
    return await measurement(url, port, messages, batch)


def _in_child(port: int, messages: int, *, hiredis: bool) -> Figures:
    """Measure in a process that has hiredis, or cannot import it."""
    forbid = "" if hiredis else "sys.modules['hiredis'] = None; "
    code = f"import sys; {forbid}from benchmarks.micro.redis_io import child; child({port}, {messages})"
    output = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True, env=os.environ).stdout
    return cast(Figures, json.loads(output))


def child(port: int, messages: int) -> None:
    """What `_in_child` runs."""
    print(json.dumps(_measure(port, messages)))


def main() -> int:
    """Start a server, measure with both parsers, print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.micro.redis_io", description=__doc__)
    parser.add_argument("--messages", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=16, help=argparse.SUPPRESS)
    parser.add_argument("--feed", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        feed(options.feed, options.messages, options.batch)
        return 0
    from antiphon.dev.broker_server import BrokerServer

    with BrokerServer.start() as server:
        with_it = _in_child(server.port, options.messages, hiredis=True)
        without = _in_child(server.port, options.messages, hiredis=False)
        print(f"CPU µs per message of {len(PAYLOAD)} bytes, {server.kind} {server.version}, medians of {REPEATS}")
    print(f"{'':34}{'with hiredis':>14}{'without':>10}")
    for name, value in with_it.items():
        print(f"{name:34}{value:>14.2f}{without[name]:>10.2f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

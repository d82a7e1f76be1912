"""Replicas are restarted one by one under load: who is asked to come back does, and nobody's connection breaks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import time
from collections import Counter

import redis.asyncio

from antiphon.dev.broker_server import BrokerServer
from tests.conftest import StartServer
from tests.replicas.client import Client, Refused, connect
from tests.replicas.cluster import Kind
from tests.replicas.drain_process import PER_S, SLACK_S, Process, check_spread, process
from tests.replicas.recorder import Listener
from tests.replicas.replica import WAYS, eventually
from tests.replicas.report import Report

PEOPLE = 90
KINDS: tuple[Kind, ...] = ("valkey", "redis")


class Publisher:
    """Another program that publishes numbered messages at a steady rate."""

    def __init__(self, url: str) -> None:
        self._client = redis.asyncio.Redis.from_url(url)
        self.at: list[float] = []
        """When each was published."""
        self._runs = True
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while self._runs:
            now = time.monotonic()
            message = {"pub": "other", "topic": None, "seq": len(self.at)}
            await self._client.publish("live", json.dumps(message))
            self.at.append(now)
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        # Not cancelled: within redis-py before Python 3.12 that may be swallowed.
        self._runs = False
        await self._task
        await self._client.aclose()


class Person:
    """A client that comes back when it is asked to, to any replica that is there, after a random pause."""

    def __init__(self, name: str, ports: list[int], first: int) -> None:
        self.name = name
        self.ports = ports
        self.first: int | None = first
        self.sessions: list[Client] = []
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        while True:
            port, self.first = self.first or random.choice(self.ports), None
            listener = Listener(f"{self.name}-{len(self.sessions)}", str(port), frozenset())
            try:
                client = await connect(listener, port)
            except (OSError, Refused):
                await asyncio.sleep(0.05)
                continue
            self.sessions.append(client)
            if await client.closed != 1012:
                return
            await asyncio.sleep(random.uniform(0, 0.5))


async def test_rolling_restart_loses_nothing_for_who_is_connected_and_nobody_s_connection_breaks(
    start_own_server: StartServer, report: Report
) -> None:
    """F27, on both servers at the same time"""
    async with asyncio.TaskGroup() as both:
        for kind in KINDS:
            both.create_task(restart_one_by_one(start_own_server(kind), report, f"F27 rolling, {kind}"))


async def restart_one_by_one(broker: BrokerServer, report: Report, fault: str) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def start(way: str) -> Process:
            served, _ = await stack.enter_async_context(process(way, ANTIPHON_BROKER_URL=broker.url))
            return served

        replicas = list(await asyncio.gather(*map(start, WAYS)))
        ports = [replica.port for replica in replicas]
        people = [Person(f"p{number}", ports, ports[number % 3]) for number in range(PEOPLE)]
        publisher = Publisher(broker.url)
        await eventually(lambda: connected(replicas), lambda count: count == PEOPLE, what="all of them")
        for index, way in enumerate(WAYS):
            replica = replicas[index]
            ports.remove(replica.port)
            here = [
                client
                for person in people
                for client in person.sessions[-1:]
                if client.listener.replica == str(replica.port)
            ]
            told = time.monotonic()
            replica.tell()
            assert await replica.ended() == 0, replica.log
            target_s = len(here) / PER_S + SLACK_S
            report.within(fault, f"{way}: from SIGTERM to the end", time.monotonic() - told, target_s=target_s)
            check_spread(here, report, f"{fault}, {way}")
            assert "Traceback" not in replica.log
            replicas[index] = await start(way)
            ports.append(replicas[index].port)
            await eventually(lambda: connected(replicas), lambda count: count == PEOPLE, what="all of them, again")
        published = len(publisher.at)
        await eventually(
            lambda: last_heard(people), lambda heard: heard >= published, what="the last message at everybody"
        )
        await publisher.stop()
        codes = Counter(client.close_code for person in people for client in person.sessions)
        assert codes[None] == PEOPLE
        assert set(codes) == {None, 1012}
        assert codes[1012] >= PEOPLE
        for person in people:
            for client in person.sessions:
                check_unbroken(client, publisher.at)
            person.sessions[-1].abort()
            await asyncio.gather(person.task)


async def connected(replicas: list[Process]) -> float:
    return sum([await replica.metric('antiphon_connections{channel="live"}') for replica in replicas])


async def last_heard(people: list[Person]) -> int:
    return min(
        (person.sessions[-1].listener.receipts[-1].key.sequence if person.sessions[-1].listener.receipts else -1)
        for person in people
    )


def check_unbroken(client: Client, published_at: list[float]) -> None:
    """From its first message to its last it had each once and in order; and the last is not long before its end."""
    heard = [receipt.key.sequence for receipt in client.listener.receipts]
    assert heard == list(range(heard[0], heard[0] + len(heard))) if heard else True
    if client.closed_at is not None and heard:
        assert published_at[heard[-1]] > client.closed_at - 5

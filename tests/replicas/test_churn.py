"""Clients come and go without end, and ask for topics and drop them: nothing is left, whatever way they came."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from functools import partial

from tests.replicas.client import Client
from tests.replicas.guarded import GuardedCluster, Program, guarded, join
from tests.replicas.replica import Json, eventually
from tests.replicas.report import Report

PER_S = 100
LASTS_S = 9.0
TOPICS = [f"t{number}" for number in range(40)]
GROWTH_BYTES = 24 * 1024 * 1024
"""From a third of the time to the end: the allocator's own ways, and not what 800 clients leave behind."""


async def visit(cluster: GuardedCluster, number: int, chance: random.Random) -> None:
    """One client: it asks for topics and drops some, now and then twice or what it never had, and goes somehow."""
    replica = chance.choice(cluster.replicas)
    client: Client = await join(replica, f"c{number}", v1=True, topics=chance.sample(TOPICS, 2))
    for ref in range(8):
        what = chance.choice(["subscribe", "subscribe", "unsubscribe"])
        client.send_json({"type": what, "topic": chance.choice(TOPICS), "ref": ref})
        if chance.random() < 0.3:
            await asyncio.sleep(chance.uniform(0.0, 0.2))
    leaving = chance.random()
    if leaving < 0.3:
        client.abort()  # perhaps with some of it unread
        await client.closed
        return
    answer = await client.expect(lambda message: isinstance(message, dict) and message.get("ref") == 7)
    assert isinstance(answer, dict)
    assert answer["type"] in ("subscribed", "unsubscribed")
    await client.close()


def is_as_before(was: Json, now: Json) -> bool:
    """Whether nobody is left in the registry, and nothing in the process."""
    return (
        (now["connections"], now["topics"], now["routes"]) == (0, 0, was["routes"])
        and now["connects"] == now["disconnects"] == now["ended"]
        and abs(now["tasks"] - was["tasks"]) <= 3
        and abs(now["fds"] - was["fds"]) <= 3
    )


async def test_nothing_is_left_of_clients_that_come_and_go(report: Report) -> None:
    """F34"""
    chance = random.Random(34)
    async with guarded("R1", "R2", "R3", environment={"LINGER_S": "0.5"}) as cluster:
        before = [await replica.state() for replica in cluster.replicas]
        early: list[int] = []
        visits: set[asyncio.Task[None]] = set()
        done = 0
        async with contextlib.AsyncExitStack() as stack:
            for topic in (None, *TOPICS[:4]):
                await stack.enter_async_context(Program(cluster.broker, per_s=10, topic=topic))
            begun = time.monotonic()
            while (elapsed_s := time.monotonic() - begun) < LASTS_S:
                if not early and elapsed_s > LASTS_S / 3:
                    early = [(await replica.state())["rss_bytes"] for replica in cluster.replicas]
                while done < elapsed_s * PER_S and len(visits) < 200:
                    task = asyncio.create_task(visit(cluster, done, chance))
                    visits.add(task)
                    task.add_done_callback(visits.discard)
                    done += 1
                await asyncio.sleep(0.01)
            for failed in await asyncio.gather(*visits, return_exceptions=True):
                assert failed is None, failed
        await cluster.until_connected(0)
        for replica, was in zip(cluster.replicas, before, strict=True):
            what = f"{replica.name} as it was before: {was}"
            await eventually(replica.state, partial(is_as_before, was), what=what)
        await eventually(cluster.channels, lambda names: not names, what="no channel subscribed at the broker")
        after = [await replica.state() for replica in cluster.replicas]
        grown = max(now["rss_bytes"] - then for now, then in zip(after, early, strict=True))
        assert done >= PER_S * LASTS_S / 5
        assert sum(now["connects"] for now in after) <= done
        assert grown <= GROWTH_BYTES
    report.add(
        "F34", f"{done} clients in {LASTS_S:g} s, memory from a third on", f"{grown / 2**20:+.1f} MiB", gate="+24 MiB"
    )

"""Clients that never read, or too slowly: they are cut off, nobody waits for them, and their memory is given back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

import pytest

from tests.replicas.checker import quantile
from tests.replicas.client import Client
from tests.replicas.cluster import Kind
from tests.replicas.guarded import Program, StuckClient, guarded, join, send_queue_bytes
from tests.replicas.recorder import Listener
from tests.replicas.replica import Json, Replica, eventually
from tests.replicas.report import Report

STUCK, GOOD = 50, 30
EACH_BYTES = {"asgi": 5 * 1024 * 1024, "install": 2 * 1024 * 1024, "protocol": 2 * 1024 * 1024}
"""What one stuck client may take, the kernel's part included. A server's own way leaves that to the kernel."""
ALSO_BYTES = 32 * 1024 * 1024
"""What a process may take beside the stuck clients: frames on their way to the good ones, and the allocator's own."""
FREED_S = 15.0
PING_S = 2
TOO_SLOW, ABNORMAL = 4001, 1006


def check_complete(listener: Listener, program: Program) -> None:
    """From its first message on it had every one, once and in order."""
    heard = program.heard_by(listener)
    assert heard == list(range(heard[0], heard[0] + len(heard)))


def latencies_s(clients: list[Client], program: Program, *, since: float) -> list[float]:
    return sorted(
        receipt.at - program.at[receipt.key.sequence]
        for client in clients
        for receipt in client.listener.receipts
        if program.at[receipt.key.sequence] >= since
    )


class Memory:
    """The most that a replica and the kernel behind it held, from the beginning of a fault on."""

    def __init__(self, replica: Replica, before: Json) -> None:
        self._replica = replica
        self._rss_bytes = before["rss_bytes"]
        self.peak_bytes = 0
        self.now: Json = before

    async def look(self) -> Json:
        self.now = await self._replica.state()
        held = self.now["rss_bytes"] - self._rss_bytes + send_queue_bytes(self._replica.port)
        self.peak_bytes = max(self.peak_bytes, held)
        return self.now


@pytest.mark.parametrize(("way", "kind"), [("asgi", "valkey"), ("install", "redis"), ("protocol", "valkey")])
async def test_clients_that_never_read_are_cut_off_and_the_others_do_not_notice(
    way: str, kind: Kind, report: Report
) -> None:
    """F29, S23"""
    fault = f"F29 {way} {kind}"
    async with (
        guarded("R1", way=way, kind=kind) as cluster,
        contextlib.AsyncExitStack() as stack,
    ):
        replica = cluster["R1"]
        good = [await join(replica, f"good {number}") for number in range(GOOD)]
        async with Program(cluster.broker, per_s=100, padding_bytes=16_384) as program:
            await until_heard(good, program, 100)
            before = await replica.state()
            calm_s = latencies_s(good, program, since=0.0)
            memory = Memory(replica, before)
            stuck = []
            for _ in range(STUCK):
                stuck.append(await StuckClient.open(replica.port))
                stack.callback(stuck[-1].close)
            begun = time.monotonic()
            await eventually(
                memory.look,
                lambda now: (now["connections"], now["lost"].get("slow")) == (GOOD, STUCK),
                timeout_s=3 * FREED_S,
                what=f"{STUCK} clients cut off",
            )
            cut_s = time.monotonic() - begun
            if way == "asgi":
                # Any server's own way: it holds on to a socket while the client does, and so does the endpoint.
                for left in stuck:
                    left.close()
            # Else they are still there and still read nothing: it is the server that lets go of them.
            await eventually(
                memory.look,
                lambda now: now["ended"] == STUCK and now["fds"] <= before["fds"] + 3,
                timeout_s=3 * FREED_S,
                what=f"on_close called for each, and {before['fds']} descriptors as before",
            )
            freed_s = time.monotonic() - begun
            await until_heard(good, program, 100)
        for client in good:
            check_complete(client.listener, program)
            assert client.close_code is None
        during_s = latencies_s(good, program, since=begun)
        assert memory.peak_bytes <= STUCK * EACH_BYTES[way] + ALSO_BYTES
        await asyncio.gather(*(client.close() for client in good))
        await cluster.until_connected(0)
    report.within(fault, f"{STUCK} stuck clients counted no longer", cut_s, target_s=FREED_S)
    freed = "their descriptors freed" if way != "asgi" else "their descriptors freed, since they left"
    report.within(fault, freed, freed_s, target_s=FREED_S)
    report.add(
        fault,
        f"memory of process and kernel for {STUCK} of them",
        f"{memory.peak_bytes / 2**20:.1f} MiB",
        target=f"{STUCK * EACH_BYTES[way] / 2**20:.0f} MiB",
        gate=f"{(STUCK * EACH_BYTES[way] + ALSO_BYTES) / 2**20:.0f} MiB",
    )
    report.add(fault, f"{GOOD} good clients before, p99", f"{quantile(calm_s, 0.99) * 1000:.2f} ms")
    report.at_once(fault, f"{GOOD} good clients beside them", during_s)


async def until_heard(clients: list[Client], program: Program, count: int) -> None:
    """Wait until each has got so many more messages."""
    goals = [len(client.listener.receipts) + count for client in clients]

    async def look() -> int:
        return min(len(client.listener.receipts) - goal for client, goal in zip(clients, goals, strict=True))

    await eventually(look, lambda more: more >= 0, what=f"{count} more messages at everybody")


async def test_reader_of_one_kib_per_second_is_cut_by_the_age_of_what_waits(report: Report) -> None:
    """F30"""
    ways = ["asgi", "protocol"]
    for way, cut_s in zip(ways, await asyncio.gather(*(cut_by_age_s(way) for way in ways)), strict=True):
        report.add(f"F30 {way}", "reader of 1 KiB/s cut off", f"{cut_s:.3f} s", target="1 s after the kernel is full")


async def cut_by_age_s(way: str) -> float:
    options = {"QUEUED_AGE_S": "1", "QUEUED_BYTES": str(64 * 1024 * 1024)}
    async with guarded("R1", way=way, environment=options) as cluster, contextlib.AsyncExitStack() as stack:
        replica = cluster["R1"]
        good = await join(replica, "good")
        reader = await StuckClient.open(replica.port)
        stack.callback(reader.close)

        async def trickle() -> None:
            while await reader.read(256):
                await asyncio.sleep(0.25)

        async with Program(cluster.broker, per_s=100, padding_bytes=16_384) as program:
            begun = time.monotonic()
            reading = asyncio.create_task(trickle())
            lost = await eventually(replica.state, lambda now: now["lost"], timeout_s=60.0, what="the reader cut off")
            cut_s = time.monotonic() - begun
            assert (lost["lost"], lost["connections"]) == ({"slow": 1}, 1)
            await until_heard([good], program, 20)
        check_complete(good.listener, program)
        assert good.close_code is None
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        reader.close()
        await eventually(replica.state, lambda now: now["ended"] == 1, what="on_close called")
        await good.close()
    return cut_s


async def test_client_that_reads_again_when_it_is_cut_off_learns_why() -> None:
    """F30"""
    codes = await asyncio.gather(*(code_of_the_cut(way) for way in ("asgi", "install", "protocol")))
    assert codes == [TOO_SLOW] * 3


async def code_of_the_cut(way: str) -> int | None:
    options = {"QUEUED_AGE_S": "1", "CLOSE_S": "20", "QUEUED_BYTES": str(64 * 1024 * 1024)}
    async with guarded("R1", way=way, environment=options) as cluster, contextlib.AsyncExitStack() as stack:
        replica = cluster["R1"]
        reader = await StuckClient.open(replica.port)
        stack.callback(reader.close)
        async with Program(cluster.broker, per_s=100, padding_bytes=16_384):
            await eventually(replica.state, lambda now: now["lost"], timeout_s=60.0, what="the reader cut off")
        async with asyncio.timeout(60.0):
            while reader.close_code() is None:
                assert await reader.read(1 << 20), f"{way}: it ended behind {len(reader.received)} bytes"
        reader.close()
        await eventually(replica.state, lambda now: now["ended"] == 1, what="on_close called")
    return reader.close_code()


async def test_handler_that_blocks_for_five_seconds_delays_and_loses_nothing(report: Report) -> None:
    """F28c"""
    await asyncio.gather(*(block_for_five_seconds(way, report) for way in ("asgi", "protocol")))


async def block_for_five_seconds(way: str, report: Report) -> None:
    async with guarded("R1", "R2", way=way, environment={"PING_S": str(PING_S)}) as cluster:
        blocked, other = cluster["R2"], cluster["R1"]
        clients = [await join(blocked, f"R2 {number}") for number in range(20)]
        clients += [await join(other, f"R1 {number}") for number in range(20)]
        modern = await join(blocked, "R2 antiphon.v1", v1=True)
        async with Program(cluster.broker, per_s=50) as program:
            await until_heard(clients, program, 20)
            begun = time.monotonic()
            clients[0].send_json({"block": 5})
            await clients[0].expect(lambda message: message == {"answer": {"block": 5}}, timeout_s=60.0)
            stood_s = time.monotonic() - begun
            await until_heard(clients, program, 120)  # beyond the next pings of the server
            found = await blocked.state()
        for client in clients:
            check_complete(client.listener, program)
        codes = Counter(client.close_code for client in [*clients, modern])
        assert codes == {None: 41}
        assert (await other.state())["lost"] == (await blocked.state())["lost"] == {}
        assert found["worst_lag_s"] > 5
        elsewhere_s = latencies_s(clients[20:], program, since=begun)
        late_s = latencies_s(clients[:20], program, since=begun)
        await asyncio.gather(*(client.close() for client in [*clients, modern]))
    report.add(f"F28c {way}", "handler blocked for", f"{stood_s:.3f} s", target="5 s")
    report.add(f"F28c {way}", "loop lag in the metrics", f"{found['worst_lag_s']:.3f} s", target="> 5 s")
    report.add(f"F28c {way}", "its clients, latest message", f"{late_s[-1]:.3f} s")
    report.at_once(f"F28c {way}", "clients of the other replica", elsewhere_s)

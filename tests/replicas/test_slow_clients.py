"""Clients that never read, or too slowly: they are cut off, nobody waits for them, and their memory is given back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter

from tests.replicas.checker import quantile
from tests.replicas.client import Client
from tests.replicas.guarded import Program, StuckClient, guarded, join, send_queue_bytes
from tests.replicas.recorder import Listener
from tests.replicas.replica import WAYS, Json, Replica, eventually
from tests.replicas.report import Report

NAMES = ("R1", "R2", "R3", "R4")
STUCK = {"R1": 20, "R2": 50, "R3": 200}
"""How many clients never read, by the replica: with a server's own way, the one installed, the protocol class."""
CALM = "R4"
"""It has none of them: what its clients see is the machine's doing."""
GOOD = 12
"""Clients that read, on each."""
EACH_BYTES = {"R1": 5 * 1024 * 1024, "R2": 2 * 1024 * 1024, "R3": 2 * 1024 * 1024}
"""What one stuck client may take, the kernel's part included. A server's own way leaves that to the kernel."""
ALSO_BYTES = 32 * 1024 * 1024
"""What a process may take beside the stuck clients: frames on their way to the good ones, and the allocator's own."""
FREED_S = {"R1": 25.0, "R2": 15.0, "R3": 15.0}
"""A server's own way fills first what the kernel takes, megabytes for each."""
CLOSED_S = 1.0
"""How long a cut client may hold up its own end."""
AGE_S = 1
NO_BOUND = str(64 * 1024 * 1024)
"""Bytes that never wait for one client here, so that it is their age that ends it."""
KERNEL_FULL_S = 7.0
"""How long messages may go into the buffers of the kernel before the first one waits."""
PING_S = 2
BLOCKED = ("R1", "R3")
TOO_SLOW = 4001


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


async def test_clients_that_never_read_are_cut_off_and_the_others_do_not_notice(report: Report) -> None:
    """F29, S23"""
    async with guarded(*NAMES) as cluster, contextlib.AsyncExitStack() as stack:
        good = {name: [await join(cluster[name], f"{name} {number}") for number in range(GOOD)] for name in NAMES}
        everybody = [client for clients in good.values() for client in clients]
        async with Program(cluster.broker, per_s=50, padding_bytes=16_384) as program:
            await until_heard(everybody, program, 100)
            calm_s = {name: latencies_s(clients, program, since=0.0) for name, clients in good.items()}
            begun = time.monotonic()
            await asyncio.gather(*(get_stuck(cluster[name], stack, report) for name in STUCK))
            await until_heard(everybody, program, 50)
        for client in everybody:
            check_complete(client.listener, program)
            assert client.close_code is None
        during_s = {name: latencies_s(clients, program, since=begun) for name, clients in good.items()}
        await asyncio.gather(*(client.close() for client in everybody))
        await cluster.until_connected(0)
    for name in STUCK:
        slower_s = max(calm_s[name], during_s[CALM], key=lambda found: quantile(found, 0.99))
        fault, measure = f"F29 {way_of(name)}", f"{GOOD} good clients beside stuck ones"
        report.beside(fault, measure, during_s[name], calm_s=slower_s, factor=1.5)


def way_of(name: str) -> str:
    return list(WAYS)[NAMES.index(name)]


async def get_stuck(replica: Replica, stack: contextlib.AsyncExitStack, report: Report) -> None:
    """Let clients in that never read, and see them go: first from the numbers, then from the process."""
    count, fault = STUCK[replica.name], f"F29 {way_of(replica.name)}"
    before = await replica.state()
    memory = Memory(replica, before)
    begun = time.monotonic()
    stuck = []
    for _ in range(count):
        stuck.append(await StuckClient.open(replica.port))
        stack.callback(stuck[-1].close)
    opened_s = time.monotonic() - begun
    await eventually(
        memory.look,
        lambda now: (now["connections"], now["lost"].get("slow")) == (GOOD, count),
        timeout_s=3 * FREED_S[replica.name],
        what=f"{count} clients cut off",
    )
    cut_s = time.monotonic() - begun - opened_s
    if way_of(replica.name) == "asgi":
        # Any server's own way: it holds on to a socket while the client does, and so does the endpoint.
        for left in stuck:
            left.close()
    # Else they are still there and still read nothing: it is the server that lets go of them.
    await eventually(
        memory.look,
        lambda now: now["ended"] == count and now["fds"] <= before["fds"] + 3,
        timeout_s=3 * FREED_S[replica.name],
        what=f"on_close called for each, and {before['fds']} descriptors as before",
    )
    closed_s = time.monotonic() - begun - opened_s - cut_s
    allowed_bytes = count * EACH_BYTES[replica.name]
    report.within(fault, f"{count} stuck clients counted no longer", cut_s, target_s=FREED_S[replica.name])
    freed = "their descriptors freed" if fault != "F29 asgi" else "their descriptors freed, since they left"
    report.within(fault, freed, closed_s, target_s=CLOSED_S)
    report.add(
        fault,
        f"memory of process and kernel for {count} of them",
        f"{memory.peak_bytes / 2**20:.1f} MiB",
        target=f"{allowed_bytes / 2**20:.0f} MiB",
        gate=f"{(allowed_bytes + ALSO_BYTES) / 2**20:.0f} MiB",
    )
    assert memory.peak_bytes <= allowed_bytes + ALSO_BYTES
    assert replica.running


async def until_heard(clients: list[Client], program: Program, count: int) -> None:
    """Wait until each has got so many more messages."""
    goals = [len(client.listener.receipts) + count for client in clients]

    async def look() -> int:
        return min(len(client.listener.receipts) - goal for client, goal in zip(clients, goals, strict=True))

    await eventually(look, lambda more: more >= 0, what=f"{count} more messages at everybody")


async def test_reader_of_one_kib_per_second_is_cut_by_the_age_of_what_waits(report: Report) -> None:
    """F30"""
    options = {"QUEUED_AGE_S": str(AGE_S), "QUEUED_BYTES": NO_BOUND}
    async with guarded(*STUCK, environment=options) as cluster, contextlib.AsyncExitStack() as stack:
        good = [await join(replica, f"good at {replica.name}") for replica in cluster.replicas]
        async with Program(cluster.broker, per_s=100, padding_bytes=16_384) as program:
            took_s = await asyncio.gather(*(cut_by_age_s(replica, stack) for replica in cluster.replicas))
            await until_heard(good, program, 20)
        for client in good:
            check_complete(client.listener, program)
            assert client.close_code is None
        await asyncio.gather(*(client.close() for client in good))
    for replica, cut_s in zip(cluster.replicas, took_s, strict=True):
        fault = f"F30 {way_of(replica.name)}"
        report.within(fault, "reader of 1 KiB/s cut off", cut_s, target_s=AGE_S + KERNEL_FULL_S)
        assert cut_s >= AGE_S, f"{fault}: cut before anything can have waited for so long"


async def cut_by_age_s(replica: Replica, stack: contextlib.AsyncExitStack) -> float:
    begun = time.monotonic()
    reader = await StuckClient.open(replica.port)
    stack.callback(reader.close)

    async def trickle() -> None:
        while await reader.read(256):
            await asyncio.sleep(0.25)

    reading = asyncio.create_task(trickle())
    lost = await eventually(replica.state, lambda now: now["lost"], timeout_s=60.0, what="the reader cut off")
    cut_s = time.monotonic() - begun
    assert (lost["lost"], lost["connections"]) == ({"slow": 1}, 1)
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    reader.close()
    await eventually(replica.state, lambda now: now["ended"] == 1, what="on_close called")
    return cut_s


async def test_client_that_reads_again_when_it_is_cut_off_learns_why() -> None:
    """F30"""
    options = {"QUEUED_AGE_S": str(AGE_S), "CLOSE_S": "20", "QUEUED_BYTES": NO_BOUND}
    async with guarded(*STUCK, environment=options) as cluster:
        readers = [await StuckClient.open(replica.port) for replica in cluster.replicas]
        async with Program(cluster.broker, per_s=100, padding_bytes=16_384):
            for replica in cluster.replicas:
                await eventually(replica.state, lambda now: now["lost"], timeout_s=60.0, what="the reader cut off")
        codes = await asyncio.gather(*map(code_at_the_end, readers))
        for replica in cluster.replicas:
            await eventually(replica.state, lambda now: now["ended"] == 1, what="on_close called")
    assert codes == [TOO_SLOW] * 3


async def code_at_the_end(reader: StuckClient) -> int | None:
    """Read all that there is, and go."""
    with contextlib.closing(reader):
        async with asyncio.timeout(60.0):
            while reader.close_code() is None:
                assert await reader.read(1 << 20), f"it ended behind {len(reader.received)} bytes"
    return reader.close_code()


async def test_handlers_that_block_for_five_seconds_delay_and_lose_nothing(report: Report) -> None:
    """F28c"""
    async with guarded("R1", "R2", "R3", environment={"PING_S": str(PING_S)}) as cluster:
        clients = {
            name: [await join(cluster[name], f"{name} {number}") for number in range(15)] for name in ("R1", "R2", "R3")
        }
        modern = [await join(cluster[name], f"{name} antiphon.v1", v1=True) for name in BLOCKED]
        everybody = [client for some in clients.values() for client in some]
        async with Program(cluster.broker, per_s=50) as program:
            await until_heard(everybody, program, 20)
            begun = time.monotonic()
            for name in BLOCKED:
                clients[name][0].send_json({"block": 5})
            for name in BLOCKED:
                await clients[name][0].expect(lambda message: message == {"answer": {"block": 5}}, timeout_s=60.0)
            stood_s = time.monotonic() - begun
            await until_heard(everybody, program, 120)  # beyond the next pings of the servers
        for client in everybody:
            check_complete(client.listener, program)
        assert Counter(client.close_code for client in [*everybody, *modern]) == {None: 47}
        found = {name: await cluster[name].state() for name in clients}
        assert [now["lost"] for now in found.values()] == [{}] * 3
        elsewhere_s = latencies_s(clients["R2"], program, since=begun)
        late_s = {name: latencies_s(clients[name], program, since=begun) for name in BLOCKED}
        await asyncio.gather(*(client.close() for client in [*everybody, *modern]))
    report.add("F28c", "handlers blocked for", f"{stood_s:.3f} s", target="5 s")
    for name in BLOCKED:
        lag_s, fault = found[name]["worst_lag_s"], f"F28c {way_of(name)}"
        assert lag_s > 5
        report.add(fault, "loop lag in the metrics", f"{lag_s:.3f} s", target="> 5 s")
        report.add(fault, "its clients, latest message", f"{late_s[name][-1]:.3f} s")
    report.at_once("F28c", "clients of the other replica", elsewhere_s)

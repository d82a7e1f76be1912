"""What lies between a replica and the broker breaks: holes, delays, lost replies, a door that opens on nothing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial

from tests.replicas.checker import crossings, latencies_s, quantile
from tests.replicas.cluster import Cluster, Load
from tests.replicas.conftest import or_skipped
from tests.replicas.outage import Outage
from tests.replicas.proxy import Proxy
from tests.replicas.recorder import Listener, Send
from tests.replicas.replica import eventually
from tests.replicas.report import Report

CUT_S = 4.5
LATENCY_GATE_S = 5.0

HOLES: dict[str, tuple[str, Callable[[Proxy], None]]] = {
    "R2": ("F10 lost both ways", lambda proxy: proxy.blackhole()),
    "R3": ("F10 held back", lambda proxy: proxy.hold()),
    "R4": ("F11 lost on the way from the broker", lambda proxy: proxy.blackhole(to_server=False)),
}
"""What becomes of the lines of three replicas, all at the same time; those of the others are sound."""


async def test_only_the_replicas_that_are_cut_off_serve_alone(proxied: Cluster, report: Report) -> None:
    """F10, F11"""
    cut = [proxied[name] for name in HOLES]

    def tear() -> None:
        for name, (_, hole) in HOLES.items():
            hole(proxied.proxy(name))

    def mend() -> None:
        for name in HOLES:
            proxied.proxy(name).heal()

    async with Load.on(proxied) as load:
        await load.publish(per_replica_per_s=15.0)
        await load.until_delivered(500)
        before = {replica.name: await replica.state() for replica in cut}
        try:
            outage = await Outage.begin(proxied, tear, hit=cut)
            await outage.noticed()
            await asyncio.sleep(max(0.0, outage.at + CUT_S - time.monotonic()))
            during = {replica.name: await replica.state() for replica in cut}
            assert {found["state"] for found in during.values()} == {"degraded"}
        finally:
            await outage.heal(mend)
        await outage.over()
        await load.until_delivered(1_000)
        sends = await load.stop_publishing()
        # Who is cut off may miss what others published; for everybody else, and of one's own replica, all is complete.
        verdict = await load.settle(
            forgive=lambda listener, send: (
                listener.replica in HOLES and send.key.publisher != listener.replica and outage.window.covers(send)
            )
        )
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        for name in {replica.name for replica in proxied.replicas} - set(HOLES):
            changes = await proxied[name].changes(since=outage.at)
            assert not any(change.state == "degraded" for change in changes), (name, changes)
        await load.back_to_baseline()
    assert not load.noise()

    for name, (fault, _) in HOLES.items():
        crossed = crossings(load.recording, name, since=outage.healed)
        assert crossed is not None
        here = latencies_s(load.recording, where=partial(is_local, outage, name))
        report.at_once(fault, "local latency while cut", here)
        cpu = (during[name]["cpu_s"] - before[name]["cpu_s"]) / CUT_S
        report.add(fault, "CPU while cut, with its load", f"{cpu:.1%}")
        recover_s = max(outage.up[name].at, crossed) - outage.healed
        report.within(fault, "detect", outage.degraded[name] - outage.at, target_s=3.0)
        report.within(fault, "recover and cross", recover_s, target_s=2.5)
    report.add("F10, F11", "missing where it was cut", f"{len(verdict.forgiven)} of {verdict.deliveries}")


def is_local(outage: Outage, name: str, listener: Listener, send: Send) -> bool:
    """Whether this replica delivered it to its own clients while it was cut off."""
    return listener.replica == send.key.publisher == name and outage.degraded[name] < send.begun < outage.healed


async def test_start_is_not_held_up_when_the_broker_accepts_and_never_answers(report: Report) -> None:
    """F13"""
    with or_skipped():
        cluster = Cluster("valkey")
    try:
        proxy = Proxy(cluster.broker.port)
        cluster.proxies.append(proxy)
        proxy.hang()
        replica = cluster.add("R1", cluster.broker.url.replace(str(cluster.broker.port), str(proxy.port)))
        replica.wait_ready()
        first = await replica.state()
        assert first["state"] == "degraded"
        most = 0
        watched = time.monotonic()
        while time.monotonic() < watched + 3.0:
            most = max(most, proxy.connections)
            await asyncio.sleep(0.02)
        receipt = (await replica.publish({"type": "alone"}))["receipt"]
        assert receipt["scope"] == "local"
        assert most <= 6, "each attempt has two connections, and the next one begins when they are closed"
        healed = time.monotonic()
        proxy.heal()
        found = await replica.until("up")
        up = (await replica.changes(since=healed))[-1]
        assert abs(found["fds"] - first["fds"]) <= 4
        assert not replica.noise()
    finally:
        cluster.close()
    report.within("F13", "start-up while the broker hangs", first["start_took_s"], target_s=1.0)
    report.add("F13", "connections at once, at most", str(most), target="2", gate="6")
    report.add("F13", "attempts in 3 s", str(proxy.accepted // 2))
    report.within("F13", "recover", up.at - healed, target_s=2.5)


async def test_nothing_comes_twice_when_every_tenth_reply_to_publish_is_lost(proxied: Cluster, report: Report) -> None:
    """F14"""
    proxy = proxied.proxies[0]
    async with Load.on(proxied) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(500)
        begun, swallowed = time.monotonic(), proxy.swallowed
        proxy.swallow(b"PUBLISH", every=10)

        async def lost() -> int:
            return proxy.swallowed - swallowed

        await eventually(lost, lambda count: count >= 5, what="replies being lost")
        proxy.heal()
        await proxied.until("up")
        end = time.monotonic()
        await load.until_delivered(1_000)
        sends = await load.stop_publishing()
        # What R1 published was carried out, or is repeated under the same id; what others published is not touched,
        # unless R1 gave up both its connections.
        verdict = await load.settle(
            forgive=lambda listener, send: (
                listener.replica == "R1" and send.key.publisher != "R1" and begun - 0.5 <= send.begun <= end + 1.0
            )
        )
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        await load.back_to_baseline()
    assert not load.noise()

    affected = [send for send in sends if send.key.publisher == "R1" and begun <= send.begun <= end]
    cluster_wide = sum(send.scope == "cluster" for send in affected)
    report.add("F14", "replies lost, of R1", str(await lost()))
    report.add("F14", "acknowledged as cluster", f"{cluster_wide} of {len(affected)}")
    report.add("F14", "missing at R1, of the others", f"{len(verdict.forgiven)} of {verdict.deliveries}")
    report.within("F14", "longest call of broadcast()", max(send.took_s for send in affected), target_s=4.0)


async def test_order_is_kept_and_nobody_is_taken_for_dead_when_everything_is_late(
    proxied: Cluster, report: Report
) -> None:
    """F15, for 6 s"""
    async with Load.on(proxied) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(500)
        begun = time.monotonic()
        for replica in proxied.replicas:
            await replica.state()
        for proxy in proxied.proxies:
            proxy.delay(0.2, jitter_s=0.1)
        await asyncio.sleep(6.0)
        stalled_s = max([(await replica.state())["stall_s"] for replica in proxied.replicas])
        changes = {replica.name: await replica.changes(since=begun) for replica in proxied.replicas}
        await load.stop_publishing()
        verdict = await load.settle()
        for proxy in proxied.proxies:
            proxy.heal()
        # A machine that stands still for as long as the deadlines are wide proves nothing.
        if stalled_s < 0.5:
            assert not any(change.state == "degraded" for found in changes.values() for change in found), changes
            assert verdict.clean, str(verdict)
        assert [verdict.duplicates, verdict.inversions, verdict.strays] == [[], [], []], str(verdict)
        await load.back_to_baseline()
    assert not load.noise()
    across = latencies_s(
        load.recording,
        where=lambda listener, send: listener.replica != send.key.publisher and send.begun > begun + 1.0,
    )
    p99_s = quantile(across, 0.99)
    report.add("F15", "latency across replicas, p50", f"{quantile(across, 0.5):.3f} s", target="0.4 s")
    report.add("F15", "latency across replicas, p99", f"{p99_s:.3f} s", target="1.2 s", gate=f"{LATENCY_GATE_S:g} s")
    assert p99_s < LATENCY_GATE_S

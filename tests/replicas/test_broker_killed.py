"""The broker dies, or its connections do; and it comes back."""

from __future__ import annotations

import asyncio
import time

from tests.replicas.checker import crossings, latencies_s, quantile
from tests.replicas.cluster import NAMES, Cluster, Kind, Load
from tests.replicas.conftest import Clusters, or_skipped
from tests.replicas.outage import Outage
from tests.replicas.report import Report

KINDS: tuple[Kind, ...] = ("valkey", "redis")


async def test_nothing_comes_twice_when_the_subscribers_are_killed_ten_times(
    clusters: Clusters, report: Report
) -> None:
    """F01, on both servers at the same time"""
    async with asyncio.TaskGroup() as both:
        for kind in KINDS:
            both.create_task(kill_subscribers(clusters.get(kind), report, f"F01 {kind}"))


async def kill_subscribers(cluster: Cluster, report: Report, fault: str) -> None:
    outages = []
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=30.0)
        await load.until_delivered(500)
        for _ in range(10):
            outage = await Outage.begin(cluster, lambda: cluster.command("CLIENT", "KILL", "TYPE", "pubsub"))
            await outage.noticed()
            await outage.over()
            outages.append(outage)
            await asyncio.sleep(max(0.0, outage.at + 0.5 - time.monotonic()))
        after = time.monotonic()
        await load.until_delivered(1_000)
        await load.stop_publishing()
        verdict = await load.settle(windows=[outage.window for outage in outages])
        assert verdict.clean, str(verdict)
        await load.back_to_baseline()
    assert not load.noise()
    assert all(crossings(load.recording, name, since=after) for name in NAMES)

    detections = [detect_s for outage in outages for detect_s in outage.detect_s]
    recoveries = sorted(recover_s for outage in outages for recover_s in outage.recover_s)
    report.add(fault, "missing, inside the windows", f"{len(verdict.forgiven)} of {verdict.deliveries}")
    report.within(fault, "detect, longest of 30", max(detections), target_s=0.2)
    report.within(fault, "recover, p95 of 30", quantile(recoveries, 0.95), target_s=0.6)


async def test_every_call_returns_and_nothing_comes_twice_when_the_publishers_are_killed_again_and_again(
    cluster: Cluster, report: Report
) -> None:
    """F02"""
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=30.0)
        await load.until_delivered(500)
        begun = time.monotonic()
        while time.monotonic() < begun + 4.0:
            await asyncio.to_thread(cluster.command, "CLIENT", "KILL", "TYPE", "normal")
            await asyncio.sleep(0.3)
        await load.until_delivered(1_000)
        sends = await load.stop_publishing()
        await cluster.until("up")
        # What was acknowledged as "cluster" has reached everybody; the rest too, as far as the outbox could bring it.
        verdict = await load.settle(forgive=lambda listener, send: send.scope != "cluster")
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        await load.back_to_baseline()
    assert not load.noise()

    report.add("F02", "acknowledged as cluster", f"{sum(send.scope == 'cluster' for send in sends)} of {len(sends)}")
    report.add("F02", "missing, acknowledged as local", f"{len(verdict.forgiven)} of {verdict.deliveries}")
    report.within("F02", "longest call of broadcast()", max(send.took_s for send in sends), target_s=4.0)


async def test_own_clients_get_all_and_the_others_later_when_the_broker_dies_and_returns(
    clusters: Clusters, report: Report
) -> None:
    """F03, on both servers at the same time"""
    async with asyncio.TaskGroup() as both:
        for kind in KINDS:
            both.create_task(dies_and_returns(clusters.get(kind), report, f"F03 {kind}"))


async def dies_and_returns(cluster: Cluster, report: Report, fault: str) -> None:
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(1_000)
        try:
            outage = await Outage.begin(cluster, cluster.broker.kill)
            await outage.noticed()
            during = await cluster["R2"].publish({"type": "during"})
            assert during["receipt"]["scope"] == "local", during
            assert during["receipt"]["queued"] is True, during
            await asyncio.sleep(max(0.0, outage.at + 5.0 - time.monotonic()))
        finally:
            await outage.heal(cluster.broker.restart)
        await outage.over()
        since = max(change.at for change in outage.up.values())
        await load.until_delivered(1_000)
        sends = await load.stop_publishing()
        verdict = await load.settle(forgive=outage.forgives)
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        for client in load.clients:
            assert sum(message == {"type": "during"} for message in client.others) <= 1
        await load.back_to_baseline()
    assert not load.noise()

    crossed = [crossings(load.recording, name, since=outage.healed) for name in NAMES]
    recover_s = max([*outage.recover_s, *(at - outage.healed for at in crossed if at is not None)])
    assert all(crossings(load.recording, name, since=since) for name in NAMES)
    away = [send for send in sends if outage.at + 1.0 < send.begun < outage.healed]
    keys = {send.key for send in away}
    here = latencies_s(
        load.recording,
        where=lambda listener, send: send.key in keys and listener.replica == send.key.publisher,
    )
    report.at_once(fault, "local latency while away", here)
    report.add(fault, "sent while away, queued", f"{sum(send.queued for send in away)} of {len(away)}")
    report.add(fault, "replicas seen before sending the rest", str([c.replicas for c in outage.up.values()]))
    report.add(fault, "missing, confirmed just before", f"{len(verdict.forgiven)} of {verdict.deliveries}")
    report.within(fault, "detect, longest of 3", max(outage.detect_s), target_s=0.2)
    report.within(fault, "recover and cross, longest of 3", recover_s, target_s=2.5)


async def test_replicas_serve_alone_and_join_when_the_broker_appears_only_later(report: Report) -> None:
    """F38"""
    with or_skipped():
        cluster = Cluster("valkey")
    try:
        cluster.broker.kill()
        for name in NAMES:
            cluster.add(name, cluster.broker.url)
        for replica in cluster.replicas:
            replica.wait_ready()
        started_s = max([(await replica.state())["start_took_s"] for replica in cluster.replicas])

        async with Load.on(cluster, complete=False) as load:
            for replica in cluster.replicas:
                assert (await replica.state())["state"] == "degraded"
            await load.publish(per_replica_per_s=20.0)
            await load.until_delivered(500)
            before = time.monotonic()
            await asyncio.to_thread(cluster.broker.restart)
            appeared = time.monotonic()
            await cluster.until_complete()
            changes = [(await replica.changes(since=before))[-1] for replica in cluster.replicas]
            up = max(change.at for change in changes)
            await load.until_delivered(1_000)
            await load.stop_publishing()
            verdict = await load.settle(
                forgive=lambda listener, send: listener.replica != send.key.publisher and send.begun < up + 1.0
            )
            assert verdict.clean, str(verdict)
            assert all(crossings(load.recording, name, since=up) for name in NAMES)
        assert not load.noise()
    finally:
        cluster.close()
    report.within("F38", "start-up without a broker", started_s, target_s=1.0)
    report.within("F38", "join once it appears, longest of 3", max(0.0, up - appeared), target_s=2.5)
    report.add("F38", "missing, sent before it appeared", f"{len(verdict.forgiven)} of {verdict.deliveries}")

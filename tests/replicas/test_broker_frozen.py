"""The broker stands still: its connections stay, and nothing answers."""

from __future__ import annotations

import asyncio
import time

from tests.replicas.checker import crossings, latencies_s, quantile
from tests.replicas.cluster import NAMES, Cluster, Load
from tests.replicas.conftest import Clusters, or_skipped
from tests.replicas.outage import Outage
from tests.replicas.replica import eventually
from tests.replicas.report import Report

FREEZE_BEFORE_DEAD_S = 1.5
SAFELY_BEFORE_DEAD_S = 1.7


async def test_nothing_is_lost_and_the_state_stays_when_the_broker_is_frozen_for_less_than_dead(
    cluster: Cluster, report: Report
) -> None:
    """F05"""
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(500)
        frozen = time.monotonic()
        try:
            cluster.broker.freeze()
            await asyncio.sleep(FREEZE_BEFORE_DEAD_S)
        finally:
            cluster.broker.thaw()
        frozen_s = time.monotonic() - frozen
        await load.until_delivered(1_000)
        sends = await load.stop_publishing()
        verdict = await load.settle()
        changes = {replica.name: await replica.changes(since=frozen) for replica in cluster.replicas}
        stalled_s = max([(await replica.state())["stall_s"] for replica in cluster.replicas])
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        # On a machine that is too busy to keep to the times, the broker may rightly be taken for dead.
        if frozen_s + stalled_s < SAFELY_BEFORE_DEAD_S:
            assert not any(change.state == "degraded" for found in changes.values() for change in found), changes
        await load.back_to_baseline()
    assert not load.noise()
    report.add("F05", "frozen for", f"{frozen_s:.2f} s", target="1.5 s")
    report.add("F05", "changes of state", sum(len(found) for found in changes.values()), target="0")
    took = sorted(send.took_s for send in sends)
    report.within("F05", "call of broadcast(), p99", quantile(took, 0.99), target_s=2.0)


async def test_everything_arrives_once_when_the_broker_is_frozen_for_twelve_seconds(
    clusters: Clusters, report: Report
) -> None:
    """F06, on both servers at the same time"""
    async with asyncio.TaskGroup() as both:
        for server in ("valkey", "redis"):
            both.create_task(freezes_and_thaws(clusters.get(server), report, f"F06 {server}"))


async def freezes_and_thaws(cluster: Cluster, report: Report, fault: str) -> None:
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=20.0, on=["R1"])
        await load.until_delivered(300)
        try:
            outage = await Outage.begin(cluster, cluster.broker.freeze)
            await outage.noticed()
            await asyncio.sleep(max(0.0, outage.at + 12.0 - time.monotonic()))
        finally:
            await outage.heal(cluster.broker.thaw)
        await outage.over()
        await load.until_delivered(300)
        sends = await load.stop_publishing()
        verdict = await load.settle(forgive=outage.forgives)
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        await load.back_to_baseline()
    assert not load.noise()

    crossed = [crossings(load.recording, name, since=outage.healed) for name in NAMES[1:]]
    assert all(crossed)
    away = {send.key for send in sends if max(outage.degraded.values()) < send.begun < outage.healed}
    here = latencies_s(load.recording, where=lambda listener, send: send.key in away and listener.replica == "R1")
    report.at_once(fault, "local latency while away", here)
    report.add(fault, "missing at other replicas", f"{len(verdict.forgiven)} of {verdict.deliveries}", target="0")
    report.within(fault, "longest call of broadcast()", max(send.took_s for send in sends), target_s=2.5)
    report.within(fault, "detect, longest of 3", max(outage.detect_s), target_s=3.0)
    report.within(fault, "recover, longest of 3", max(outage.recover_s), target_s=2.5)


async def test_every_message_is_accounted_for_when_the_outbox_overflows_and_expires(report: Report) -> None:
    """F07, with an outbox of 2 s and 60 messages instead of 60 s and 1,000"""
    limit_bytes = 40_000
    environment = {"OUTBOX_MESSAGES": "60", "OUTBOX_AGE_S": "2.0", "OUTBOX_BYTES": str(limit_bytes)}
    with or_skipped():
        cluster = Cluster.start("valkey", names=["R1", "R2"], environment=environment)
    try:
        async with Load.on(cluster, clients=5) as load:
            before = (await cluster["R1"].state())["stats"]["link"]
            largest = 0
            try:
                outage = await Outage.begin(cluster, cluster.broker.freeze)
                await outage.noticed()
                for rate, for_s in ((100.0, 1.5), (20.0, 2.8)):  # too many for its length, then too long for its age
                    await load.publish(per_replica_per_s=rate, on=["R1"], publisher=f"R1 at {rate:g}")
                    begun = time.monotonic()
                    while time.monotonic() < begun + for_s:
                        largest = max(largest, (await cluster["R1"].state())["stats"]["link"]["outbox_bytes"])
                        await asyncio.sleep(0.05)
                    await load.stop_publishing()
            finally:
                await outage.heal(cluster.broker.thaw)
            await outage.over()
            found = await eventually(
                cluster["R1"].state, lambda found: found["stats"]["link"]["outbox_messages"] == 0, what="the flush"
            )
            link = found["stats"]["link"]
            verdict = await load.settle(forgive=lambda listener, send: listener.replica == "R2")
            assert verdict.clean, str(verdict)
            assert not load.noise()
    finally:
        cluster.close()

    sends = load.recording.sends
    queued, flushed = link["queued"] - before["queued"], link["flushed"] - before["flushed"]
    dropped = {reason: count - before["dropped"].get(reason, 0) for reason, count in link["dropped"].items()}
    assert queued == len(sends)
    assert queued - flushed == sum(dropped.values()), (queued, flushed, dropped)
    assert set(dropped) == {"overflow", "expired"}
    assert largest <= limit_bytes
    at_r2 = {key for listener in load.recording.listeners if listener.replica == "R2" for key, _ in listener.receipts}
    assert len(at_r2) <= flushed
    report.add("F07", "sent, flushed, dropped", f"{len(sends)}, {flushed}, {dropped}")
    report.add("F07", "largest outbox", f"{largest} bytes", gate=f"{limit_bytes} bytes")

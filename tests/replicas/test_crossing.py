"""Nothing is broken: whatever is published anywhere reaches every client on every replica, once and in order."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial

import pytest

from antiphon import SyncPublisher
from tests.replicas.checker import latencies_s, quantile
from tests.replicas.cluster import CHANNEL, TOPICS, Cluster, Load
from tests.replicas.recorder import Key, Send
from tests.replicas.replica import eventually
from tests.replicas.report import Report

KINDS = pytest.mark.parametrize("kind", ["valkey", "redis"])
LATENCY_GATE_S = 5.0


@KINDS
async def test_messages_reach_all_clients_once_in_order_when_every_replica_publishes(
    cluster: Cluster, report: Report, kind: str
) -> None:
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=30.0)
        await load.until_delivered(5_000)
        sends = await load.stop_publishing()
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        assert {send.scope for send in sends} == {"cluster"}
        await load.back_to_baseline()
    assert not load.noise()

    across = latencies_s(load.recording, where=lambda listener, send: listener.replica != send.key.publisher)
    own = latencies_s(load.recording, where=lambda listener, send: listener.replica == send.key.publisher)
    for name, latencies in (("across replicas", across), ("own replica", own)):
        p50, p99 = (f"{quantile(latencies, fraction) * 1000:.2f} ms" for fraction in (0.5, 0.99))
        report.add(kind, f"latency {name}, p50", p50)
        report.add(kind, f"latency {name}, p99", p99, target="100 ms", gate=f"{LATENCY_GATE_S:g} s")
    assert quantile(across, 0.99) < LATENCY_GATE_S


@KINDS
async def test_messages_reach_all_clients_once_in_order_when_another_program_publishes(cluster: Cluster) -> None:
    async with Load.on(cluster) as load:
        for sequence in range(40):
            for topic in (None, *TOPICS):
                key, begun = Key("elsewhere", topic, sequence), time.monotonic()
                cluster.publish(json.dumps({"pub": key.publisher, "topic": topic, "seq": sequence}), topic=topic)
                load.recording.sent([Send(key, begun, time.monotonic())])
            await asyncio.sleep(0)
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        assert verdict.deliveries == 40 * 45 * (1 + 2)
    assert not load.noise()


async def test_messages_reach_all_clients_once_in_order_when_a_worker_publishes(cluster: Cluster) -> None:
    def work() -> list[Send]:
        sends = []
        with SyncPublisher(cluster.broker.url) as publisher:
            for sequence in range(40):
                for topic in (None, *TOPICS):
                    begun = time.monotonic()
                    message = {"pub": "worker", "topic": topic, "seq": sequence}
                    publisher.publish(CHANNEL, message, topic=topic)
                    sends.append(Send(Key("worker", topic, sequence), begun, time.monotonic()))
        return sends

    async with Load.on(cluster) as load:
        load.recording.sent(await asyncio.to_thread(work))
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        assert verdict.deliveries == 40 * 45 * (1 + 2)
    assert not load.noise()


async def test_only_the_named_users_get_a_message_when_there_are_some(cluster: Cluster) -> None:
    async with Load.on(cluster, clients=4) as load:
        users = ["R2u1", "R3u0", "nobody"]
        for sequence, replica in enumerate(cluster.running):
            message = {"pub": "someone", "topic": None, "seq": sequence}
            answer = await replica.publish(message, users=users)
            begun, took_s = answer["begun"], answer["took_s"]
            key = Key("someone", None, sequence)
            load.recording.sent([Send(key, begun, begun + took_s, users=frozenset(users))])
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        assert verdict.deliveries == 3 * 2


async def test_counts_are_those_of_all_replicas_when_asked_on_any(cluster: Cluster) -> None:
    async with Load.on(cluster, clients=4):
        for replica in cluster.running:
            counts = await eventually(
                partial(replica.get, "/counts?user_id=R3u2"), lambda counts: counts["connections"] == 12
            )
            assert (counts["users"], counts["replicas"], counts["complete"]) == (12, 3, True)
            assert counts["anywhere"] is True
            assert (await replica.get("/counts?user_id=nobody"))["anywhere"] is False
            assert (await replica.state())["connections"] == 4
    for replica in cluster.running:
        await eventually(partial(replica.get, "/counts"), lambda counts: counts["connections"] == 0)

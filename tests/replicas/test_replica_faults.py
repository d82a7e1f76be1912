"""A replica dies, or the application in it makes mistakes; the others, and the other clients, do not suffer."""

from __future__ import annotations

import asyncio
import time
from functools import partial

from tests.replicas.checker import crossings
from tests.replicas.cluster import CLIENTS_PER_REPLICA, TOPICS, Cluster, Load
from tests.replicas.replica import Replica, eventually
from tests.replicas.report import Report


async def test_the_others_go_on_and_counts_are_right_when_a_replica_is_killed(cluster: Cluster, report: Report) -> None:
    """F28"""
    victim, others = cluster["R2"], [cluster["R1"], cluster["R3"]]
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=20.0, on=["R1", "R3"])
        await load.until_delivered(500)
        killed = time.monotonic()
        await asyncio.to_thread(victim.kill)
        for replica in others:
            await eventually(
                partial(replica.get, "/counts"),
                lambda counts: (counts["connections"], counts["replicas"], counts["complete"]) == (30, 2, True),
                what=f"{replica.name} counting the clients of two replicas",
            )
        counted_s = time.monotonic() - killed
        for number, client in enumerate([c for c in load.clients if c.listener.replica == "R2"]):
            assert await client.closed == 1006
            await load.join(others[number % 2], CLIENTS_PER_REPLICA + number, client.listener.topics)
        for replica in others:
            await eventually(partial(replica.get, "/counts"), lambda counts: counts["connections"] == 45)

        again = time.monotonic()
        victim.launch()
        await asyncio.to_thread(victim.wait_ready)
        await victim.until("up")
        late = await load.join(victim, 99, frozenset(TOPICS[:2]))
        await load.until_delivered(500)
        await load.stop_publishing()
        verdict = await load.settle(forgive=lambda listener, send: listener.replica == "R2" and send.begun < again)
        assert verdict.clean, str(verdict)
        assert late.listener.receipts
        assert crossings(load.recording, "R2", since=again)
        for replica in cluster.replicas:
            counts = await eventually(partial(replica.get, "/counts"), lambda counts: counts["replicas"] == 3)
            assert counts["connections"] == 46
        for replica in others:
            assert not any(change.state == "degraded" for change in await replica.changes(since=killed))
        await cluster.until_complete()
    assert not load.noise()
    report.within("F28", "counts right after the kill", counted_s, target_s=2.0)


async def test_only_its_own_message_fails_when_the_handler_raises_for_one_in_ten(cluster: Cluster) -> None:
    """F28d"""
    replica: Replica = cluster["R1"]
    async with Load.on(cluster, clients=5) as load:
        before = await replica.state()
        await load.publish(per_replica_per_s=20.0)
        client = next(client for client in load.clients if client.listener.replica == "R1")
        for number in range(200):
            client.send_json({"raise": True} if number % 10 == 0 else {"number": number})
        await client.expect(lambda message: message == {"echo": {"number": 199}})
        echoes = [message for message in client.others if isinstance(message, dict) and "number" in message["echo"]]
        assert [message["echo"]["number"] for message in echoes] == [n for n in range(200) if n % 10]
        await load.until_delivered(500)
        await load.stop_publishing()
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        assert all(client.close_code is None for client in load.clients)
        after = await replica.state()
        assert after["raises"] - before["raises"] == 20
        assert after["stats"]["handler_errors"] - before["stats"]["handler_errors"] == 20
        await load.back_to_baseline()
    assert not load.noise()

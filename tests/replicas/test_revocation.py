"""A user is no longer welcome: his sockets end on all replicas, at once, and hear nothing more."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest

from tests.replicas.cluster import Cluster, Load
from tests.replicas.replica import eventually
from tests.replicas.report import Report

KINDS = pytest.mark.parametrize("kind", ["valkey", "redis"])


@KINDS
async def test_sockets_on_another_replica_end_at_once_and_hear_nothing_more(
    cluster: Cluster, report: Report, kind: str
) -> None:
    """S09"""
    async with Load.on(cluster) as load:
        await load.publish(per_replica_per_s=30.0)
        await load.until_delivered(1_000)
        took_s = []
        for number in range(5):
            victims = [client for client in load.clients if client.listener.user_id == f"R3u{number}"]
            assert len(victims) == 1
            done = await cluster["R1"].post("/disconnect", {"user_id": f"R3u{number}"})
            victims[0].listener.until = done["begun"]  # what comes later, and was sent later, would be a stray
            assert (done["connections"], done["replicas"], done["complete"]) == (1, 3, True)
            assert await asyncio.wait_for(victims[0].closed, 20.0) == 4502
            took_s.append(time.monotonic() - done["begun"])
        await load.until_delivered(500)
        await load.stop_publishing()
        gone = {f"R3c{number}" for number in range(5)}
        verdict = await load.settle(forgive=lambda listener, send: listener.name in gone)
        assert verdict.clean, str(verdict)
        found = await eventually(partial(cluster["R3"].state), lambda state: state["connections"] == 10)
        assert found["users"] == 10
        assert sum(client.close_code is not None for client in load.clients) == 5
    assert not load.noise()
    report.within(f"S09 {kind}", "socket closed on another replica, longest of 5", max(took_s), target_s=1.0)


async def test_revocation_is_local_and_says_so_when_the_broker_is_away(cluster: Cluster) -> None:
    async with Load.on(cluster, clients=3) as load:
        try:
            await asyncio.to_thread(cluster.broker.kill)
            await cluster.until("degraded")
            done = await cluster["R1"].post("/disconnect", {"user_id": "R1u0"})
            assert (done["connections"], done["replicas"], done["complete"]) == (1, 1, False)
            away = await cluster["R1"].post("/disconnect", {"user_id": "R3u0"})
            assert (away["connections"], away["complete"]) == (0, False)
        finally:
            await asyncio.to_thread(cluster.broker.restart)
        await cluster.until_complete()
        (victim,) = [client for client in load.clients if client.listener.user_id == "R1u0"]
        assert await asyncio.wait_for(victim.closed, 20.0) == 4502
        again = await cluster["R1"].post("/disconnect", {"user_id": "R3u0"})
        assert (again["connections"], again["replicas"], again["complete"]) == (1, 3, True)

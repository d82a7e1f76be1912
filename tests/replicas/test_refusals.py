"""The broker answers with a refusal: the user is off, the channels forbidden, no room for clients or data, loading."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial

import pytest
import redis

from antiphon.dev.broker_server import BrokerServer
from tests.replicas.cluster import Cluster, Load
from tests.replicas.conftest import or_skipped
from tests.replicas.outage import Outage
from tests.replicas.replica import Json, eventually
from tests.replicas.report import Report

CANARY = "canary-0451"
ACL = ("ACL", "SETUSER", "ws")


def reason_of(state: Json) -> str | None:
    link = state["stats"]["link"]
    reason: str | None = link["reason"]
    return reason


@contextlib.asynccontextmanager
async def small_cluster(
    *, arguments: Sequence[str] = (), url: Callable[[BrokerServer], str] = lambda broker: broker.url
) -> AsyncIterator[Cluster]:
    """Two replicas and a broker that the test may spoil."""
    with or_skipped():
        cluster = Cluster.start("valkey", names=["R1", "R2"], arguments=arguments, url=url)
    try:
        yield cluster
    finally:
        cluster.close()


async def test_publishing_goes_on_when_the_broker_has_no_memory_left(cluster: Cluster) -> None:
    """F23: PUBLISH needs no memory of the database, so nothing may change for clients."""
    cluster.command("SET", "ballast", "x" * 100_000)
    try:
        cluster.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        cluster.command("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(redis.ResponseError, match="maxmemory"):
            cluster.command("SET", "more", "x")
        begun = time.monotonic()
        async with Load.on(cluster, clients=5) as load:
            await load.publish(per_replica_per_s=20.0)
            await load.until_delivered(500)
            sends = await load.stop_publishing()
            verdict = await load.settle()
            assert verdict.clean, str(verdict)
            assert {(send.error, send.scope) for send in sends} == {(None, "cluster")}
            counts = await cluster["R1"].get("/counts")
            assert (counts["connections"], counts["complete"]) == (15, True)
            for replica in cluster.replicas:
                assert [change.state for change in await replica.changes(since=begun)] == []
    finally:
        cluster.command("CONFIG", "SET", "maxmemory", "0")
        cluster.command("DEL", "ballast")


async def test_replicas_serve_alone_and_recover_when_their_user_is_switched_off_or_loses_the_channels(
    report: Report,
) -> None:
    """F24"""

    def with_user(broker: BrokerServer) -> str:
        with redis.Redis(port=broker.port) as admin:
            admin.execute_command(*ACL, "on", f">{CANARY}", "~*", "allchannels", "+@all")
        return f"redis://ws:{CANARY}@127.0.0.1:{broker.port}/0"

    async with small_cluster(url=with_user) as cluster:

        def switch_off() -> None:
            cluster.command(*ACL, "off")
            cluster.command("CLIENT", "KILL", "USER", "ws")

        faults: dict[str, tuple[str, Callable[[], object], Callable[[], object]]] = {
            "F24 user off": ("authentication", switch_off, lambda: cluster.command(*ACL, "on")),
            "F24 no channels": (
                "permission",
                lambda: cluster.command(*ACL, "resetchannels"),
                lambda: cluster.command(*ACL, "allchannels"),
            ),
        }
        for name, (reason, fault, mend) in faults.items():
            await refused_and_back(cluster, report, name, reason, fault, mend)
        for replica in cluster.replicas:
            assert CANARY not in replica.log
            assert CANARY not in str(await replica.state())


async def refused_and_back(
    cluster: Cluster,
    report: Report,
    name: str,
    reason: str,
    fault: Callable[[], object],
    mend: Callable[[], object],
) -> None:
    """Let it happen under load; the reason has to be named, attempts have to be few, and all has to come back."""
    async with Load.on(cluster, clients=5) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(100)
        outage = await Outage.begin(cluster, fault)
        await outage.noticed()
        for replica in cluster.replicas:
            await eventually(replica.state, lambda state: reason_of(state) == reason, what=f"the reason {reason}")
        before, watched = await cluster["R1"].state(), time.monotonic()
        answer = await cluster["R1"].publish({"type": "alone"})
        assert answer["receipt"]["scope"] == "local", answer
        assert answer["receipt"]["reason"] == reason, answer
        await asyncio.sleep(1.5)
        after, watched_s = await cluster["R1"].state(), time.monotonic() - watched
        dials_per_s = (after["stats"]["link"]["dials"] - before["stats"]["link"]["dials"]) / watched_s
        await outage.heal(mend)
        await outage.over()
        await load.until_delivered(100)
        sends = await load.stop_publishing()
        verdict = await load.settle(forgive=outage.forgives)
        assert verdict.clean, str(verdict)
        assert not [send for send in sends if send.error]
        await load.back_to_baseline()
    assert not load.noise()
    report.add(name, "attempts to connect a second", f"{dials_per_s:.1f}", target="1", gate="3")
    assert dials_per_s <= 3.0
    report.within(name, "detect, longest of 2", max(outage.detect_s), target_s=0.2)
    report.within(name, "recover, longest of 2", max(outage.recover_s), target_s=2.5)


async def test_reason_is_named_and_replicas_recover_when_the_broker_takes_no_more_clients(report: Report) -> None:
    """F26b"""
    async with small_cluster() as cluster, Load.on(cluster, clients=5) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(100)
        with redis.Redis(port=cluster.broker.port) as admin:
            admin.ping()
            admin.config_set("maxclients", 1)

            def kill() -> None:
                admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
                admin.execute_command("CLIENT", "KILL", "TYPE", "normal")

            outage = await Outage.begin(cluster, kill)
            await outage.noticed()
            for replica in cluster.replicas:
                await eventually(
                    replica.state, lambda state: reason_of(state) == "max_clients", what="the reason max_clients"
                )
            await outage.heal(lambda: admin.config_set("maxclients", 100))
        await outage.over()
        await load.until_delivered(100)
        await load.stop_publishing()
        verdict = await load.settle(forgive=outage.forgives)
        assert verdict.clean, str(verdict)
        await load.back_to_baseline()
        assert not load.noise()
    report.within("F26b max_clients", "recover, longest of 2", max(outage.recover_s), target_s=2.5)


async def test_replica_starts_and_joins_when_the_broker_is_still_loading(report: Report) -> None:
    """F26b"""
    slow_load = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    with or_skipped():
        cluster = Cluster("valkey", arguments=slow_load)
    try:
        with redis.Redis(port=cluster.broker.port) as admin:
            admin.mset({f"key:{number}": "x" * 100 for number in range(2_000)})
            admin.save()
        cluster.broker.kill()
        await asyncio.to_thread(cluster.broker.restart)
        replica = cluster.add("R1", cluster.broker.url)
        replica.wait_ready()
        # Where the machine is so slow that the broker was quicker, there is no reason to see.
        found = await eventually(replica.state, lambda state: state["state"] == "up" or reason_of(state) == "loading")
        await eventually(partial(loading, cluster), lambda still: not still, what="the end of loading")
        loaded = time.monotonic()
        await replica.until("up")
        up = (await replica.changes(since=0.0))[-1]
        assert not replica.noise()
    finally:
        cluster.close()
    report.add("F26b loading", "reason while it is loading", str(reason_of(found)), target="loading")
    report.within("F26b loading", "join once it is loaded", max(0.0, up.at - loaded), target_s=2.5)


async def loading(cluster: Cluster) -> bool:
    info = str(await asyncio.to_thread(cluster.command, "INFO", "persistence"))
    return "'loading': 1" in info or "loading:1" in info

"""Poison on the bus: with signing keys, what others publish, forge or repeat reaches no client."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from functools import partial

import pytest
import redis

from antiphon import SyncPublisher
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer
from tests.replicas.cluster import CHANNEL, Cluster, Load
from tests.replicas.conftest import or_skipped
from tests.replicas.replica import Json, eventually

KEY, OTHER = "the-key-0123456789-abcdefghijklmnop", "another-0123456789-abcdefghijklmnop"


@pytest.fixture(scope="module")
def signed() -> Iterator[Cluster]:
    """Three replicas that have one key."""
    with or_skipped():
        cluster = Cluster.start("valkey", environment={"ANTIPHON_SIGNING_KEYS": KEY})
    yield cluster
    cluster.close()


async def forged_at(cluster: Cluster) -> list[int]:
    """How many forged messages each replica has refused."""
    links: list[Json] = [(await replica.state())["stats"]["link"] for replica in cluster.replicas]
    return [link["rejected"].get("forged", 0) for link in links]


async def test_messages_cross_and_forged_ones_reach_nobody(signed: Cluster) -> None:
    """S26"""
    async with Load.on(signed, clients=5) as load:
        await load.publish(per_replica_per_s=20.0)
        await load.until_delivered(300)
        replica = (await signed["R1"].state())["stats"]["link"]["replica"]
        evil = Envelope(f"{replica}-999999", b'{"pub":"evil","topic":null,"seq":0}', sender=replica, at_ms=1)
        revoke = Envelope(
            None, b'{"ask":"1","channel":"live","question":{"user":"R1u0"},"about":"revoke"}', sender="evil", kind="ask"
        )
        poison = [
            (CHANNEL, json.dumps({"pub": "evil", "topic": None, "seq": 1}).encode()),
            (CHANNEL, envelopes.encode(evil)),
            (CHANNEL, Signer(OTHER).encode(CHANNEL, evil)),
            ("antiphon:control", envelopes.encode(revoke)),
            ("antiphon:control", Signer(OTHER).encode("antiphon:control", revoke)),
        ]
        with redis.Redis(port=signed.broker.port) as client:
            assert [client.publish(route, payload) for route, payload in poison] == [3] * len(poison)
        for found in [
            await eventually(replica.state, lambda state: sum(state["stats"]["link"]["rejected"].values()) >= 5)
            for replica in signed.replicas
        ]:
            assert found["stats"]["link"]["rejected"] == {"unsigned": 3, "forged": 2}
        await load.until_delivered(300)
        sends = await load.stop_publishing()
        verdict = await load.settle()
        assert verdict.clean, str(verdict)  # nothing of what nobody sent is there
        assert {send.scope for send in sends} == {"cluster"}
        assert all(client.close_code is None for client in load.clients)
        for replica_ in signed.replicas:
            assert KEY not in replica_.log
    assert not load.noise()


async def test_captured_message_reaches_nobody_again_and_no_other_channel(signed: Cluster) -> None:
    """S27"""
    async with Load.on(signed, clients=5) as load:
        with redis.Redis(port=signed.broker.port) as admin, admin.pubsub() as ear:
            ear.subscribe(CHANNEL)
            await eventually(lambda: asyncio.to_thread(ear.get_message, timeout=1.0), lambda event: event is not None)
            await signed["R1"].publish({"type": "captured"})
            event = await eventually(
                lambda: asyncio.to_thread(ear.get_message, timeout=1.0), lambda event: event is not None
            )
            assert event is not None
            before = await forged_at(signed)
            for route in (CHANNEL, CHANNEL, f"{CHANNEL}/t0", "antiphon:control"):
                admin.publish(route, event["data"])
            await eventually(partial(forged_at, signed), lambda found: found == [count + 2 for count in before])
        await signed["R2"].publish({"type": "later"})
        for client in load.clients:
            await client.expect(lambda message: message == {"type": "later"})
            assert client.others.count({"type": "captured"}) == 1


async def test_worker_with_the_key_reaches_everybody_and_one_without_nobody(signed: Cluster) -> None:
    async with Load.on(signed, clients=5) as load:
        for keys in (None, [KEY]):
            with SyncPublisher(signed.broker.url, signing_keys=keys) as publisher:
                await asyncio.to_thread(publisher.publish, CHANNEL, {"type": "work", "signed": keys is not None})
        for client in load.clients:
            await client.expect(lambda message: message == {"type": "work", "signed": True})
            assert {"type": "work", "signed": False} not in client.others

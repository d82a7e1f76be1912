"""Anybody can PUBLISH anything: the readers survive it, count it, and deliver what comes next."""

from __future__ import annotations

import json

from tests.replicas.cluster import TOPICS, Cluster, Load
from tests.replicas.recorder import Key, Send
from tests.replicas.replica import eventually

BAD: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "malformed"),
    "1 MiB of nonsense": (b"x" * 1024 * 1024, "malformed"),
    "1 MiB of JSON, cut off": (b'{"x":"' + b"y" * 1024 * 1024, "malformed"),
    "invalid UTF-8": (b'{"x":"\xff\xfe"}', "malformed"),
    "invalid JSON": (b'{"x":', "malformed"),
    "JSON, but NaN": (b'{"x":NaN}', "malformed"),
    "a JSON array": (b'[{"x":1}]', "malformed"),
    "a JSON string": (b'"x"', "malformed"),
    "nested too deep": (b'{"x":' * 100_000, "malformed"),
    "an envelope without a message": (b'{"antiphon":1,"id":"a"}', "malformed"),
    "an envelope with a wrong type": (b'{"antiphon":1,"id":["a"],"message":{"x":1}}', "malformed"),
    "a wrong version": (b'{"antiphon":"new","id":"a","message":{"x":1}}', ""),
    "a later version": (b'{"antiphon":99,"id":"b","message":{"x":1}}', "version"),
}


async def test_every_bad_payload_is_counted_and_the_next_good_one_delivered(cluster: Cluster) -> None:
    """F25"""
    async with Load.on(cluster, clients=5) as load:
        before = {replica.name: (await replica.state())["stats"]["link"] for replica in cluster.replicas}
        for sequence, (payload, _) in enumerate(BAD.values()):
            cluster.publish(payload)
            cluster.publish(payload, topic="t0")
            for topic in (None, *TOPICS):
                key = Key("elsewhere", topic, sequence)
                cluster.publish(json.dumps({"pub": key.publisher, "topic": topic, "seq": sequence}), topic=topic)
                load.recording.sent([Send(key, load.clients[-1].listener.since, float("inf"))])
        for listener in load.recording.listeners:
            listener.until = float("inf")
        verdict = await load.settle()
        assert verdict.clean, str(verdict)
        for client in load.clients:
            assert client.close_code is None
            assert client.others == [{"echo": {"hello": int(client.listener.name.partition("c")[2])}}]
        for replica in cluster.replicas:
            link, earlier = (await replica.state())["stats"]["link"], before[replica.name]
            rejected = {reason: n - earlier["rejected"].get(reason, 0) for reason, n in link["rejected"].items()}
            assert sum(rejected.values()) == 2 * len(BAD), rejected
            assert rejected["version"] >= 2 * sum(reason == "version" for _, reason in BAD.values())
            assert rejected["malformed"] >= 2 * sum(reason == "malformed" for _, reason in BAD.values())
            assert link["losses"] == earlier["losses"]
            assert link["state"] == "up"
        await load.back_to_baseline()
    assert not load.noise()


async def test_a_payload_of_one_mebibyte_harms_nobody_when_another_program_sends_it(cluster: Cluster) -> None:
    """F25: it is valid JSON; whether it is delivered or refused, everybody stays."""
    big = json.dumps({"type": "big", "padding": "x" * 1024 * 1024})
    async with Load.on(cluster, clients=5) as load:
        cluster.publish(big)
        await cluster["R1"].publish({"type": "after"})
        for client in load.clients:
            await client.expect(lambda message: message == {"type": "after"})
            assert client.close_code is None
    assert not load.noise()


async def test_messages_of_a_later_release_are_delivered_when_only_fields_are_new(cluster: Cluster) -> None:
    """F28f"""
    async with Load.on(cluster, clients=5) as load:
        before = {replica.name: (await replica.state())["stats"]["link"]["rejected"] for replica in cluster.replicas}
        new = b'{"antiphon":1,"id":"new-%d","priority":5,"trace":{"a":[1]},"message":{"type":"new","n":%d}}'
        for number in range(3):
            cluster.publish(new % (number, number))
        cluster.publish(new % (0, 0))  # the same id again
        cluster.publish(b'{"antiphon":2,"id":"x","message":{"type":"new","n":99}}')
        cluster.publish(b'{"type":"new","n":3}')
        for client in load.clients:
            await client.expect(lambda message: message == {"type": "new", "n": 3})
            found = [message for message in client.others if isinstance(message, dict) and message.get("type") == "new"]
            assert found == [{"type": "new", "n": number} for number in range(4)]
        for replica in cluster.replicas:
            rejected = await eventually(replica.state, lambda state: state["stats"]["link"]["rejected"])
            count = rejected["stats"]["link"]["rejected"]["version"] - before[replica.name].get("version", 0)
            assert count == 1
    assert not load.noise()

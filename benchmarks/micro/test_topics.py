"""Many topics with one listener each."""

from __future__ import annotations

import importlib.util

from benchmarks.micro.audience import MESSAGE, Audience, ManagedAudience, publication
from benchmarks.micro.counting import Counts, count

COMPILED = importlib.util.find_spec("orjson") is not None
"""Whether JSON is checked and encoded in C."""

BOUND = 500
BOUND_OF_A_PUBLICATION = 500 if COMPILED else 1600


async def _deliver_to_one_of(topics: int) -> Counts:
    there = Audience()
    try:
        for number in range(topics):
            await there.join((f"topic:{number}",))
        await there.deliver(publication())
        there.received()
        one = publication(topic=f"topic:{topics // 2}")
        with count() as counts:
            await there.deliver(one)
        received = there.received()
        assert received.count(one.frame.wire) == 1
        assert received.count(b"") == topics - 1
        return counts
    finally:
        await there.close()


async def _publish_to_each_of(topics: int) -> Counts:
    """What an application does that announces something in many rooms at once."""
    there = ManagedAudience()
    names = [f"topic:{number}" for number in range(topics)]
    try:
        for name in names:
            await there.join((name,))
        await there.manager.broadcast(MESSAGE)
        await there.written()
        there.received()
        with count() as counts:
            for name in names:
                await there.manager.broadcast(MESSAGE, topic=name)
            await there.written()
        assert all(there.received())
        return counts
    finally:
        await there.close()


async def test_a_message_to_a_topic_costs_the_same_among_few_topics_and_many() -> None:
    few, many = await _deliver_to_one_of(8), await _deliver_to_one_of(128)
    assert many.instructions == few.instructions
    assert many.c_calls["write"] == few.c_calls["write"] == 1


async def test_a_message_to_a_topic_with_one_listener_takes_few_instructions() -> None:
    counts = await _deliver_to_one_of(8)
    assert counts.instructions <= BOUND


async def test_publishing_to_many_topics_takes_few_instructions_for_each() -> None:
    few, many = await _publish_to_each_of(8), await _publish_to_each_of(48)
    each = (many.instructions - few.instructions) / 40
    assert 50 < each <= BOUND_OF_A_PUBLICATION


async def test_publishing_to_many_topics_is_one_turn_of_the_event_loop_and_one_write_for_each() -> None:
    few, many = await _publish_to_each_of(8), await _publish_to_each_of(48)
    assert many.c_calls["write"] == 48
    assert many.python_calls["BaseEventLoop.call_soon"] == few.python_calls["BaseEventLoop.call_soon"]
    if COMPILED:
        assert (many.calls - few.calls) / 40 <= 12

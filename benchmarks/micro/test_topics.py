"""Many topics with one listener each."""

from __future__ import annotations

from benchmarks.micro.audience import Audience, publication
from benchmarks.micro.counting import Counts, count

BOUND = 600


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


async def test_a_message_to_a_topic_costs_the_same_among_few_topics_and_many() -> None:
    few, many = await _deliver_to_one_of(8), await _deliver_to_one_of(128)
    assert many.instructions == few.instructions
    assert many.c_calls["write"] == few.c_calls["write"] == 1


async def test_a_message_to_a_topic_with_one_listener_takes_few_instructions() -> None:
    counts = await _deliver_to_one_of(8)
    assert counts.instructions <= BOUND

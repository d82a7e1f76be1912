"""What a connection adds to the cost of a fan-out, as the difference between a large and a small one."""

from __future__ import annotations

from benchmarks.micro.audience import audience, publication
from benchmarks.micro.counting import Counts, count

SMALL, LARGE = 40, 120
"""Both are served within one turn of the event loop."""


async def _counts(size: int, messages: int = 1) -> Counts:
    async with audience(size) as there:
        publications = [publication(number) for number in range(messages)]
        for each in publications:
            _ = each.frame.wire
        with count() as counts:
            await there.deliver(*publications)
        return counts


async def test_one_message_is_one_write_per_connection() -> None:
    counts = await _counts(LARGE)
    assert counts.c_calls["write"] == LARGE


async def test_messages_of_one_turn_are_one_write_per_connection() -> None:
    async with audience(LARGE) as there:
        publications = [publication(number) for number in range(32)]
        with count() as counts:
            await there.deliver(*publications)
        expected = b"".join(each.frame.wire for each in publications)
        assert counts.c_calls["write"] == LARGE
        assert there.received() == [expected] * LARGE


async def test_a_connection_adds_few_instructions() -> None:
    small, large = await _counts(SMALL), await _counts(LARGE)
    each = (large.instructions - small.instructions) / (LARGE - SMALL)
    assert 5 < each <= 24


async def test_a_connection_adds_one_call_of_c_and_none_of_python() -> None:
    small, large = await _counts(SMALL), await _counts(LARGE)
    assert large.calls == small.calls
    assert large.c_calls.total() - small.c_calls.total() == LARGE - SMALL


async def test_a_message_that_is_joined_adds_few_instructions_whatever_the_number_of_connections() -> None:
    one, many = await _counts(LARGE, messages=1), await _counts(LARGE, messages=33)
    each = (many.instructions - one.instructions) / 32
    assert 5 < each <= 300

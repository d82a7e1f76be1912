"""What a publication costs before and after the fan-out: encoding, the envelope both ways, and recognising repeats."""

from __future__ import annotations

import importlib.util

from antiphon.dedupe import Dedupe
from antiphon.wire import envelope
from benchmarks.micro.audience import audience, publication
from benchmarks.micro.counting import count

COMPILED = importlib.util.find_spec("orjson") is not None
"""Whether JSON is checked and encoded in C."""


async def test_a_message_is_encoded_once_for_all_connections() -> None:
    async with audience(64) as there:
        with count() as counts:
            await there.deliver(publication())
        assert counts.python_calls["encode"] == 1
        assert counts.python_calls["Frame.__init__"] == 1
        assert counts.python_calls["decode"] == 0


def test_making_a_publication_takes_few_instructions() -> None:
    publication()
    with count() as counts:
        publication()
    assert counts.instructions <= (400 if COMPILED else 1500)


def test_an_envelope_is_read_without_decoding_its_message() -> None:
    data = envelope.encode(publication().envelope)
    envelope.decode(data)
    with count() as counts:
        envelope.decode(data)
    longer = envelope.encode(publication(10**12).envelope)
    with count() as counts_of_longer:
        envelope.decode(longer)
    assert counts.instructions <= (500 if COMPILED else 1500)
    assert counts_of_longer.instructions == counts.instructions


def test_writing_an_envelope_takes_few_instructions() -> None:
    made = publication().envelope
    envelope.encode(made)
    with count() as counts:
        envelope.encode(made)
    assert counts.instructions <= (200 if COMPILED else 800)


def test_recognising_a_repeat_takes_the_same_whatever_is_remembered() -> None:
    costs = []
    for remembered in (10, 10_000):
        dedupe = Dedupe()
        for number in range(remembered):
            dedupe.first_time(f"replica-{number}")
        with count() as counts:
            assert dedupe.first_time("replica-x")
            assert not dedupe.first_time("replica-x")
        costs.append(counts.instructions)
    assert costs[0] == costs[1]
    assert costs[0] <= 200

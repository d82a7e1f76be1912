"""Routes: who hears what from the broker, and what becomes of what arrives."""

from __future__ import annotations

import logging

import pytest

from antiphon.dedupe import Dedupe
from antiphon.journal import Journal
from antiphon.publication import Publication, new_publication
from antiphon.routes import Routes
from antiphon.stats import LinkCounters
from antiphon.wire.envelope import Envelope


class Fixture:
    def __init__(self) -> None:
        self.counters = LinkCounters()
        self.now = 0.0
        self.routes = Routes(
            counters=self.counters, dedupe=Dedupe(limit=3, age_s=120, clock=lambda: self.now), journal=Journal()
        )
        self.got: list[bytes] = []

    def listener(self, publication: Publication) -> int:
        self.got.append(publication.envelope.payload)
        return 1


@pytest.fixture
def here() -> Fixture:
    return Fixture()


def envelope(id: str | None, payload: bytes = b"{}", retry_age_ms: int | None = None) -> Envelope:
    return Envelope(id=id, payload=payload, retry_age_ms=retry_age_ms)


def test_the_broker_is_asked_once_for_a_route(here: Fixture) -> None:
    assert here.routes.add("c", None, here.listener)
    assert not here.routes.add("c", None, here.listener)
    assert here.routes.add("c", "t", here.listener)
    assert list(here.routes) == ["c", "c/t"]


def test_a_route_lingers_and_is_forgotten_when_nobody_came_back(here: Fixture) -> None:
    here.routes.add("c", "t", here.listener)
    here.routes.add("c", "t", here.listener)
    here.routes.discard("c", "t", here.listener, now=1.0)
    assert here.routes.expire(before=100.0) == []

    here.routes.discard("c", "t", here.listener, now=2.0)
    assert here.routes.expire(before=1.9) == []
    assert not here.routes.add("c", "t", here.listener)
    assert here.routes.expire(before=100.0) == []
    here.routes.discard("c", "t", here.listener, now=3.0)
    assert here.routes.expire(before=3.0) == ["c/t"]
    assert here.routes.add("c", "t", here.listener)


def test_a_copy_of_the_same_id_is_dropped_and_counted(here: Fixture) -> None:
    here.routes.add("c", None, here.listener)

    assert [here.routes.arrived("c", envelope(id)) for id in ("1", "1", "2", "1")] == [1, 0, 1, 0]
    assert here.counters.duplicates == 2


def test_messages_without_an_id_are_all_delivered(here: Fixture) -> None:
    here.routes.add("c", None, here.listener)

    assert [here.routes.arrived("c", envelope(None)) for _ in range(3)] == [1, 1, 1]


def test_what_was_delivered_here_is_a_copy_when_it_comes_from_the_broker(here: Fixture) -> None:
    here.routes.add("c", None, here.listener)
    mine = new_publication({"n": 1}, sender="r", channel="c", limit_bytes=100)

    assert here.routes.deliver_here(mine) == 1
    assert here.routes.arrived("c", mine.envelope) == 0
    assert here.got == [b'{"n":1}']


def test_a_late_resend_is_dropped_where_memory_does_not_reach_back(here: Fixture) -> None:
    here.routes.add("c", None, here.listener)
    for number in range(10):
        here.now += 1
        here.routes.arrived("c", envelope(str(number)))

    assert here.routes.arrived("c", envelope("late", retry_age_ms=60_000)) == 0
    assert here.routes.arrived("c", envelope("young", retry_age_ms=500)) == 1
    assert here.counters.stale_retries == 1


def test_a_route_that_nobody_hears_delivers_nothing(here: Fixture) -> None:
    assert here.routes.arrived("unknown", envelope("1")) == 0


@pytest.mark.parametrize("payload", [b"", b"[]", b"nonsense", b"\xff{}", b'{"a":NaN}', b'"text"'])
def test_what_is_no_json_object_is_rejected_and_counted(here: Fixture, payload: bytes) -> None:
    assert here.routes.read("c", payload) is None
    assert here.counters.rejected == {"malformed": 1}


def test_an_unknown_version_is_rejected_and_counted(here: Fixture) -> None:
    assert here.routes.read("c", b'{"antiphon":99,"message":{}}') is None
    assert here.counters.rejected == {"version": 1}


def test_a_listener_that_raises_takes_nothing_from_the_others(here: Fixture, caplog: pytest.LogCaptureFixture) -> None:
    def broken(publication: Publication) -> int:
        raise ZeroDivisionError

    here.routes.add("c", None, broken)
    here.routes.add("c", None, here.listener)

    with caplog.at_level(logging.WARNING, logger="antiphon"):
        assert here.routes.arrived("c", envelope("1")) == 1
    assert "ZeroDivisionError" in caplog.text


async def test_waiters_learn_that_a_route_is_heard_or_lost(here: Fixture) -> None:
    here.routes.add("a", None, here.listener)
    here.routes.add("b", None, here.listener)
    first, second, unknown = here.routes.wait("a"), here.routes.wait("b"), here.routes.wait("nowhere")

    assert here.routes.confirm("a")
    assert not here.routes.confirm("a")
    here.routes.lost()

    assert [await first, await second, await unknown] == [True, False, False]
    assert here.routes.unconfirmed() == ["a", "b"]

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.dedupe import Dedupe
from antiphon.errors import ConfigurationError
from tests.unit.json_values import modest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_id_is_new_once_when_it_comes_again() -> None:
    dedupe = Dedupe()
    assert dedupe.first_time("a")
    assert not dedupe.first_time("a")
    assert dedupe.first_time("b")
    assert len(dedupe) == 2


def test_oldest_id_is_forgotten_when_the_limit_is_reached() -> None:
    dedupe = Dedupe(limit=2)
    for id in ("a", "b", "c"):
        assert dedupe.first_time(id)
    assert len(dedupe) == 2
    assert not dedupe.first_time("b")
    assert dedupe.first_time("a")


def test_id_is_kept_when_it_is_not_older_than_the_age() -> None:
    clock = Clock()
    dedupe = Dedupe(age_s=10.0, clock=clock)
    dedupe.first_time("a")
    clock.now += 10.0
    dedupe.first_time("b")
    assert not dedupe.first_time("a")
    clock.now += 0.5
    dedupe.first_time("c")
    assert dedupe.first_time("a")


def test_memory_is_given_back_bit_by_bit_when_ids_are_too_old() -> None:
    clock = Clock()
    dedupe = Dedupe(age_s=10.0, clock=clock)
    for number in range(100):
        dedupe.first_time(f"old-{number}")
    clock.now += 11.0
    for number in range(50):
        dedupe.first_time(f"new-{number}")
    assert len(dedupe) == 50


def test_memory_covers_its_age_when_nothing_had_to_make_room() -> None:
    clock = Clock()
    dedupe = Dedupe(limit=4, age_s=10.0, clock=clock)
    assert dedupe.covers(10.0)
    assert not dedupe.covers(10.1)
    for id in ("a", "b", "c", "d"):
        dedupe.first_time(id)
    assert dedupe.covers(10.0)


def test_memory_covers_less_when_ids_had_to_make_room() -> None:
    clock = Clock()
    dedupe = Dedupe(limit=2, age_s=10.0, clock=clock)
    dedupe.first_time("a")
    clock.now += 1.0
    dedupe.first_time("b")
    clock.now += 1.0
    dedupe.first_time("c")
    assert dedupe.covers(1.9)
    assert not dedupe.covers(2.0)
    clock.now += 8.5
    assert dedupe.covers(10.0)


@pytest.mark.parametrize(("limit", "age_s"), [(0, 1.0), (-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_memory_is_refused_when_it_could_hold_nothing(limit: int, age_s: float) -> None:
    with pytest.raises(ConfigurationError):
        Dedupe(limit, age_s)


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from([0.0, 0.5, 1.0, 4.0])), max_size=60),
    st.integers(1, 6),
    st.sampled_from([0.5, 1.0, 3.5, 5.0]),
)
@modest
def test_no_repeat_passes_when_the_memory_covers_its_age(
    arrivals: list[tuple[int, float]], limit: int, probe_age_s: float
) -> None:
    """Every id that was first seen within a covered age is known, and there are never more than `limit`."""
    clock = Clock()
    dedupe = Dedupe(limit, 5.0, clock=clock)
    first_seen: dict[str, float] = {}
    for number, pause in arrivals:
        clock.now += pause
        if dedupe.first_time(str(number)):
            first_seen[str(number)] = clock.now
        assert len(dedupe) <= limit
    if dedupe.covers(probe_age_s):
        recent = [id for id, at in first_seen.items() if clock.now - at <= probe_age_s]
        assert [id for id in recent if dedupe.first_time(id)] == []

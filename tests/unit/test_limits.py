from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ConfigurationError
from antiphon.limits import Limits, TokenBucket
from tests.unit.json_values import modest


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_limits_have_the_documented_values_when_nothing_is_set() -> None:
    assert Limits() == Limits(message_bytes=262_144, topics_per_connection=128)


@pytest.mark.parametrize("name", ["message_bytes", "topics_per_connection"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, True])
def test_limits_are_refused_when_a_value_is_no_positive_integer(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=f"Limits.{name} must be an int of at least 1"):
        Limits(**{name: value})  # type: ignore[arg-type]  # that it is refused is what is tested


def test_bucket_gives_its_burst_when_it_is_new() -> None:
    bucket = TokenBucket(1.0, 3, clock=Clock())
    assert [bucket.take() for _ in range(4)] == [True, True, True, False]


def test_bucket_fills_at_its_rate_when_time_passes() -> None:
    clock = Clock()
    bucket = TokenBucket(2.0, 2, clock=clock)
    assert bucket.take(2)
    clock.now += 0.25
    assert not bucket.take()
    clock.now += 0.25
    assert bucket.take()
    assert not bucket.take()


def test_bucket_holds_no_more_than_its_burst_when_it_was_idle() -> None:
    clock = Clock()
    bucket = TokenBucket(100.0, 2, clock=clock)
    clock.now += 3_600
    assert [bucket.take() for _ in range(3)] == [True, True, False]


def test_bucket_takes_nothing_when_there_is_not_enough() -> None:
    bucket = TokenBucket(1.0, 3, clock=Clock())
    assert not bucket.take(4)
    assert bucket.take(3)


def test_bucket_gives_nothing_more_when_the_clock_goes_back() -> None:
    clock = Clock()
    bucket = TokenBucket(1.0, 1, clock=clock)
    assert bucket.take()
    clock.now -= 50
    assert not bucket.take()
    clock.now += 50.5
    assert not bucket.take()


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, 0.5)])
def test_bucket_is_refused_when_it_could_never_give(rate_per_s: float, burst: float) -> None:
    with pytest.raises(ConfigurationError, match="rate above 0"):
        TokenBucket(rate_per_s, burst)


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 20), st.integers(1, 10))
@modest
def test_bucket_never_gives_more_than_burst_and_rate_allow(pauses: list[float], rate: int, burst: int) -> None:
    clock = Clock()
    bucket = TokenBucket(rate, burst, clock=clock)
    given_ = 0
    for pause in pauses:
        clock.now += pause
        given_ += bucket.take()
    assert given_ <= burst + sum(pauses) * rate + 1e-6

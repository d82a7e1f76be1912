from __future__ import annotations

from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ConfigurationError
from antiphon.limits import UNUSED, Allowances, Limits, Rate
from tests.unit.json_values import modest


class User:
    """One who shares a rule: what is left is the one number that is kept."""

    def __init__(self, rate: Rate, *, now: float = 100.0) -> None:
        self.rate = rate
        self.now = now
        self.full_at = UNUSED

    def take(self) -> bool:
        full_at = self.rate.take(self.full_at, self.now)
        if full_at < 0:
            return False
        self.full_at = full_at
        return True


def test_limits_have_the_documented_values_when_nothing_is_set() -> None:
    assert Limits() == Limits(
        message_bytes=262_144,
        topics_per_connection=128,
        frame_bytes=65_536,
        frame_depth=64,
        frames_per_s=100,
        frames_burst=200,
        inbound_bytes_per_s=1_048_576,
        inbound_bytes_burst=8_388_608,
        connections_per_user=64,
        user_frames_per_s=1_000,
        user_frames_burst=2_000,
        subscribes_per_s=20,
        subscribes_burst=256,
    )


@pytest.mark.parametrize("name", [field.name for field in fields(Limits)])
@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, True])
def test_limits_are_refused_when_a_value_is_no_positive_integer(name: str, value: object) -> None:
    if value is None and name == "connections_per_user":
        assert Limits(connections_per_user=None).connections_per_user is None
        return
    with pytest.raises(ConfigurationError, match=f"Limits.{name} must be an int of at least 1"):
        Limits(**{name: value})  # type: ignore[arg-type]  # that it is refused is what is tested


def test_an_allowance_gives_its_burst_when_it_is_new() -> None:
    user = User(Rate(1.0, 3))
    assert [user.take() for _ in range(4)] == [True, True, True, False]


def test_an_allowance_fills_at_its_rate_when_time_passes() -> None:
    user = User(Rate(2.0, 2))
    assert [user.take(), user.take()] == [True, True]
    user.now += 0.25
    assert not user.take()
    user.now += 0.25
    assert user.take()
    assert not user.take()


def test_an_allowance_gives_all_that_is_asked_for_or_nothing() -> None:
    rate = Rate(1.0, 3)
    full_at = rate.take(UNUSED, 100.0, 2)
    assert rate.take(full_at, 100.0, 2) == -1.0
    assert rate.take(full_at, 100.0, 1) == pytest.approx(103.0)
    assert rate.take(UNUSED, 100.0, 4) == -1.0


def test_an_allowance_holds_no_more_than_its_burst_when_it_was_idle() -> None:
    user = User(Rate(100.0, 2))
    assert user.take()
    user.now += 3_600
    assert [user.take() for _ in range(3)] == [True, True, False]


def test_an_allowance_begins_full_when_the_clock_begins_at_nothing() -> None:
    user = User(Rate(1.0, 2), now=0.0)
    assert [user.take() for _ in range(3)] == [True, True, False]


def test_an_allowance_gives_nothing_more_when_the_clock_goes_back() -> None:
    user = User(Rate(1.0, 1))
    assert user.take()
    user.now -= 50
    assert not user.take()
    user.now += 50.5
    assert not user.take()


def test_rounding_takes_nothing_away_when_the_clock_shows_years() -> None:
    user = User(Rate(1_000.0, 2_000), now=10 * 366 * 86_400.0)
    assert [user.take() for _ in range(2_001)] == [True] * 2_000 + [False]


@pytest.mark.parametrize(("rate_per_s", "burst"), [(0, 1), (-1, 1), (float("nan"), 1), (1, 0), (1, 0.5)])
def test_an_allowance_is_refused_when_it_could_never_give(rate_per_s: float, burst: float) -> None:
    with pytest.raises(ConfigurationError, match="rate above 0"):
        Rate(rate_per_s, burst)


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 20), st.integers(1, 10))
@modest
def test_an_allowance_never_gives_more_than_burst_and_rate_allow(pauses: list[float], rate: int, burst: int) -> None:
    user = User(Rate(rate, burst))
    given_ = 0
    for pause in pauses:
        user.now += pause
        given_ += user.take()
    assert given_ <= burst + sum(pauses) * rate + 0.01


@given(st.lists(st.floats(0, 10), max_size=60), st.integers(1, 20), st.integers(1, 10))
@modest
def test_an_allowance_never_refuses_who_keeps_to_the_rate(pauses: list[float], rate: int, burst: int) -> None:
    user = User(Rate(rate, burst))
    for pause in pauses:
        user.now += pause + 1 / rate
        assert user.take()


def test_each_key_has_an_allowance_of_its_own() -> None:
    allowances = Allowances(Rate(1.0, 2))
    assert [allowances.take("ann", 100.0) for _ in range(3)] == [True, True, False]
    assert allowances.take("ben", 100.0)
    assert allowances.take("ann", 101.0)


def test_keys_are_forgotten_when_their_allowance_is_full_again() -> None:
    allowances = Allowances(Rate(1.0, 2))
    for second in range(200):
        for number in range(100):
            assert allowances.take(f"{second}-{number}", float(second))
    assert len(allowances) <= Allowances.SWEEP


def test_no_key_is_forgotten_that_has_used_up_its_allowance() -> None:
    allowances = Allowances(Rate(1.0, 2))
    for number in range(5_000):
        assert allowances.take(str(number), 100.0)
        assert allowances.take(str(number), 100.0)
    assert len(allowances) == 5_000
    assert not any(allowances.take(str(number), 100.5) for number in range(5_000))

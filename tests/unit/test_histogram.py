"""Histograms: fixed bounds, and plain counts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ConfigurationError
from antiphon.histogram import SECONDS, Histogram


def test_values_are_counted_under_the_first_bound_that_is_not_below_them() -> None:
    histogram = Histogram((1.0, 2.0, 5.0))
    for value in (0.5, 1.0, 1.5, 2.0, 5.0, 5.1, 1e9):
        histogram.observe(value)
    assert histogram.bounds == (1.0, 2.0, 5.0)
    assert histogram.counts == (2, 2, 1, 2)
    assert histogram.count == 7


def test_values_below_zero_count_as_zero_when_clocks_do_not_agree() -> None:
    histogram = Histogram()
    histogram.observe(-3.0)
    assert (histogram.counts[0], histogram.count, histogram.sum) == (1, 1, 0.0)


@given(st.lists(st.floats(0, 100)))
def test_nothing_is_lost(values: list[float]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    assert histogram.count == len(values)
    assert histogram.sum == pytest.approx(sum(values))
    for number, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: number + 1]) == sum(value <= bound for value in values)


@pytest.mark.parametrize("bounds", [(), (1.0, 1.0), (2.0, 1.0)])
def test_bounds_that_make_no_sense_are_refused(bounds: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="at least one bound"):
        Histogram(bounds)

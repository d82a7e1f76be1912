from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.codes import Reason
from antiphon.errors import ConfigurationError
from antiphon.outbox import ITEM_OVERHEAD_BYTES, Outbox, OutboxLimits
from tests.unit.json_values import modest


def filled(*items: str, limits: OutboxLimits | None = None) -> Outbox[str]:
    outbox: Outbox[str] = Outbox(limits)
    for item in items:
        assert outbox.put(item, size_bytes=10, now=0.0) == []
    return outbox


def test_limits_have_the_documented_values_when_nothing_is_set() -> None:
    assert OutboxLimits() == OutboxLimits(messages=1_000, bytes=4_194_304, age_s=60.0)


@pytest.mark.parametrize("limits", [{"messages": -1}, {"bytes": -1}, {"age_s": -0.1}, {"age_s": float("nan")}])
def test_limits_are_refused_when_a_value_is_negative(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigurationError):
        OutboxLimits(**limits)


def test_items_leave_in_the_order_in_which_they_came() -> None:
    outbox = filled("a", "b", "c")
    assert len(outbox) == 3
    assert outbox.peek() == "a"
    assert outbox.head(2) == ["a", "b"]
    assert outbox.head(9) == ["a", "b", "c"]
    assert [outbox.pop(), outbox.pop(), outbox.pop(), outbox.pop()] == ["a", "b", "c", None]
    assert outbox.peek() is None
    assert outbox.size_bytes == 0


def test_oldest_is_dropped_when_there_are_too_many() -> None:
    outbox = filled("a", "b", limits=OutboxLimits(messages=2))
    assert outbox.put("c", size_bytes=10, now=1.0) == [("a", Reason.OVERFLOW)]
    assert outbox.head(9) == ["b", "c"]


def test_as_many_as_needed_are_dropped_when_there_are_too_many_bytes() -> None:
    outbox = filled("a", "b", "c", limits=OutboxLimits(bytes=3 * (ITEM_OVERHEAD_BYTES + 10)))
    assert outbox.size_bytes == 3 * (ITEM_OVERHEAD_BYTES + 10)
    assert outbox.put("d", size_bytes=10, now=1.0) == [("a", Reason.OVERFLOW)]
    assert outbox.put("e", size_bytes=200, now=1.0) == [("b", Reason.OVERFLOW), ("c", Reason.OVERFLOW)]
    assert outbox.head(9) == ["d", "e"]


def test_only_the_new_item_is_dropped_when_it_can_never_fit() -> None:
    outbox = filled("a", limits=OutboxLimits(bytes=600))
    assert outbox.put("huge", size_bytes=345, now=1.0) == [("huge", Reason.OVERFLOW)]
    assert outbox.head(9) == ["a"]
    assert outbox.put("whole", size_bytes=344, now=1.0) == [("a", Reason.OVERFLOW)]


def test_everything_is_dropped_when_the_outbox_is_off() -> None:
    assert Outbox[str](OutboxLimits(messages=0)).put("a", size_bytes=1, now=0.0) == [("a", Reason.OVERFLOW)]


def test_items_are_dropped_when_they_are_too_old() -> None:
    outbox = filled("a", "b", limits=OutboxLimits(age_s=5.0))
    outbox.put("c", size_bytes=10, now=3.0)
    assert outbox.expire(5.0) == []
    assert outbox.expire(5.5) == [("a", Reason.EXPIRED), ("b", Reason.EXPIRED)]
    assert outbox.put("d", size_bytes=10, now=9.0) == [("c", Reason.EXPIRED)]
    assert outbox.head(9) == ["d"]


def test_remove_takes_that_very_item_when_there_are_equal_ones() -> None:
    first, second = ["x"], ["x"]
    outbox: Outbox[list[str]] = Outbox()
    outbox.put(first, size_bytes=1, now=0.0)
    outbox.put(second, size_bytes=2, now=0.0)
    assert outbox.remove(second)
    assert not outbox.remove(second)
    assert outbox.peek() is first
    assert outbox.size_bytes == ITEM_OVERHEAD_BYTES + 1


steps = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "pop", "expire", "remove"]), st.integers(0, 900), st.integers(0, 4)
    ),
    max_size=60,
)


@given(steps, st.integers(0, 5), st.integers(0, 2_000), st.integers(0, 6))
@modest
def test_sum_in_is_sum_out_and_dropped_and_held_whatever_happens(
    steps: list[tuple[str, int, int]], messages: int, limit_bytes: int, age_s: int
) -> None:
    limits = OutboxLimits(messages=messages, bytes=limit_bytes, age_s=age_s)
    outbox: Outbox[tuple[int, int, float]] = Outbox(limits)
    now = 0.0
    put: list[tuple[int, int, float]] = []
    gone: list[tuple[int, int, float]] = []
    for number, (step, size_bytes, pause) in enumerate(steps):
        now += pause
        dropped: list[tuple[tuple[int, int, float], Reason]] = []
        if step == "put":
            item = (number, size_bytes, now)
            put.append(item)
            dropped = outbox.put(item, size_bytes=size_bytes, now=now)
        elif step == "expire":
            dropped = outbox.expire(now)
            assert all(reason is Reason.EXPIRED for _, reason in dropped)
        elif step == "pop":
            oldest = outbox.peek()
            popped = outbox.pop()
            assert popped is oldest
            gone += [popped] if popped is not None else []
        elif outbox:
            youngest = outbox.head(len(outbox))[-1]
            assert outbox.remove(youngest)
            gone.append(youngest)
        for item, reason in dropped:
            assert reason in (Reason.OVERFLOW, Reason.EXPIRED)
            assert (reason is Reason.EXPIRED) == (now - item[2] > age_s)
            gone.append(item)
        held = outbox.head(len(outbox))
        assert sorted(gone + held) == put
        assert held == sorted(held)
        assert len(outbox) == len(held) <= messages
        assert outbox.size_bytes == sum(ITEM_OVERHEAD_BYTES + item[1] for item in held) <= limit_bytes

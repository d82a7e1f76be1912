"""The queue of a client that is behind, against one that is simple."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from antiphon.transports.backlog import Backlog
from antiphon.transports.base import SendLimits
from antiphon.wire.frames import Policy


@dataclass
class Waiting:
    number: int
    size: int
    at: float
    policy: Policy | None


class Simple:
    """The same as a list."""

    def __init__(self, limits: SendLimits) -> None:
        self.limits = limits
        self.items: list[Waiting] = []
        self.dropped: Counter[str] = Counter()

    def drop(self, item: Waiting, reason: str) -> None:
        self.items.remove(item)
        self.dropped[reason] += 1

    def droppables(self) -> list[Waiting]:
        return [item for item in self.items if item.policy is not None]

    def size(self) -> int:
        return sum(item.size for item in self.items)

    def append_or_drop(self, item: Waiting) -> None:
        for other in self.droppables():
            if item.policy is not None and item.policy.newest is not None and other.policy == item.policy:
                self.drop(other, "replaced")
        self.items.append(item)
        while sum(other.size for other in self.droppables()) > self.limits.droppable_bytes:
            if self.droppables()[0] is item:
                break
            self.drop(self.droppables()[0], "drop_oldest")
        self.make_room(0)

    def make_room(self, size: int) -> bool:
        while self.size() + size > self.limits.queued_bytes and self.droppables():
            self.drop(self.droppables()[0], "drop_oldest")
        return self.size() + size <= self.limits.queued_bytes

    def expire(self, before: float) -> None:
        for item in self.droppables():
            if item.at < before:
                self.drop(item, "aged")


policies = st.sampled_from([None, None, Policy(), Policy(), Policy(("c", "a")), Policy(("c", "b"))])
steps = st.one_of(
    st.tuples(st.just("put"), policies, st.integers(1, 40)),
    st.tuples(st.just("take")),
    st.tuples(st.just("expire"), st.integers(0, 12)),
)


@given(st.lists(steps, max_size=120), st.sampled_from([5, 60, 1000]), st.sampled_from([100, 400]))
def test_it_holds_and_drops_what_the_simple_queue_does(
    todo: list[tuple[object, ...]], droppable_bytes: int, queued_bytes: int
) -> None:
    limits = SendLimits(queued_bytes=queued_bytes, droppable_bytes=droppable_bytes)
    dropped: Counter[str] = Counter()
    backlog: Backlog[int] = Backlog(limits, dropped=dropped, now=0.0)
    simple = Simple(limits)
    for now, step in enumerate(todo):
        match step:
            case ("put", Policy() as policy, int(size)):
                backlog.append_or_drop(now, size, float(now), policy, elsewhere_bytes=0)
                simple.append_or_drop(Waiting(now, size, float(now), policy))
            case ("put", None, int(size)):
                assert backlog.make_room(size, elsewhere_bytes=0) == simple.make_room(size)
                if simple.make_room(size):
                    backlog.append(now, size, float(now))
                    simple.items.append(Waiting(now, size, float(now), None))
            case ("expire", int(age)):
                backlog.expire(before=now - age)
                simple.expire(now - age)
            case _ if simple.items:
                assert backlog.take().data == simple.items.pop(0).number
        kept = [item for item in simple.items if item.policy is None]
        assert len(backlog) == len(simple.items)
        assert backlog.bytes == simple.size()
        assert backlog.kept_bytes == sum(item.size for item in kept)
        assert backlog.kept_since() == (kept[0].at if kept else None)
        assert dropped == simple.dropped
        assert len(backlog._cells) <= 2 * len(backlog)
    assert [backlog.take().data for _ in range(len(backlog))] == [item.number for item in simple.items]


def test_what_waits_elsewhere_counts_too() -> None:
    dropped: Counter[str] = Counter()
    backlog: Backlog[str] = Backlog(SendLimits(queued_bytes=100), dropped=dropped, now=0.0)
    backlog.append_or_drop("one", 30, 0.0, Policy(), elsewhere_bytes=60)
    backlog.append_or_drop("two", 30, 0.0, Policy(), elsewhere_bytes=60)
    assert (len(backlog), dropped) == (1, {"drop_oldest": 1})
    assert not backlog.make_room(50, elsewhere_bytes=60)
    assert (len(backlog), backlog.bytes) == (0, 0)


def test_one_frame_may_wait_however_large_it_is() -> None:
    dropped: Counter[str] = Counter()
    backlog: Backlog[str] = Backlog(SendLimits(droppable_bytes=10), dropped=dropped, now=0.0)
    backlog.append_or_drop("small", 5, 0.0, Policy(), elsewhere_bytes=0)
    backlog.append_or_drop("large", 500, 0.0, Policy("state"), elsewhere_bytes=0)
    assert [backlog.take().data for _ in range(len(backlog))] == ["large"]
    assert dropped == {"drop_oldest": 1}


def test_who_takes_something_is_not_stuck() -> None:
    backlog: Backlog[str] = Backlog(SendLimits(queued_age_s=10), dropped=Counter(), now=100.0)
    assert not backlog.is_stuck((500, 9), 109.0)
    assert not backlog.is_stuck((500, 8), 118.0)
    assert not backlog.is_stuck((500, 8), 128.0)
    assert backlog.is_stuck((500, 8), 128.5)
    assert not backlog.is_stuck((700, 8), 129.0)

"""What waits for one client that is behind, in publishing order, and what of it may be dropped."""

from __future__ import annotations

from collections import Counter, deque
from typing import Generic, TypeVar

from antiphon.transports.base import SendLimits
from antiphon.wire.frames import Policy

__all__ = ["Backlog", "Cell"]

T = TypeVar("T")


class Cell(Generic[T]):
    """One frame that waits."""

    __slots__ = ("at", "data", "policy", "size")

    def __init__(self, data: T, size: int, at: float, policy: Policy | None = None) -> None:
        self.data: T | None = data
        """None when it was dropped."""
        self.size = size
        self.at = at
        self.policy = policy
        """None: it is never dropped."""


class Backlog(Generic[T]):
    """A queue of whole frames. Those with a policy are bounded by themselves, and make room for the others.

    Every frame that is dropped is counted in `dropped`, under `drop_oldest` (no room), `replaced` (a newer one of its
    key came) or `aged`.
    """

    __slots__ = (
        "_cells",
        "_droppables",
        "_dropped",
        "_empty",
        "_keys",
        "_limits",
        "_seen",
        "bytes",
        "droppable_bytes",
        "is_final",
        "progress_at",
    )

    def __init__(self, limits: SendLimits, *, dropped: Counter[str], now: float) -> None:
        self._limits = limits
        self._dropped = dropped
        # Cells that were dropped stay until they come to the front, or are the majority: to remove one from the middle
        # takes as long as the queue is. The first cell of each queue is always one that was not dropped.
        self._cells: deque[Cell[T]] = deque()
        self._empty = 0
        self._droppables: deque[Cell[T]] | None = None
        self._keys: dict[object, Cell[T]] | None = None
        self.bytes = 0
        self.droppable_bytes = 0
        """Bytes of the frames with a policy; they are part of `bytes`."""
        self.is_final = False
        """Nothing may follow what is queued."""
        self.progress_at = now
        """When the client was last seen to take something."""
        self._seen: object = None

    def __len__(self) -> int:
        return len(self._cells) - self._empty

    @property
    def kept_bytes(self) -> int:
        """Bytes of the frames that are never dropped."""
        return self.bytes - self.droppable_bytes

    def kept_since(self) -> float | None:
        """Since when the oldest frame waits that is never dropped; None when there is none."""
        if self.bytes == self.droppable_bytes:
            return None
        return next((cell.at for cell in self._cells if cell.policy is None), None)

    def append(self, data: T, size: int, at: float) -> None:
        """Queue a frame that is never dropped. Whether there is room is for the caller to say: see `make_room`."""
        self._cells.append(Cell(data, size, at))
        self.bytes += size

    def append_or_drop(self, data: T, size: int, at: float, policy: Policy, *, elsewhere_bytes: int) -> None:
        """Queue a frame with a policy, in the place of the last one of its key, and drop what is too much.

        `elsewhere_bytes` wait for the same client outside of this queue.
        """
        cell = Cell(data, size, at, policy)
        if policy.newest is not None:
            keys = self._keys
            if keys is None:
                keys = self._keys = {}
            before = keys.get(policy.newest)
            if before is not None:
                self._drop(before, "replaced")
            keys[policy.newest] = cell
        droppables = self._droppables
        if droppables is None:
            droppables = self._droppables = deque()
        self._cells.append(cell)
        droppables.append(cell)
        self.bytes += size
        self.droppable_bytes += size
        # One frame may wait however large it is: the newest state of something would never arrive otherwise.
        while self.droppable_bytes > self._limits.droppable_bytes and droppables[0] is not cell:
            self._drop(droppables[0], "drop_oldest")
        self.make_room(0, elsewhere_bytes=elsewhere_bytes)

    def make_room(self, size: int, *, elsewhere_bytes: int) -> bool:
        """Drop frames with a policy, oldest first, until `size` more bytes may wait. False when they may not."""
        limit = self._limits.queued_bytes - elsewhere_bytes - size
        droppables = self._droppables
        while self.bytes > limit and droppables:
            self._drop(droppables[0], "drop_oldest")
        return self.bytes <= limit

    def expire(self, *, before: float) -> None:
        """Drop the frames with a policy that were queued before this time."""
        droppables = self._droppables
        while droppables and droppables[0].at < before:
            self._drop(droppables[0], "aged")

    def take(self) -> Cell[T]:
        """Remove the first frame: it leaves, and is no longer dropped."""
        cell = self._cells.popleft()
        self.bytes -= cell.size
        if cell.policy is not None:
            assert self._droppables is not None
            self._droppables.popleft()
            self.droppable_bytes -= cell.size
            self._forget_key(cell, cell.policy)
        if self._empty:
            self._strip()
        return cell

    def clear(self) -> None:
        """Remove everything, uncounted: the connection ends."""
        self._cells.clear()
        self._droppables = self._keys = None
        self._empty = self.bytes = self.droppable_bytes = 0

    def is_stuck(self, seen: object, now: float) -> bool:
        """Whether the client takes nothing at all: what is seen of it has not changed for `SendLimits.queued_age_s`."""
        if seen != self._seen:
            self._seen = seen
            self.progress_at = now
        return now - self.progress_at > self._limits.queued_age_s

    def _drop(self, cell: Cell[T], reason: str) -> None:
        assert cell.policy is not None
        cell.data = None
        self.bytes -= cell.size
        self.droppable_bytes -= cell.size
        self._empty += 1
        self._dropped[reason] += 1
        self._forget_key(cell, cell.policy)
        self._strip()

    def _forget_key(self, cell: Cell[T], policy: Policy) -> None:
        if self._keys is not None and policy.newest is not None and self._keys.get(policy.newest) is cell:
            del self._keys[policy.newest]

    def _strip(self) -> None:
        """Remove the dropped cells that are at the front, or all of them when they are the majority."""
        cells, droppables = self._cells, self._droppables
        while cells and cells[0].data is None:
            cells.popleft()
            self._empty -= 1
        while droppables and droppables[0].data is None:
            droppables.popleft()
        if 2 * self._empty > len(cells):
            self._compact(cells)
            if droppables is not None:
                self._compact(droppables)
            self._empty = 0

    @staticmethod
    def _compact(cells: deque[Cell[T]]) -> None:
        # In place: the callers hold the queue.
        live = [cell for cell in cells if cell.data is not None]
        cells.clear()
        cells.extend(live)

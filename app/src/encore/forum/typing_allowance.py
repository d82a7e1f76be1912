"""How often "ann is typing" goes out: once in a while for each person and thread, and at once when it ends."""

from __future__ import annotations

__all__ = ["TypingAllowance"]


class TypingAllowance:
    """Bounded by forgetting those who have not typed for a while; kept by each replica for its own sockets."""

    EVERY_S = 2.5
    SWEEP = 1_024
    """Fewer entries than that are kept as they are."""

    def __init__(self) -> None:
        self._typing: dict[tuple[str, int], tuple[float, bool]] = {}
        """When it went out last that somebody types, and whether that holds still."""
        self._sweep_at = self.SWEEP
        self.dropped = 0
        """Signals that were not sent on because they came too soon, or said nothing new."""

    def takes(self, user_id: str, thread_id: int, *, is_typing: bool, now: float) -> bool:
        """Whether this signal is to be sent on."""
        key = user_id, thread_id
        at, was_typing = self._typing.get(key, (-self.EVERY_S, False))
        if is_typing:
            sent = now - at >= self.EVERY_S
        else:
            sent = was_typing  # that nobody knows to be typing need not be said to have stopped
        if not sent:
            self.dropped += 1
            return False
        self._typing[key] = (now if is_typing else at, is_typing)
        if len(self._typing) >= self._sweep_at:
            oldest = now - 10 * self.EVERY_S
            self._typing = {key: entry for key, entry in self._typing.items() if entry[0] > oldest}
            self._sweep_at = max(self.SWEEP, 2 * len(self._typing))
        return True

    def __len__(self) -> int:
        return len(self._typing)

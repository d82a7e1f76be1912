"""Cuts a stream of RESP, version 2 or 3, into its values: for a proxy that has to know which reply is whose."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Splitter", "Value"]


@dataclass(frozen=True, slots=True)
class Value:
    """One whole command or reply, as it was sent."""

    raw: bytes

    @property
    def is_push(self) -> bool:
        """Whether it came unasked."""
        return self.raw.startswith(b">")

    @property
    def name(self) -> bytes:
        """The command's name, in capitals; empty for what is no command."""
        parts = self.raw.split(b"\r\n", 3)
        return parts[2].upper() if len(parts) > 3 and parts[0].startswith(b"*") else b""


class Splitter:
    """Takes bytes as they come and gives back the values that are complete."""

    def __init__(self) -> None:
        self._buffer = b""

    def feed(self, data: bytes) -> list[Value]:
        """Add `data`; returns all values that end in it."""
        self._buffer += data
        values, at = [], 0
        while (end := _end(self._buffer, at)) is not None:
            values.append(Value(self._buffer[at:end]))
            at = end
        self._buffer = self._buffer[at:]
        return values


def _end(data: bytes, at: int) -> int | None:
    """Where the value that begins at `at` ends; None while it is not complete."""
    line = data.find(b"\r\n", at)
    if line < 0:
        return None
    kind, rest, after = data[at : at + 1], data[at + 1 : line], line + 2
    if kind in b"$=!":
        size = int(rest)
        end = after if size < 0 else after + size + 2
        return end if end <= len(data) else None
    if kind in b"*~>%|":
        children = max(0, int(rest)) * (2 if kind in b"%|" else 1)
        # An attribute is followed by the value that it belongs to.
        for _ in range(children + (1 if kind == b"|" else 0)):
            end_of_child = _end(data, after)
            if end_of_child is None:
                return None
            after = end_of_child
        return after
    if kind in b"+-:_,#(":
        return after
    raise ValueError(f"not RESP: {data[at : at + 20]!r}")

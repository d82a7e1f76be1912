"""The one judge: compares what was published with what each client got."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.replicas.recorder import Key, Listener, Recording, Send

__all__ = ["Finding", "Verdict", "Window", "check", "crossings", "latencies_s", "quantile"]


class Window(NamedTuple):
    """A stretch of time in which an ephemeral message may be lost: from the fault to the recovery."""

    start: float
    end: float

    def covers(self, send: Send) -> bool:
        return send.begun <= self.end and send.ended >= self.start


class Finding(NamedTuple):
    """One thing that is wrong: at which client, with which message, when it was sent or came."""

    client: str
    key: Key
    at: float


@dataclass(slots=True)
class Verdict:
    """What the checker found. `forgiven` are messages that went missing inside a window."""

    sends: int = 0
    deliveries: int = 0
    missing: list[Finding] = field(default_factory=list)
    forgiven: list[Finding] = field(default_factory=list)
    duplicates: list[Finding] = field(default_factory=list)
    inversions: list[Finding] = field(default_factory=list)
    strays: list[Finding] = field(default_factory=list)
    """Messages that the client should never have got, or that nobody sent."""

    @property
    def clean(self) -> bool:
        return not (self.missing or self.duplicates or self.inversions or self.strays)

    def __str__(self) -> str:
        def some(findings: Sequence[Finding]) -> str:
            shown = ", ".join(
                f"{client} {key.publisher}/{key.topic}#{key.sequence} at {at:.3f}" for client, key, at in findings[:8]
            )
            return f"{len(findings)}" + (f" ({shown}{', ...' if len(findings) > 8 else ''})" if findings else "")

        return (
            f"{self.sends} sent, {self.deliveries} delivered, missing {some(self.missing)}, "
            f"forgiven {some(self.forgiven)}, duplicates {some(self.duplicates)}, "
            f"inversions {some(self.inversions)}, strays {some(self.strays)}"
        )


def check(
    recording: Recording,
    *,
    windows: Iterable[Window] = (),
    forgive: Callable[[Listener, Send], bool] | None = None,
) -> Verdict:
    """Judge every client. What is missing is forgiven inside a window, or where `forgive` says so."""
    windows = list(windows)

    def forgiven(listener: Listener, send: Send) -> bool:
        return any(window.covers(send) for window in windows) or (forgive is not None and forgive(listener, send))

    verdict = Verdict(sends=len(recording.sends), deliveries=recording.deliveries)
    for listener in recording.listeners:
        counts = Counter(receipt.key for receipt in listener.receipts)
        for send in recording.sends.values():
            if send.error is None and send.key not in counts and listener.expects(send):
                target = verdict.forgiven if forgiven(listener, send) else verdict.missing
                target.append(Finding(listener.name, send.key, send.begun))
        _judge_receipts(listener, recording.sends, verdict)
    return verdict


def _judge_receipts(listener: Listener, sends: dict[Key, Send], verdict: Verdict) -> None:
    seen: set[Key] = set()
    newest: dict[tuple[str, str | None], int] = {}
    for key, at in listener.receipts:
        send = sends.get(key)
        if send is None or not listener.hears(send):
            verdict.strays.append(Finding(listener.name, key, at))
        if key in seen:
            verdict.duplicates.append(Finding(listener.name, key, at))
            continue
        seen.add(key)
        stream = (key.publisher, key.topic)
        if key.sequence < newest.get(stream, -1):
            verdict.inversions.append(Finding(listener.name, key, at))
        else:
            newest[stream] = key.sequence


def latencies_s(
    recording: Recording, *, where: Callable[[Listener, Send], bool] = lambda listener, send: True
) -> list[float]:
    """Seconds from the call of `broadcast()` to the arrival, of every delivery for which `where` holds; sorted."""
    found = [
        receipt.at - send.begun
        for listener in recording.listeners
        for receipt in listener.receipts
        if (send := recording.sends.get(receipt.key)) is not None and where(listener, send)
    ]
    return sorted(found)


def quantile(values: Sequence[float], fraction: float) -> float:
    """The value that `fraction` of the sorted `values` do not exceed; NaN when there are none."""
    if not values:
        return math.nan
    return values[min(len(values) - 1, math.ceil(fraction * len(values)) - 1 if fraction > 0 else 0)]


def crossings(recording: Recording, replica: str, *, since: float) -> float | None:
    """When a client of `replica` first got a message that another replica published after `since`."""
    arrivals = [
        receipt.at
        for listener in recording.listeners
        if listener.replica == replica
        for receipt in listener.receipts
        if receipt.key.publisher != replica
        and (send := recording.sends.get(receipt.key)) is not None
        and send.begun >= since
    ]
    return min(arrivals, default=None)

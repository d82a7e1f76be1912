"""The table of what was measured, printed at the end of the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tests.replicas.checker import quantile

__all__ = ["Figure", "Report"]

AT_ONCE_S = 1.5
SLACK_S = 4.0
WAIT_S = 2.0
"""What is no latency but a wait, on whatever machine."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured value beside what a quiet machine should show and what fails the test."""

    fault: str
    measure: str
    value: str
    target: str
    gate: str


class Report:
    """Collects figures; nothing here fails a test but `within`."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []

    def add(self, fault: str, measure: str, value: object, *, target: str = "", gate: str = "") -> None:
        """Write down one figure."""
        self.figures.append(Figure(fault, measure, str(value), target, gate))

    def within(self, fault: str, measure: str, value_s: float, *, target_s: float) -> None:
        """Write down a time, and fail when it is out of all proportion: three times the target, at least 4 s more.

        The machine that runs this may be busy with other things; the target is what a quiet one shows.
        """
        gate_s = max(3 * target_s, target_s + SLACK_S)
        self.add(fault, measure, f"{value_s:.3f} s", target=f"{target_s:g} s", gate=f"{gate_s:g} s")
        assert value_s <= gate_s, f"{fault}: {measure} took {value_s:.3f} s, more than {gate_s:g} s"

    def at_once(self, fault: str, measure: str, latencies_s: Sequence[float]) -> None:
        """Write down sorted latencies, and fail when those of most deliveries are no latencies but waits."""
        p50_s, p99_s = quantile(latencies_s, 0.5), quantile(latencies_s, 0.99)
        self.add(fault, f"{measure}, p50", f"{p50_s * 1000:.2f} ms", gate=f"{AT_ONCE_S:g} s")
        self.add(fault, f"{measure}, p99", f"{p99_s * 1000:.2f} ms")
        assert p50_s <= AT_ONCE_S, f"{fault}: {measure} is {p50_s:.3f} s for half of the deliveries"

    def beside(
        self,
        fault: str,
        measure: str,
        latencies_s: Sequence[float],
        *,
        calm_s: Sequence[float],
        factor: float,
        slack_s: float = WAIT_S,
    ) -> None:
        """Write down how late the latest hundredth of deliveries is beside a fault, and without it; fail when somebody
        waited for what the fault hit. All latencies are sorted.

        The catalogue allows `factor` times the calm value. As a gate it is three times as much, and at least `slack_s`
        more: those who wait for a client that is stuck do so for seconds, those on a busy machine do it in calm too.
        """
        value_s, before_s = quantile(latencies_s, 0.99), quantile(calm_s, 0.99)
        gate_s = max(3 * factor * before_s, before_s + slack_s)
        self.add(
            fault,
            f"{measure}, p99",
            f"{value_s * 1000:.1f} ms",
            target=f"{factor:g} x {before_s * 1000:.1f} ms",
            gate=f"{gate_s * 1000:.0f} ms",
        )
        assert value_s <= gate_s, f"{fault}: {measure} took {value_s:.3f} s (p99), in calm {before_s:.3f} s"

    def lines(self) -> Iterable[str]:
        """The table, line by line; none when nothing was measured."""
        if not self.figures:
            return
        rows = [("fault", "measure", "value", "target", "gate")]
        rows += [(f.fault, f.measure, f.value, f.target, f.gate) for f in self.figures]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        for number, row in enumerate(rows):
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            if number == 0:
                yield "  ".join("-" * width for width in widths)

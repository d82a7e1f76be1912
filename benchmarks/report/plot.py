"""The plot: bars on a logarithmic scale, written as SVG by hand, readable on light and on dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

from benchmarks.fleet.results import Run
from benchmarks.fleet.systems import SYSTEMS, Family

__all__ = ["draw"]

_LEFT, _WIDTH, _BAR, _GAP, _TOP = 290, 560, 13, 12, 78
_RIGHT = 70
_STYLE = """
    text { font: 13px system-ui, sans-serif; fill: #24292f }
    .title { font-size: 16px; font-weight: 600 }
    .small { font-size: 11px; fill: #57606a }
    .own { font-weight: 600 }
    line { stroke: #8c959f; stroke-opacity: .35 }
    .limit { fill: #8c959f } .antiphon { fill: #1f7a4d } .python { fill: #3b73b9 } .other { fill: #b5762a }
    .single { opacity: .45 }
    @media (prefers-color-scheme: dark) {
      text { fill: #e6edf3 } .small { fill: #9da7b1 }
      .antiphon { fill: #3fb27f } .python { fill: #6ea3e0 } .other { fill: #d9a05b }
    }
"""
_FAMILIES = {
    Family.ANTIPHON: "Antiphon",
    Family.PYTHON: "Python",
    Family.OTHER: "other servers",
    Family.LIMIT: "C, the limit",
}


@dataclass(frozen=True, slots=True)
class _Row:
    label: str
    family: Family
    saturated: float | None
    single: float | None


def _rows(run: Run, size: int) -> list[_Row]:
    rows = []
    for system in SYSTEMS:
        saturated, single = (
            run.median((system.name, "fanout", phase, size), "cpu_us") for phase in ("saturated", "single")
        )
        if saturated is not None or single is not None:
            rows.append(_Row(system.label, system.family, saturated, single))
    return sorted(rows, key=lambda row: row.saturated or row.single or 0.0)


def draw(run: Run, size: int) -> str:
    """CPU per delivery of each system: many messages in flight (full colour) and one at a time (pale)."""
    rows = _rows(run, size)
    values = [value for row in rows for value in (row.saturated, row.single) if value]
    low = 10 ** math.floor(math.log10(min(values)))
    high = 10 ** math.ceil(math.log10(max(values)))

    def x(value: float) -> float:
        return _LEFT + _WIDTH * math.log10(value / low) / math.log10(high / low)

    height = _TOP + len(rows) * (2 * _BAR + _GAP) + 44
    width = _LEFT + _WIDTH + _RIGHT
    title = f"CPU per delivery, {size:,} connections, one core"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-label="{title}">',
        f"<style>{_STYLE}</style>",
        f'<text class="title" x="16" y="26">{title}</text>',
        '<text class="small" x="16" y="45">µs, logarithmic, shorter is better. Full colour: 32 messages in flight. '
        "Pale: one message at a time.</text>",
        *_legend(),
        *_grid(low, high, height, x),
    ]
    for index, row in enumerate(rows):
        y = _TOP + index * (2 * _BAR + _GAP)
        own = ' class="own"' if row.family is Family.ANTIPHON else ""
        parts.append(f'<text{own} x="{_LEFT - 10}" y="{y + _BAR + 5}" text-anchor="end">{escape(row.label)}</text>')
        for offset, value, extra in ((0, row.saturated, ""), (_BAR, row.single, " single")):
            if value is None:
                continue
            end = x(value)
            parts.append(
                f'<rect class="{row.family.value}{extra}" x="{_LEFT}" y="{y + offset}" '
                f'width="{end - _LEFT:.1f}" height="{_BAR - 1}"/>'
            )
            parts.append(f'<text class="small" x="{end + 5:.1f}" y="{y + offset + 10}">{value:.3g}</text>')
    parts.append("</svg>\n")
    return "\n".join(parts)


def _legend() -> list[str]:
    parts, at = [], _LEFT
    for family, text in _FAMILIES.items():
        parts.append(f'<rect class="{family.value}" x="{at}" y="55" width="11" height="11"/>')
        parts.append(f'<text class="small" x="{at + 16}" y="65">{text}</text>')
        at += 130
    return parts


def _grid(low: float, high: float, height: int, x: object) -> list[str]:
    assert callable(x)
    parts = []
    for power in range(round(math.log10(low)), round(math.log10(high)) + 1):
        at = x(10.0**power)
        parts.append(f'<line x1="{at:.1f}" y1="{_TOP - 6}" x2="{at:.1f}" y2="{height - 30}"/>')
        parts.append(
            f'<text class="small" x="{at:.1f}" y="{height - 14}" text-anchor="middle">{10.0**power:g} µs</text>'
        )
    return parts

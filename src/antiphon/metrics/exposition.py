"""What was read, as Prometheus takes it: as text, and as a collector for a registry."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from antiphon.errors import MissingExtra
from antiphon.histogram import Histogram
from antiphon.manager import managers_here
from antiphon.metrics.families import FAMILIES, Family
from antiphon.metrics.scrape import Counted, Scrape, cumulative, scrape

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

__all__ = ["CONTENT_TYPE", "Collector", "render"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What `render` returns."""


class Collector:
    """All managers of this process, for a registry of `prometheus_client`: `REGISTRY.register(Collector())`.

    Reads when it is asked to; may be asked from another thread. Raises MissingExtra when the package is not installed.
    """

    def __init__(self, *, managers: Callable[[], Iterable[Counted]] = managers_here) -> None:
        if importlib.util.find_spec("prometheus_client") is None:
            raise MissingExtra("a collector needs prometheus-client: pip install 'antiphon[metrics]'")
        self._managers = managers

    def describe(self) -> Iterator[Metric]:
        """The metrics without values, so that a registry finds names that are taken already."""
        return self._metrics(Scrape())

    def collect(self) -> Iterator[Metric]:
        """The metrics as they are now."""
        return self._metrics(scrape(self._managers()))

    def _metrics(self, found: Scrape) -> Iterator[Metric]:
        from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        for name, family in FAMILIES.items():
            if family.kind == "histogram":
                histogram = HistogramMetricFamily(name, family.help, labels=family.labels)
                for labels, histograms in found.histograms[name].items():
                    buckets, total = cumulative(histograms)
                    histogram.add_metric(labels, buckets, total)
                yield histogram
                continue
            kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
            metric = kind(name, family.help, labels=family.labels)
            for labels, value in found.values[name].items():
                metric.add_metric(labels, value)
            yield metric


def render(*, managers: Callable[[], Iterable[Counted]] = managers_here) -> bytes:
    """All metrics of this process as text, of the kind `CONTENT_TYPE`. Takes about 2 ms for fifty managers."""
    found = scrape(managers())
    lines: list[str] = []
    for name, family in FAMILIES.items():
        lines += (f"# HELP {name} {family.help}", f"# TYPE {name} {family.kind}")
        if family.kind == "histogram":
            for labels, histograms in found.histograms[name].items():
                lines += _histogram_lines(name, _shown(family, labels), histograms)
        else:
            lines += [f"{name}{_shown(family, labels)} {value}" for labels, value in found.values[name].items()]
    lines.append("")
    return "\n".join(lines).encode()


def _histogram_lines(name: str, labels: str, histograms: Sequence[Histogram]) -> Iterator[str]:
    buckets, total = cumulative(histograms)
    opening = f"{labels[:-1]}," if labels else "{"
    for bound, below in buckets:
        yield f'{name}_bucket{opening}le="{bound}"}} {below}'
    yield f"{name}_count{labels} {buckets[-1][1]}"
    yield f"{name}_sum{labels} {total}"


def _shown(family: Family, labels: tuple[str, ...]) -> str:
    if not labels:
        return ""
    return (
        "{" + ",".join([f'{name}="{_escaped(label)}"' for name, label in zip(family.labels, labels, strict=True)]) + "}"
    )


def _escaped(label: str) -> str:
    if label.isalnum():
        return label
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")

"""Everything that is counted, for Prometheus: `GET /metrics`, or a collector for a registry of your own.

The objects count in plain ints as they work; all that is here happens when somebody asks. The text needs no package;
a registry does: `antiphon[metrics]`.
"""

from antiphon.metrics.endpoint import TOKEN_VARIABLE, metrics_endpoint
from antiphon.metrics.exposition import CONTENT_TYPE, Collector, render
from antiphon.metrics.families import FAMILIES, Family

__all__ = ["CONTENT_TYPE", "FAMILIES", "TOKEN_VARIABLE", "Collector", "Family", "metrics_endpoint", "render"]

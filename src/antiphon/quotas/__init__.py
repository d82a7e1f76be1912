"""Connections per user and per address, counted over all replicas while the store is there, and here otherwise."""

from antiphon.quotas.counts import QuotaCounters
from antiphon.quotas.gate import Quotas
from antiphon.quotas.timings import QuotaTimings

__all__ = ["QuotaCounters", "QuotaTimings", "Quotas"]

"""How a replica keeps its places."""

from __future__ import annotations

from dataclasses import dataclass, fields

from antiphon.errors import ConfigurationError

__all__ = ["QuotaTimings"]


@dataclass(frozen=True, slots=True)
class QuotaTimings:
    """How a replica keeps its places, in seconds. Raises ConfigurationError for values that cannot work."""

    beat_every_s: float = 1.0
    """How often it says that it lives; also how soon it tries again while the store is away."""
    dead_after_s: float = 3.0
    """How long its places count after its last word: what a killed replica held is free after this time. One that only
    stood still for so long enters its places again.
    """
    second_try_s: float = 3.5
    """How long a connection that the store would refuse waits before it is asked once more, 256 at a time; 0: it is
    refused at once. Longer than `dead_after_s`, or else the users of a replica that was just killed are refused when
    they come back, since its places still count.
    """
    renew_every_s: float = 60.0
    """How often it enters all its places again, in case that the store lost some."""
    lease_s: float = 300.0
    """How long the store keeps places that nobody renews; a bound on what is left there, not on what counts."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            least_is_met = isinstance(value, (int, float)) and (
                value > 0 or (value == 0 and entry.name == "second_try_s")
            )
            if isinstance(value, bool) or not least_is_met:
                raise ConfigurationError(f"QuotaTimings.{entry.name} must be above 0, not {value!r}")
        if self.dead_after_s < 2 * self.beat_every_s or self.lease_s < 2 * self.renew_every_s:
            raise ConfigurationError(
                "QuotaTimings: dead_after_s must be at least twice beat_every_s, and lease_s twice renew_every_s"
            )

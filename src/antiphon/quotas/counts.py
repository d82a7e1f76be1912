"""Limits, the keys they are counted under, and how many connections of this replica count at each."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

from antiphon.auth import TooManyConnections
from antiphon.errors import ConfigurationError

__all__ = ["Counts", "QuotaCounters"]

_USER: Final = "u"
_ADDRESS: Final = "a"


@dataclass(slots=True)
class QuotaCounters:
    """What one `Quotas` counts on this replica. All grow only."""

    refused: Counter[str] = field(default_factory=Counter)
    """Connections refused, by whose limit it was: `user`, `address`."""
    unshared: int = 0
    """Connections that were let in by this replica's counts alone, because the store was away."""
    outages: int = 0
    """Times that the store was lost."""


class Counts:
    """The connections of this replica, by user and by address. Raises ConfigurationError for limits below 1."""

    def __init__(self, *, per_user: int | None, per_address: int | None, scope: str) -> None:
        for name, limit in (("per_user", per_user), ("per_address", per_address)):
            if limit is not None and (type(limit) is not int or limit < 1):
                raise ConfigurationError(f"Quotas({name}={limit!r}): give an int of at least 1, or None for no limit")
        self._per_user = per_user
        self._per_address = per_address
        self._scope = scope
        self._counts: dict[str, int] = {}

    def limits_of(self, user_id: str | None, address: str | None) -> dict[str, int]:
        """The limits that apply to a connection, by the key that it counts under."""
        limits = {}
        if self._per_user is not None and user_id is not None:
            limits[self._key(_USER, user_id)] = self._per_user
        if self._per_address is not None and address is not None:
            limits[self._key(_ADDRESS, _counted(address))] = self._per_address
        return limits

    def key_of(self, *, user_id: str | None, address: str | None) -> str:
        """The key of a user, or else of an address."""
        return self._key(_USER, user_id) if user_id is not None else self._key(_ADDRESS, _counted(address or ""))

    def here(self, key: str) -> int:
        """Connections of this replica under this key, those that are just entering included."""
        return self._counts.get(key, 0)

    def full(self, limits: Mapping[str, int]) -> str | None:
        """The first key that is full on this replica alone."""
        return next((key for key, limit in limits.items() if self._counts.get(key, 0) >= limit), None)

    def add(self, keys: Iterable[str]) -> None:
        """One connection more."""
        for key in keys:
            self._counts[key] = self._counts.get(key, 0) + 1

    def subtract(self, keys: Iterable[str]) -> None:
        """One connection less."""
        for key in keys:
            left = self._counts[key] - 1
            if left:
                self._counts[key] = left
            else:
                del self._counts[key]

    def __len__(self) -> int:
        """Keys under which something counts."""
        return len(self._counts)

    def refusal(self, key: str, counters: QuotaCounters) -> TooManyConnections:
        """What to raise for a key that is full."""
        is_user = key.startswith(_USER)
        whose, limit = ("user", self._per_user) if is_user else ("address", self._per_address)
        counters.refused[whose] += 1
        return TooManyConnections(f"the limit is {limit} connections of one {whose}", before_upgrade=not is_user)

    def _key(self, kind: str, name: str) -> str:
        """A key without odd characters, which does not show at the server who it is."""
        content = f"{self._scope}\0{name}".encode(errors="surrogatepass")
        digest = hashlib.blake2b(content, digest_size=15, person=b"antiphon-quota").digest()
        return f"{kind}-{base64.urlsafe_b64encode(digest).decode()}"


def _counted(address: str) -> str:
    """What is counted together: an IPv4 address, a /64 network of IPv6, or what is no address as it stands."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(IPv6Network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)

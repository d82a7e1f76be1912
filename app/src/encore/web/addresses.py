"""The address of a client, behind proxies or not."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from starlette.requests import HTTPConnection

from antiphon import Security
from encore.settings import read_settings

__all__ = ["client_address"]


def client_address(connection: HTTPConnection) -> str:
    """Whose address it is, for limits and for the list of sessions: of IPv6 the /64 network; empty when unknown.

    `X-Forwarded-For` counts only when a proxy named in ENCORE_TRUSTED_PROXIES wrote it. Where a proxy is not named,
    everybody behind it has its address.
    """
    behind_proxies = _reader(read_settings().trusted_proxies).address_of(connection)
    if behind_proxies is not None:
        return behind_proxies
    client = connection.scope.get("client")
    return "" if not client else _block(client[0])


@lru_cache(maxsize=4)
def _reader(trusted_proxies: tuple[str, ...]) -> Security:
    # It gives no addresses where it has no limit for them.
    return Security(trusted_proxies=list(trusted_proxies), connections_per_address=1)


def _block(text: str) -> str:
    """One client has a whole /64 of IPv6."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return text
    if isinstance(address, ipaddress.IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ipaddress.ip_network((address, 64), strict=False))
    return str(address)

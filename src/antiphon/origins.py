"""Where a handshake comes from: the rule for the `Origin` header, and the client's address behind proxies.

Texts in, decisions out; nothing here knows a server.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

from antiphon.errors import ConfigurationError

__all__ = ["OriginRule", "TrustedProxies", "Verdict", "Why", "address_block"]

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

_UNIX = "unix"
_TEXT_CHARACTERS = 512
_HOPS = 64
_DEFAULT_PORTS = {"http": 80, "https": 443, "ws": 80, "wss": 443}
_AUTHORITY = r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)"
_origin = re.compile(rf"([a-z][a-z0-9+.-]*)://{_AUTHORITY}(?::([0-9]{{1,5}}))?")
_host = re.compile(rf"{_AUTHORITY}(?::([0-9]{{0,5}}))?")

Why: TypeAlias = Literal[
    "any", "listed", "same_host", "loopback", "no_origin",
    "cookie_without_origin", "several", "null", "malformed", "no_host", "other_host", "other_scheme",
]  # fmt: skip
"""Why a handshake was accepted (the first five) or refused."""


class Verdict(NamedTuple):
    """What the rule says of one handshake."""

    allowed: bool
    why: Why
    origin: str = ""
    """The origin as it came, fit for a log: printable ASCII, cut when it is too long."""
    hint: str = ""
    """What to write so that it is accepted next time; empty where nothing sensible could be written."""


class _Site(NamedTuple):
    """One parsed origin. A default port is None."""

    scheme: str
    host: str
    port: int | None

    @property
    def port_number(self) -> int | None:
        return self.port or _DEFAULT_PORTS.get(self.scheme)


class TrustedProxies:
    """The proxies whose `X-Forwarded-…` headers are believed: addresses, networks, and `"unix"` for a UNIX socket.

    `Forwarded` is not read. Raises ConfigurationError for anything else, and for "everybody".
    """

    __slots__ = ("_has_unix", "_networks")

    def __init__(self, names: Iterable[str] = ()) -> None:
        if isinstance(names, str):
            raise ConfigurationError(f"trusted_proxies={names!r} is one text: give a list, as in [{names!r}]")
        self._has_unix = False
        self._networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
        for name in names:
            if name == _UNIX:
                self._has_unix = True
            else:
                self._networks.append(_network(name))

    def __bool__(self) -> bool:
        return self._has_unix or bool(self._networks)

    def __contains__(self, peer: str | None) -> bool:
        if not peer:
            return self._has_unix
        address = _address(peer)
        return address is not None and self._trusts(address)

    def _trusts(self, address: _Address) -> bool:
        return any(address in network for network in self._networks)

    def client_address(self, peer: str | None, forwarded_for: Sequence[str] = ()) -> str | None:
        """The address of the client: the right-most one that is no trusted proxy.

        `forwarded_for` holds the `X-Forwarded-For` headers in their order. None where nobody is trusted (then the peer
        may be a proxy, behind which everybody has one address), and where the address cannot be known.
        """
        if not self:
            return None
        if peer not in self:
            address = _address(peer or "")
            return None if address is None else str(address)
        client: _Address | None = None
        for entry in reversed(_entries(forwarded_for)):
            # A trusted proxy wrote this one: what it did not know the address of cannot be counted by address.
            client = _address(entry)
            if client is None or not self._trusts(client):
                break
        return None if client is None else str(client)

    def hops(self, peer: str | None, forwarded_for: Sequence[str] = (), *, peer_is_client: bool = False) -> int:
        """How many trusted proxies the handshake came through, counted from this end; 0 if the nearest is none.

        `peer_is_client` says that the server believes the nearest proxy, and has put the client's address in its place.
        """
        if peer not in self and not (self and peer_is_client):
            return 0
        hops = 1
        for entry in reversed(_entries(forwarded_for)):
            address = _address(entry)
            if address is None or not self._trusts(address):
                break
            hops += 1
        return hops


@dataclass(frozen=True)
class OriginRule:
    """Which pages may open a socket here. Raises ConfigurationError for an entry that no browser would ever send."""

    allowed: Sequence[str] = ()
    """Other websites that may, as `https://app.example`; `"*"` lets every website use the cookies of its visitors."""
    trusted_proxies: TrustedProxies = field(default_factory=TrustedProxies)
    _any: bool = field(init=False, repr=False, compare=False, default=False)
    _listed: frozenset[_Site] = field(init=False, repr=False, compare=False, default=frozenset())

    def __post_init__(self) -> None:
        allowed = (self.allowed,) if isinstance(self.allowed, str) else tuple(self.allowed)
        object.__setattr__(self, "allowed", allowed)
        object.__setattr__(self, "_any", "*" in allowed)
        if self._any and len(allowed) > 1:
            raise ConfigurationError('allowed_origins: "*" allows every website; remove it, or everything else')
        object.__setattr__(self, "_listed", frozenset(map(_listed_site, () if self._any else allowed)))

    def decide(
        self,
        origins: Sequence[str],
        host: str,
        *,
        has_cookie: bool = False,
        peer: str | None = None,
        forwarded_host: Sequence[str] = (),
        forwarded_for: Sequence[str] = (),
        peer_is_client: bool = False,
    ) -> Verdict:
        """Decide about one handshake. Never raises.

        `origins`, `forwarded_host` and `forwarded_for` are the headers of that name, in their order; `host` is empty
        where there was none, or more than one; `peer_is_client` is that of `TrustedProxies.hops`.
        """
        if self._any:
            return Verdict(True, "any")
        if not origins:
            if has_cookie:
                return Verdict(False, "cookie_without_origin")
            return Verdict(True, "no_origin")
        shown = _shown(", ".join(origins))
        if len(origins) > 1:
            return Verdict(False, "several", shown)
        if origins[0].lower() == "null":
            return Verdict(False, "null", shown)
        site = _parse_origin(origins[0])
        if site is None:
            return Verdict(False, "malformed", shown)
        if site in self._listed:
            return Verdict(True, "listed", shown)
        hops = self.trusted_proxies.hops(peer, forwarded_for, peer_is_client=peer_is_client)
        names = _entries(forwarded_host)
        if hops and names:
            # Each proxy appends the name by which it was asked; what stands further left came with the client.
            host = names[-min(hops, len(names))]
        # A Host header of this machine says nothing where a proxy may have written it.
        is_direct = not hops and not forwarded_host and not forwarded_for
        why = self._compare(site, host, loopback_counts=is_direct and not self._listed)
        if why in ("same_host", "loopback"):
            return Verdict(True, why, shown)
        hint = "allowed_origins=[" + ", ".join(f'"{entry}"' for entry in (*self.allowed, _written(site))) + "]"
        if not hops and any(self._compare(site, name) == "same_host" for name in names[-1:]):
            named = f'"{peer or _UNIX}"' if not peer_is_client else "the address of your proxy"
            hint = f"trusted_proxies=[{named}]"
        return Verdict(False, why, shown, hint)

    def _compare(self, site: _Site, host: str, *, loopback_counts: bool = False) -> Why:
        """The origin with what the client asked for."""
        match = _host.fullmatch(host.lower()) if host.isascii() and len(host) <= _TEXT_CHARACTERS else None
        name = _canonical_host(match[1]) if match else None
        if match is None or name is None:
            return "no_host"
        if site.scheme not in _DEFAULT_PORTS:
            return "other_host"
        if loopback_counts and _is_loopback(name) and _is_loopback(site.host):
            return "loopback"
        port = int(match[2]) if match[2] else None
        # The scheme is not known here, since TLS usually ends at a proxy: either default port counts as none.
        is_same_port = site.port == (None if port in _DEFAULT_PORTS.values() else port) or site.port_number == port
        if name != site.host or not is_same_port:
            return "other_host"
        # Whoever has listed this very host has said which scheme it has.
        if any(entry.host == site.host and entry.port == site.port for entry in self._listed):
            return "other_scheme"
        return "same_host"


def address_block(address: str) -> str:
    """What counts as one address for limits: an IPv4 address, and the /64 network of an IPv6 address."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return address if parsed is None else str(parsed)


def _parse_origin(text: str) -> _Site | None:
    """The parts of what a browser sends; None for anything else."""
    if len(text) > _TEXT_CHARACTERS or not text.isascii():
        return None
    match = _origin.fullmatch(text.lower())
    if match is None:
        return None
    scheme, port = match[1], int(match[3]) if match[3] else None
    host = _canonical_host(match[2])
    if host is None or (port is not None and not 0 < port < 65536):
        return None
    return _Site(scheme, host, None if port == _DEFAULT_PORTS.get(scheme) else port)


def _canonical_host(host: str) -> str | None:
    """A host's name in the one spelling that is compared; None for an IPv6 address that is none."""
    if not host.startswith("["):
        return host
    try:
        return f"[{ipaddress.IPv6Address(host[1:-1])}]"
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _address(text: str) -> _Address | None:
    """An address as it stands in a header, with or without brackets and port; None for anything else."""
    text = text.strip(' \t"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _network(name: object) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    try:
        network = ipaddress.ip_network(name if isinstance(name, str) else "", strict=False)
    except ValueError as error:
        raise ConfigurationError(
            f'trusted_proxies: {name!r} is no address and no network: write "10.0.0.5", "10.0.0.0/8", or "unix"'
        ) from error
    if network.prefixlen == 0:
        raise ConfigurationError(f"trusted_proxies: {name!r} is everybody: name the proxies that you run")
    return network


def _listed_site(text: object) -> _Site:
    site = _parse_origin(text) if isinstance(text, str) else None
    if site is None:
        raise ConfigurationError(
            f"allowed_origins: {text!r} is not what a browser sends: write scheme, host and, unless it is the default, "
            'port, as in "https://app.example" or "http://10.0.0.5:3000", without a path or a slash at the end, and a '
            'name with other letters in its "xn--" form'
        )
    return site


def _written(site: _Site) -> str:
    return f"{site.scheme}://{site.host}" + (f":{site.port}" if site.port else "")


def _entries(headers: Sequence[str]) -> list[str]:
    """The entries of a list that may be spread over several headers: at most the last so many."""
    entries = ",".join(headers).rsplit(",", _HOPS)[-_HOPS:] if headers else []
    return [stripped for entry in entries if (stripped := entry.strip(" \t"))]


def _shown(text: str) -> str:
    """A client's text for a log line: nothing in it can end the line or colour the terminal."""
    cut = text[:100] + ("..." if len(text) > 100 else "")
    return "".join(c if " " <= c <= "~" else ascii(c)[1:-1] for c in cut)

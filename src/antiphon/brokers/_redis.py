"""The address of a Redis or Valkey server, checked before use. No text that leaves here holds a password."""

from __future__ import annotations

import difflib
import re
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, TypeVar
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from redis.asyncio.connection import RedisSSLContext, parse_url

from antiphon.errors import InvalidBrokerURL, TLSRequired
from antiphon.settings import tls_is_required

__all__ = ["RedisAddress", "parse_address"]

_T = TypeVar("_T")

Kind = Literal["tcp", "tls", "unix"]

_SCHEMES: Final = {"redis": "redis", "rediss": "rediss", "unix": "unix", "valkey": "redis", "valkeys": "rediss"}

_USED: Final = frozenset({
    "client_name", "db", "password", "username",
    "ssl_ca_certs", "ssl_ca_data", "ssl_ca_path", "ssl_cert_reqs", "ssl_certfile", "ssl_check_hostname", "ssl_ciphers",
    "ssl_exclude_verify_flags", "ssl_include_verify_flags", "ssl_keyfile", "ssl_min_version", "ssl_password",
})  # fmt: skip
"""Query options that matter here."""

_IGNORED: Final = frozenset({
    "decode_responses", "encoding", "encoding_errors", "health_check_interval", "legacy_responses", "max_connections",
    "protocol", "retry_on_timeout", "socket_connect_timeout", "socket_keepalive", "socket_read_size", "socket_timeout",
    "timeout",
})  # fmt: skip
"""Query options of other clients that may share the URL: deadlines and retries belong to the relay."""

_TLS_MODES: Final = {"cert_none": "none", "cert_optional": "optional", "cert_required": "required"}
"""Spellings of `ssl_cert_reqs` that other clients use."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where a server is and how to sign in. Its `repr` and `str` hold no password."""

    text: str
    """`host:port/db` or `unix:/path/db`."""
    kind: Kind
    options: Mapping[str, Any] = field(repr=False)
    """Arguments for redis-py's connection classes, blocking and asynchronous."""
    credentials: tuple[bytes, ...] = field(repr=False)
    """Arguments of AUTH; empty when there is no need to sign in."""
    database: int
    secrets: tuple[str, ...] = field(repr=False)
    tls: RedisSSLContext | None = field(repr=False, default=None)
    """Made once: reading the authorities' certificates takes milliseconds."""
    client_name: str = "antiphon"

    def __str__(self) -> str:
        return self.text

    def scrub(self, text: str) -> str:
        """`text` without the passwords: a server may repeat what it was sent."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def holds_secret(self, error: BaseException | None) -> bool:
        """Whether the text of this exception, or of one that it refers to, holds a password."""
        seen: set[int] = set()
        waiting = [error]
        while waiting:
            one = waiting.pop()
            if one is None or id(one) in seen:
                continue
            seen.add(id(one))
            text = f"{one!s} {one!r} {one.args!r}"
            if any(secret in text for secret in self.secrets):
                return True
            waiting += [one.__cause__, one.__context__]
        return False


_ENCODE: Final = (
    "in user and password, percent-encode everything but letters, digits and -._~ (@ is %40, : is %3A, / is %2F, "
    "# is %23, ? is %3F, [ is %5B; urllib.parse.quote(password, safe='') does it)"
)


def parse_address(url: str, *, require_tls: bool | None = None) -> RedisAddress:
    """Check a broker URL: `redis://`, `rediss://`, `unix://`, `valkey://` or `valkeys://`.

    With `require_tls`, by default as the environment says, one that would send in the clear, or to whoever answers,
    raises TLSRequired. Raises InvalidBrokerURL, whose text names the fix and repeats nothing that could be a password.
    """
    address = _parse(url)
    if tls_is_required() if require_tls is None else require_tls:
        _check_protected(address)
    return address


def _check_protected(address: RedisAddress) -> None:
    if address.kind == "tcp":
        raise TLSRequired(
            f"the broker URL for {address} has no TLS, which is required here: begin it with rediss:// "
            "(or valkeys://), use a unix:// socket, or set ANTIPHON_REQUIRE_TLS=false where the network is your own"
        )
    options = address.options
    if address.kind == "tls" and (options["ssl_cert_reqs"] != "required" or not options["ssl_check_hostname"]):
        raise TLSRequired(
            f"the broker URL for {address} does not verify whom it leads to, and TLS is required here: remove "
            "ssl_cert_reqs and ssl_check_hostname from it, and name the authority with ?ssl_ca_certs=/path/to/ca.pem"
        )


def _parse(url: str) -> RedisAddress:
    if not isinstance(url, str):
        raise InvalidBrokerURL(f"the broker URL is {type(url).__name__}, not str: pass 'redis://localhost:6379/0'")
    parts = _split(url.strip())
    scheme = _SCHEMES[parts.scheme]
    kind: Kind = "unix" if scheme == "unix" else "tls" if scheme == "rediss" else "tcp"
    query = _check_query(parts, kind=kind)
    plain = parts._replace(scheme=scheme).geturl()
    parsed: dict[str, Any] = _quietly(
        lambda: {**parse_url(plain)}, "an option in its query has a value of the wrong type"
    )
    options = {name: value for name, value in parsed.items() if name in _USED | {"host", "path", "port"}}
    client_name = str(options.pop("client_name", "antiphon"))
    secrets = _secrets(parts, options)
    database = _database(parts, query)
    if kind == "unix":
        place = f"unix:{options['path']}"
    else:
        host, port = options["host"], options.setdefault("port", 6379)
        place = f"{f'[{host}]' if ':' in host else host}:{port}"
    options.pop("db", None)
    return RedisAddress(
        text=f"{place}/{database}",
        kind=kind,
        secrets=secrets,
        credentials=_credentials(options.pop("username", None), options.pop("password", None)),
        database=database,
        client_name=client_name,
        tls=_check_tls(options) if kind == "tls" else None,
        options=options,
    )


def _credentials(username: str | None, password: str | None) -> tuple[bytes, ...]:
    if username:
        return username.encode(), (password or "").encode()
    return (password.encode(),) if password else ()


def _split(url: str) -> SplitResult:
    """The parts of the URL, once scheme, host and port are known to be usable."""
    if url[:1] in ("'", '"'):
        raise InvalidBrokerURL("the broker URL begins with a quotation mark: remove the quotes around it")
    scheme, mark, _ = url.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,30}", scheme):
        raise InvalidBrokerURL(
            "the broker URL has no scheme: write redis://host:port/db, as in redis://localhost:6379/0"
        )
    if scheme.lower() not in _SCHEMES:
        if "sentinel" in scheme.lower() or "cluster" in scheme.lower():
            raise InvalidBrokerURL(
                f"{scheme.lower()}:// is not supported by this release: give the address of one server, or of a proxy "
                "or DNS name that leads to the primary, as redis://host:port/db"
            )
        near = difflib.get_close_matches(scheme.lower(), _SCHEMES, n=1)
        meant = f"did you mean {near[0]}://?" if near else f"use one of {', '.join(f'{one}://' for one in _SCHEMES)}"
        raise InvalidBrokerURL(f"the broker URL has the scheme {scheme}://, which is not known: {meant}")
    if re.search(r"[\s\x00-\x1f\x7f]", url):
        raise InvalidBrokerURL(f"the broker URL holds white space or a control character: {_ENCODE}")
    parts = _quietly(lambda: urlsplit(url), _ENCODE)
    if "@" in f"{parts.path}{parts.query}" or parts.fragment:
        raise InvalidBrokerURL(f"the broker URL cannot be understood: {_ENCODE}")
    if parts.scheme == "unix":
        if not parts.path.strip("/") or parts.hostname:
            raise InvalidBrokerURL("the broker URL has no path: write unix:///run/redis/redis.sock, with three slashes")
    else:
        _check_host(parts)
    return parts


def _check_host(parts: SplitResult) -> None:
    if not _quietly(lambda: parts.hostname, _ENCODE):
        raise InvalidBrokerURL(f"the broker URL has no host: write {parts.scheme}://localhost:6379/0")
    hint = (
        "the part behind the last colon must be a port number from 1 to 65535; "
        f"if it belongs to the password: {_ENCODE}"
    )
    port = _quietly(lambda: parts.port, hint)
    if port == 0 or (port is None and parts.netloc.endswith(":")):
        raise InvalidBrokerURL(f"the broker URL cannot be understood: {hint}")


def _check_query(parts: SplitResult, *, kind: Kind) -> dict[str, str]:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in query:
        if name not in _USED | _IGNORED:
            near = difflib.get_close_matches(name, _USED, n=1)
            meant = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(_USED))}"
            raise InvalidBrokerURL(f"the query of the broker URL has an option that is not known: {meant}")
        if name.startswith("ssl_") and kind != "tls":
            raise InvalidBrokerURL(f"the broker URL has the option {name}, but no TLS: begin it with rediss://")
    return query


def _database(parts: SplitResult, query: Mapping[str, str]) -> int:
    """The database's number. Publish and subscribe know no databases, but a typo here is a typo elsewhere too."""
    text = query.get("db", "" if parts.scheme == "unix" else unquote(parts.path).strip("/"))
    if not re.fullmatch(r"[0-9]{0,5}", text, re.ASCII):
        where = "the option db" if "db" in query else "what follows host and port"
        raise InvalidBrokerURL(f"the broker URL names no database: {where} must be a number such as 0")
    return int(text or 0)


def _secrets(parts: SplitResult, options: Mapping[str, Any]) -> tuple[str, ...]:
    """Passwords as they are and as they were written. A lone user name is often a password in the wrong place."""
    found = {parts.password, options.get("password"), options.get("ssl_password")}
    if not options.get("password"):
        found |= {parts.username, options.get("username")}
    return tuple(sorted((secret for secret in found if secret), key=len, reverse=True))


def _check_tls(options: dict[str, Any]) -> RedisSSLContext:
    """Bring the TLS options into redis-py's spelling. Certificates are verified unless the URL says otherwise."""
    mode = str(options.get("ssl_cert_reqs", "required")).lower()
    options["ssl_cert_reqs"] = mode = _TLS_MODES.get(mode, mode)
    if mode not in _TLS_MODES.values():
        raise InvalidBrokerURL("the option ssl_cert_reqs of the broker URL must be required, optional or none")
    options.setdefault("ssl_check_hostname", mode != "none")
    if "ssl_min_version" in options:
        hint = "ssl_min_version must be 771 for TLS 1.2 or 772 for TLS 1.3"
        options["ssl_min_version"] = _quietly(lambda: ssl.TLSVersion(int(options["ssl_min_version"])), hint)
    context = RedisSSLContext(
        **{name.removeprefix("ssl_"): value for name, value in options.items() if name.startswith("ssl_")}
    )
    _quietly(context.get, "one of its ssl_ options names a file that cannot be read, or that is no certificate or key")
    return context


def _quietly(work: Callable[[], _T], hint: str) -> _T:
    """What `work` returns. Its exceptions may quote the URL: they are not even kept as the context of ours."""
    try:
        return work()
    except (ValueError, OSError, TypeError):
        pass
    raise InvalidBrokerURL(f"the broker URL cannot be understood: {hint}")

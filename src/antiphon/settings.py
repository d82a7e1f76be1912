"""What is read from the environment, and the timings of the broker link."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from antiphon.errors import ConfigurationError

__all__ = [
    "Settings",
    "Timings",
    "collector_may_freeze",
    "read_settings",
    "read_signing_keys",
    "redact",
    "tls_is_required",
]

_SWITCH = "USE_REDIS_WEBSOCKET"
_TLS_SWITCH = "ANTIPHON_REQUIRE_TLS"
_FREEZE_SWITCH = "ANTIPHON_GC_FREEZE"
_SIGNING_KEYS = "ANTIPHON_SIGNING_KEYS"
_URL_VARIABLES = ("ANTIPHON_BROKER_URL", "REDIS_URL")
_OFF = frozenset({"false", "0", "no", "off"})
_ON = frozenset({"true", "1", "yes", "on"})

_userinfo = re.compile(r"(?s)(?<=://).*@|^(?!.*://).*@")
_secrets_in_query = re.compile(r"(?i)(?<=[?&])((?:user(?:name)?|pass(?:word)?|ssl_password)=)[^&#]*")


@dataclass(frozen=True, slots=True)
class Timings:
    """The deadlines of the broker link, in seconds. Raises ConfigurationError for values that are not above 0."""

    ping_every_s: float = 0.5
    """How often the broker is asked for an answer."""
    dead_after_s: float = 2.0
    """The broker is taken for dead when it has not answered for so long."""
    connect_s: float = 1.0
    """How long an attempt to connect may take."""
    command_s: float = 2.0
    """How long the broker may take to answer a command."""
    prove_s: float = 2.0
    """How long a new connection may take to show that what is published comes back on it."""
    backoff_first_s: float = 0.1
    """The longest pause before the first new attempt to connect; each is drawn at random up to its bound."""
    backoff_max_s: float = 0.8
    """The longest pause before any attempt; the bound doubles up to it."""
    linger_s: float = 5.0
    """How long a topic stays subscribed after its last listener on this replica has left."""
    probe_every_s: float = 10.0
    """How often a token is published to see that it comes back: a sound connection may lead to the wrong server."""
    others_wait_s: float = 2.5
    """How long a replica that is back waits for as many others as there were before it sends what it kept for them."""
    own_copy_s: float = 2.0
    """How long the own copy of a publication may take to come back after the broker took it."""

    def __post_init__(self) -> None:
        for entry in fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
                raise ConfigurationError(f"Timings.{entry.name} must be above 0, not {value!r}")


@dataclass(frozen=True, slots=True)
class Settings:
    """What applies to one process. Its text form shows no password."""

    broker_url: str | None = None
    """Where the broker is; None for single-replica mode, in which messages reach only this replica's clients."""
    timings: Timings = field(default_factory=Timings)

    def __repr__(self) -> str:
        shown = None if self.broker_url is None else redact(self.broker_url)
        return f"Settings(broker_url={shown!r}, timings={self.timings!r})"


def read_settings(url: str | None, environ: Mapping[str, str] | None = None) -> Settings:
    """Find the broker's address: `url`, else `ANTIPHON_BROKER_URL`, else `REDIS_URL`; what is empty counts as not set.

    `USE_REDIS_WEBSOCKET=false` (also 0, no, off) wins over all of them: single-replica mode. The address itself is
    checked by the broker that it names. Raises ConfigurationError for another word in that switch.
    """
    environ = os.environ if environ is None else environ
    if not _broker_wanted(environ):
        return Settings()
    if url is not None and not isinstance(url, str):
        raise ConfigurationError(f"url= is a text such as 'redis://localhost:6379/0', not {type(url).__name__}")
    for candidate in (url, *(environ.get(name) for name in _URL_VARIABLES)):
        if candidate is not None and (stripped := candidate.strip()):
            return Settings(broker_url=stripped)
    return Settings()


def read_signing_keys(environ: Mapping[str, str] | None = None) -> str | None:
    """Keys for signing what goes through the broker, as `ANTIPHON_SIGNING_KEYS` has them; None: nothing is signed."""
    return (os.environ if environ is None else environ).get(_SIGNING_KEYS, "").strip() or None


def tls_is_required(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `ANTIPHON_REQUIRE_TLS` asks for brokers with TLS only. Raises ConfigurationError for another word."""
    return _switch(_TLS_SWITCH, environ, on="to refuse brokers without TLS", off="to allow them", default=False)


def collector_may_freeze(environ: Mapping[str, str] | None = None) -> bool:
    """Whether `antiphon.lifespan` may keep what exists at start-up out of the garbage collector's runs."""
    return _switch(
        _FREEZE_SWITCH, environ, on="to freeze at start-up", off="to leave the collector alone", default=True
    )


def redact(url: str) -> str:
    """The address without user name and password."""
    return _secrets_in_query.sub(r"\1***", _userinfo.sub("***@", url))


def _broker_wanted(environ: Mapping[str, str]) -> bool:
    return _switch(_SWITCH, environ, on="to use the broker", off="for single-replica mode", default=True)


def _switch(name: str, environ: Mapping[str, str] | None, *, on: str, off: str, default: bool) -> bool:
    environ = os.environ if environ is None else environ
    word = environ.get(name, "").strip().lower()
    if not word:
        return default
    if word in _OFF:
        return False
    if word in _ON:
        return True
    raise ConfigurationError(
        f"{name}={environ[name]!r} is not understood: set it to true, 1, yes or on {on}, "
        f"or to false, 0, no or off {off}"
    )

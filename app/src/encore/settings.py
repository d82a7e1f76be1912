"""What the site reads from its environment, once."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["Settings", "complaints", "read_settings"]

PREFIX = "ENCORE_"
TOKEN_CHARACTERS = 16
ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?", re.I)
DATABASES = ("sqlite", "sqlite+aiosqlite", "postgres", "postgresql", "postgresql+asyncpg")

Listed = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """`DATABASE_URL` and `REDIS_URL` have the names that everybody uses; the rest begins with `ENCORE_`."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", hide_input_in_errors=True, env_ignore_empty=True
    )

    mode: Literal["production", "development", "demo"] = "development"
    """production refuses unsafe values and demo people; demo has one-click sign-in and the broker switch."""
    database_url: SecretStr = Field(
        default=SecretStr("sqlite+aiosqlite:///encore.db"), validation_alias=AliasChoices("DATABASE_URL")
    )
    """`sqlite+aiosqlite:///FILE` or `postgresql+asyncpg://…` (`postgresql://` is understood too)."""
    redis_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL"))
    """Redis or Valkey, which carries live messages between replicas; without it each replica is on its own."""
    storage: Path = Path("encore-files")
    """Where uploaded audio and covers are kept. Shared by all replicas."""
    upload_bytes: int = Field(default=200 * 1024**2, ge=1024**2, le=2 * 1024**3)
    """The largest audio file that may be uploaded."""
    replica: str = Field(default="", max_length=64, pattern=r"^[A-Za-z0-9_.-]*$")
    """A name for this replica in logs and on the operations page; made up when empty."""
    allowed_origins: Listed = ()
    """Other websites whose pages may use this one's API and sockets, as https://app.example, separated by commas."""
    trusted_proxies: Listed = ()
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Host are believed, separated by commas."""
    session_days: int = Field(default=30, ge=1, le=365)
    """How many days a sign-in lasts."""
    earlier_forum_sockets: bool = True
    """False answers the two earlier forum sockets with `deprecated` and close 1001."""
    operator_token: SecretStr | None = None
    """What `Authorization: Bearer` must hold for /metrics, /status and /drain; without it, this machine alone may."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The least important lines of the log that are written."""
    debug: bool = False
    """Answers to errors show the program's own lines. For development alone."""

    @property
    def uses_tls(self) -> bool:
        """Whether visitors come by https: cookies are marked Secure then."""
        return self.mode == "production"

    @property
    def parsed_database_url(self) -> URL:
        """The same in parts. Its text form hides the password."""
        return make_url(self.database_url.get_secret_value())

    @field_validator("allowed_origins", "trusted_proxies", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("database_url")
    @classmethod
    def _is_a_database(cls, value: SecretStr) -> SecretStr:
        expected = "write sqlite+aiosqlite:///FILE or postgresql+asyncpg://USER:PASSWORD@HOST/NAME"
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):
            # SQLAlchemy's own text repeats the address, password and all.
            raise ValueError(f"this is no address of a database: {expected}") from None
        if url.drivername not in DATABASES:
            raise ValueError(f"{url.drivername!r} is none of the databases that the site knows: {expected}")
        if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
            raise ValueError(f"a database in memory is another one for each connection: {expected}")
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin == "*":
                raise ValueError("'*' would let every website act for whoever is signed in: name the origins")
            if not ORIGIN.fullmatch(origin):
                raise ValueError(f"{origin!r} is no origin: write scheme, host and port, as in https://app.example")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _are_proxies(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for name in value:
            if name == "unix":
                continue
            try:
                network = ipaddress.ip_network(name, strict=False)
            except ValueError:
                raise ValueError(f"{name!r} is no address and no network: write 10.0.0.5 or 10.0.0.0/8") from None
            if network.prefixlen == 0:
                raise ValueError(f"{name!r} is everybody: name the proxies that you run")
        return value

    @field_validator("operator_token")
    @classmethod
    def _is_long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value().strip()) < TOKEN_CHARACTERS:
            raise ValueError(
                f"use {TOKEN_CHARACTERS} characters or more, for example those that "
                "`python3 -c 'import secrets; print(secrets.token_urlsafe(32))'` prints"
            )
        return value


@lru_cache(maxsize=1)
def read_settings() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError: `complaints` turns it into lines for people."""
    return Settings()


def complaints(error: ValidationError) -> list[str]:
    """One line for each setting that cannot be used: its variable, and what to write. No line holds a value given."""
    lines = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        name = str(problem["loc"][0]) if problem["loc"] else ""
        variable = name if name.isupper() else PREFIX + name.upper()
        lines.append(f"{variable}: {problem['msg'].removeprefix('Value error, ')}")
    return lines

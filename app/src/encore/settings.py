"""What the site reads from its environment, once."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

__all__ = ["Settings", "read_settings"]


class Settings(BaseSettings):
    """`DATABASE_URL` and `REDIS_URL` have the names that everybody uses; the rest begins with `ENCORE_`."""

    model_config = SettingsConfigDict(env_prefix="ENCORE_", frozen=True, extra="ignore")

    mode: Literal["production", "development", "demo"] = "development"
    """production refuses unsafe values and demo people; demo has one-click sign-in and the broker switch."""
    database_url: SecretStr = Field(
        default=SecretStr("sqlite+aiosqlite:///encore.db"), validation_alias=AliasChoices("DATABASE_URL")
    )
    """`sqlite+aiosqlite:///FILE` or `postgresql+asyncpg://…` (`postgresql://` is understood too)."""
    redis_url: SecretStr | None = Field(default=None, validation_alias=AliasChoices("REDIS_URL"))
    storage: Path = Path("encore-files")
    """Where uploaded audio and covers are kept. Shared by all replicas."""
    replica: str = ""
    """A name for this replica in logs and on the operations page; made up when empty."""
    allowed_origins: tuple[str, ...] = ()
    """Other websites whose pages may use this one's API and sockets, as https://app.example."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses and networks whose X-Forwarded-For and X-Forwarded-Host are believed."""
    session_days: int = Field(default=30, ge=1, le=365)
    earlier_forum_sockets: bool = True
    """False answers the two earlier forum sockets with `deprecated` and close 1001."""
    operator_token: SecretStr | None = None
    """What `Authorization: Bearer` must hold for /metrics, /status and the drain from elsewhere than this machine."""

    @property
    def uses_tls(self) -> bool:
        """Whether visitors come by https: cookies are marked Secure then."""
        return self.mode == "production"


@lru_cache(maxsize=1)
def read_settings() -> Settings:
    """The settings of this process. Raises pydantic's ValidationError, which names the variable."""
    return Settings()

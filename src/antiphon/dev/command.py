"""`antiphon dev`: an application on several replicas, with a broker of its own, in one terminal."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Final

from antiphon.dev.broker import DevBroker
from antiphon.dev.fleet import Fleet
from antiphon.dev.keys import Keyboard
from antiphon.dev.plan import Plan, make_plan
from antiphon.dev.screen import Screen
from antiphon.errors import AntiphonError, ConfigurationError, MissingExtra

__all__ = ["run_dev"]

EXIT_LEFT: Final = 0
EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2


def run_dev(
    *,
    app: str,
    replicas: int,
    port: int,
    redis_url: str | None,
    app_dir: str,
    keys: bool,
    broker_switch: bool = False,
) -> int:
    """Run `app` (`module:attribute`) until `q`, Ctrl-C, SIGTERM or SIGHUP, and return the exit code.

    Each replica listens on a port of its own (`port` + 1, `port` + 2, …), and all of them behind `port`; 0 chooses free
    ones. `redis_url` is the broker's address, `"none"` for none, and nothing for a Valkey server that lives as long as
    this command. Without `keys` the terminal is left alone. With `broker_switch` the application may stop and start
    that Valkey server, by the socket that `ANTIPHON_DEV_CONTROL` names in its environment.

    Returns 0 when it was left, 1 when it could not start (an application that does not import, a port in use, no
    server program), 2 for arguments that make no sense. Nothing is left behind: no process, no port, no file.
    """
    screen = Screen()
    broker: DevBroker | None = None
    try:
        plan = make_plan(app=app, replicas=replicas, port=port, redis_url=redis_url, app_dir=app_dir)
        if broker_switch and not plan.has_own_broker:
            raise ConfigurationError("--broker-switch is for the broker that is started without --redis")
        if plan.has_own_broker:
            broker = DevBroker(say=lambda text: screen.line("broker", text))
            plan = plan.with_broker(broker.server.url)
        keys = keys and Keyboard.is_possible()
        left = asyncio.run(_run(plan, broker=broker, screen=screen, keys=keys, broker_switch=broker_switch))
        return EXIT_LEFT if left else EXIT_FAILED
    except ConfigurationError as error:
        return _complain(error, code=EXIT_FAILED if isinstance(error, MissingExtra) else EXIT_USAGE)
    except AntiphonError as error:
        return _complain(error, code=EXIT_FAILED)
    except KeyboardInterrupt:  # before the fleet handles it, or after
        return EXIT_LEFT
    finally:
        if broker is not None:
            broker.close()


async def _run(plan: Plan, *, broker: DevBroker | None, screen: Screen, keys: bool, broker_switch: bool) -> bool:
    environment = plan.environment(os.environ)
    fleet = Fleet(plan=plan, environment=environment, broker=broker, screen=screen, broker_switch=broker_switch)
    return await fleet.run(keys=keys)


def _complain(error: AntiphonError, *, code: int) -> int:
    Screen(sys.stderr).write(f"antiphon dev: {error}\n")
    return code

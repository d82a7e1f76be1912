"""Real servers, event loops and settings for all tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator, Mapping

import pytest
from hypothesis import HealthCheck, settings

from antiphon.dev.broker_server import BrokerServer, ServerKind
from antiphon.errors import MissingExtra
from antiphon.testing.virtual_time import VirtualTimeLoop

pytest.register_assert_rewrite("antiphon.testing.broker_contract", "antiphon.testing.transport_contract")

IN_CI = os.environ.get("ANTIPHON_CI", "") not in ("", "0")

# No deadline for an example and no complaint about slow ones: a busy machine is no fault of the code.
settings.register_profile("antiphon", deadline=None, derandomize=IN_CI, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("antiphon")

LoopFactory = Callable[[], asyncio.AbstractEventLoop]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "virtual_time: run the coroutine on a loop whose clock jumps to the next timer")
    config.addinivalue_line("markers", "every_loop: run the coroutine on asyncio's loop, and once more on uvloop")


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> Mapping[str, LoopFactory]:
    if item.get_closest_marker("virtual_time") is not None:
        return {"virtual": VirtualTimeLoop}
    if item.get_closest_marker("every_loop") is None:
        return {"asyncio": asyncio.new_event_loop}
    return {"asyncio": asyncio.new_event_loop, "uvloop": _new_uvloop}


def _new_uvloop() -> asyncio.AbstractEventLoop:
    uvloop = pytest.importorskip("uvloop", reason="uvloop is not installed: pip install 'antiphon[fast]'")
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def start_server(kind: ServerKind, *arguments: str) -> BrokerServer:
    """A server of the test's own; whoever asks for it stops it. Skips the test when there is none of that kind."""
    try:
        return BrokerServer.start(kind, arguments=arguments)
    except MissingExtra as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[BrokerServer]:
    """A Valkey for all tests that neither kill it nor change its settings."""
    with start_server("valkey") as server:
        yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[BrokerServer]:
    """A Redis for all tests that neither kill it nor change its settings."""
    with start_server("redis") as server:
        yield server


@pytest.fixture(params=["valkey", "redis"])
def server(request: pytest.FixtureRequest) -> BrokerServer:
    """Both kinds of server, one after the other, shared by all tests."""
    shared: BrokerServer = request.getfixturevalue(f"{request.param}_server")
    return shared


@pytest.fixture(params=["valkey", "redis"])
def own_server(request: pytest.FixtureRequest) -> Iterator[BrokerServer]:
    """Both kinds of server, one after the other, for this test alone: it may be killed, frozen and restarted."""
    with start_server(request.param) as server:
        yield server


StartServer = Callable[..., BrokerServer]


@pytest.fixture
def start_own_server() -> Iterator[StartServer]:
    """A function that starts a server with arguments of its own: `start_own_server("redis", "--maxclients", "20")`."""
    started: list[BrokerServer] = []

    def start(kind: ServerKind, *arguments: str) -> BrokerServer:
        started.append(start_server(kind, *arguments))
        return started[-1]

    yield start
    for server in started:
        server.stop()

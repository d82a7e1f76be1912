"""Replicas of the guide's application that several tests share."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import MissingExtra
from tests.examples.guide import Replica


@contextlib.contextmanager
def broker_server() -> Iterator[BrokerServer]:
    try:
        server = BrokerServer.start()
    except MissingExtra as missing:
        pytest.skip(str(missing))
    with server:
        yield server


@contextlib.contextmanager
def running(*urls: str | None) -> Iterator[list[Replica]]:
    """A replica for each address. At the end all must leave by themselves, and none have logged what nobody handled."""
    replicas = [Replica(url) for url in urls]
    started: list[Replica] = []
    try:
        for replica in replicas:
            replica.start()
            started.append(replica)
        yield replicas
    finally:
        codes = [replica.stop() for replica in started]
    assert [replica.unhandled() for replica in replicas] == [[] for _ in replicas]
    assert set(codes) <= {0, -15}, codes


@pytest.fixture(scope="module")
def pair() -> Iterator[list[Replica]]:
    """Two replicas of one broker."""
    with broker_server() as server, running(server.url, server.url) as replicas:
        yield replicas


@pytest.fixture(scope="module")
def single() -> Iterator[Replica]:
    """One replica without a broker."""
    with running(None) as (replica,):
        yield replica


@pytest.fixture
def broker() -> Iterator[BrokerServer]:
    """A broker of the test's own, to be killed."""
    with broker_server() as server:
        yield server


@pytest.fixture
def pair_of_broker(broker: BrokerServer) -> Iterator[list[Replica]]:
    """Two replicas of the test's own broker."""
    with running(broker.url, broker.url) as replicas:
        yield replicas

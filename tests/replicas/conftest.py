"""Clusters that several tests share, the logs of a failure, and the table of what was measured."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from antiphon.errors import MissingExtra
from tests.replicas.cluster import Cluster, Kind, Load
from tests.replicas.least_privilege import acl_arguments, check_rights, restricted_url
from tests.replicas.report import Report

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[Report]()


class Clusters:
    """Starts each kind of cluster once, and anew when a test has left it in disorder.

    Replicas that reach the broker directly do so as the user with the least rights; behind proxies, as one with all.
    """

    def __init__(self, folder: Path) -> None:
        self._kept: dict[tuple[Kind, bool], Cluster] = {}
        self._arguments = acl_arguments(folder)

    def get(self, kind: Kind, *, proxied: bool = False) -> Cluster:
        cluster = self._kept.get((kind, proxied))
        if cluster is not None and not cluster.in_order():
            del self._kept[kind, proxied]
            cluster.close()
            cluster = None
        if cluster is None:
            with or_skipped():
                if proxied:
                    cluster = Cluster.start(kind, proxied=True, names=[f"R{number}" for number in range(1, 6)])
                else:
                    cluster = Cluster.start(kind, arguments=self._arguments, url=restricted_url)
            self._kept[kind, proxied] = cluster
        return cluster

    def check_rights(self) -> None:
        """Raise AssertionError if the restricted user was refused anything, or was not the one who asked."""
        for (_, proxied), cluster in self._kept.items():
            if not proxied and cluster.broker.is_running:
                check_rights(cluster)

    def close(self) -> None:
        for cluster in self._kept.values():
            cluster.close()


@contextlib.contextmanager
def or_skipped() -> Iterator[None]:
    """A server that is not installed is a skip that says how to get it; where nothing may be skipped, a failure."""
    try:
        yield
    except MissingExtra as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    return pytestconfig.stash.setdefault(FIGURES, Report())


@pytest.fixture(scope="session")
def all_clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    clusters = Clusters(tmp_path_factory.mktemp("acl"))
    yield clusters
    clusters.close()


@pytest.fixture
def clusters(all_clusters: Clusters) -> Iterator[Clusters]:
    """All kinds; what a test does must need no more rights at the broker than the sample gives."""
    yield all_clusters
    all_clusters.check_rights()


@pytest.fixture
def kind() -> Kind:
    """Which server; tests that run over both replace this by a parameter."""
    return "valkey"


@pytest.fixture
def cluster(clusters: Clusters, kind: Kind) -> Cluster:
    """Three replicas that reach the broker directly. Leave it as you found it."""
    return clusters.get(kind)


@pytest.fixture
def proxied(clusters: Clusters, kind: Kind) -> Iterator[Cluster]:
    """Five replicas, each behind a proxy of its own. The proxies are healed afterwards."""
    cluster = clusters.get(kind, proxied=True)
    yield cluster
    for proxy in cluster.proxies:
        proxy.heal()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put the replicas' logs beside the failure."""
    found = yield
    if found.failed and isinstance(item, pytest.Function) and HERE in item.path.parents:
        for cluster in Cluster.alive():
            found.sections.append((f"replicas on {cluster.broker!r}", cluster.logs()))
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    figures = config.stash.get(FIGURES, Report())
    lines = list(figures.lines())
    if lines:
        terminalreporter.section("measured on three replicas")
        for line in lines:
            terminalreporter.write_line(line)


__all__ = ["Clusters", "Load"]

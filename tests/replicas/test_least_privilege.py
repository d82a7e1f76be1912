"""Crossing and outages once more, as the broker's user with the least rights; in the end it was refused nothing.

With ANTIPHON_TEST_ACL=1 all tests of this folder that share clusters run as that user.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.replicas.conftest import Clusters
from tests.replicas.least_privilege import PASSWORD, acl_arguments, restricted_url
from tests.replicas.test_broker_killed import (
    test_nothing_comes_twice_when_the_subscribers_are_killed_ten_times as test_f01_as_the_restricted_user,
)
from tests.replicas.test_broker_killed import (
    test_own_clients_get_all_and_the_others_later_when_the_broker_dies_and_returns as test_f03_as_the_restricted_user,
)
from tests.replicas.test_crossing import (
    test_counts_are_those_of_all_replicas_when_asked_on_any as test_counts_as_the_restricted_user,
)
from tests.replicas.test_crossing import (
    test_messages_reach_all_clients_once_in_order_when_every_replica_publishes as test_crossing_as_the_restricted_user,
)

__all__ = [
    "test_counts_as_the_restricted_user",
    "test_crossing_as_the_restricted_user",
    "test_f01_as_the_restricted_user",
    "test_f03_as_the_restricted_user",
]


@pytest.fixture(scope="module")
def clusters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clusters]:
    clusters = Clusters(arguments=acl_arguments(tmp_path_factory.mktemp("acl")), url=restricted_url)
    yield clusters
    try:
        for cluster in clusters.kept():
            users = {line.split("user=")[1].split(" ")[0] for line in replicas_at(cluster.command("CLIENT", "LIST"))}
            assert users == {"ws"}
            assert cluster.command("ACL", "LOG") == []
            assert PASSWORD not in cluster.logs()
    finally:
        clusters.close()


def replicas_at(client_list: object) -> list[str]:
    """The connections of the library, of those that the broker lists."""
    found = [str(client) for client in client_list] if isinstance(client_list, list) else str(client_list).splitlines()
    return [line.replace("'", "").replace(": ", "=").replace(",", " ") for line in found if "antiphon" in line]

"""S28: what the tests of this folder do with replicas that reach the broker directly needs few rights there.

They sign in as the user of deploy/redis-acl; that nothing was refused to it is checked behind each of those tests.
"""

from __future__ import annotations

import asyncio

import pytest

from tests.replicas.cluster import Cluster
from tests.replicas.least_privilege import USER, users
from tests.replicas.replica import eventually


@pytest.mark.parametrize("kind", ["valkey", "redis"])
async def test_replicas_are_signed_in_as_the_user_with_the_least_rights(cluster: Cluster) -> None:
    await cluster.until_complete()

    async def look() -> set[str]:
        return await asyncio.to_thread(users, cluster)

    await eventually(look, lambda found: found == {USER}, what=f"{USER} alone")

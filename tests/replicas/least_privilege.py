"""A broker that knows the user `ws` of deploy/redis-acl, and the address under which replicas sign in as that user."""

from __future__ import annotations

import hashlib
from pathlib import Path

import redis

from antiphon.dev.broker_server import BrokerServer
from tests.replicas.cluster import CHANNEL, Cluster

__all__ = ["USER", "acl_arguments", "check_rights", "restricted_url", "users"]

USER = "ws"

PASSWORD = "c4n4ry-pa55"
# Redis 7.0 takes no other sample, and Valkey takes this one too.
SAMPLE = Path(__file__).parents[2] / "deploy/redis-acl/redis-7.acl"


def acl_arguments(folder: Path) -> tuple[str, ...]:
    """Arguments for the server: the sample, with a password and with the channel of these tests, as its ACL file."""
    text = SAMPLE.read_text().replace("#SHA256-OF-THE-PASSWORD", f"#{hashlib.sha256(PASSWORD.encode()).hexdigest()}")
    assert "&ws:*" in text
    path = folder / "users.acl"
    path.write_text(text.replace("&ws:*", f"&{CHANNEL} &{CHANNEL}/*"))
    return ("--aclfile", str(path))


def restricted_url(broker: BrokerServer) -> str:
    """The broker's address for the user `ws`."""
    return f"redis://{USER}:{PASSWORD}@127.0.0.1:{broker.port}/0"


def check_rights(cluster: Cluster) -> None:
    """Raise AssertionError if the broker refused that user anything, or if a log tells its password."""
    assert cluster.command("ACL", "LOG") == []
    assert PASSWORD not in cluster.logs()


def users(cluster: Cluster) -> set[str]:
    """Those as whom the connections of the library are signed in."""
    with redis.Redis(port=cluster.broker.port) as admin:
        return {client["user"] for client in admin.client_list() if client["name"].startswith("antiphon")}

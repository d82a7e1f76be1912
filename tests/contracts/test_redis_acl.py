"""The samples in deploy/redis-acl are enough for the library, and for nothing else."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from antiphon import Publisher, State, SyncPublisher, WebSocketManager
from antiphon.brokers import store_for
from antiphon.dev.broker_server import BrokerServer, BrokerServerFailed, ServerKind
from antiphon.topics import CONTROL_ROUTE
from tests.conftest import StartServer

SAMPLES = Path(__file__).parents[2] / "deploy/redis-acl"
PLACE = "#SHA256-OF-THE-PASSWORD"
PASSWORD = "c4n4ry-pa55"
DEADLINE_S = 30.0


def sample(name: str) -> str:
    """A sample as an operator fills it in."""
    text = (SAMPLES / name).read_text()
    assert text.count(PLACE) == 1
    return text.replace(PLACE, f"#{hashlib.sha256(PASSWORD.encode()).hexdigest()}").strip()


def admin_of(server: BrokerServer) -> redis.Redis:
    return redis.Redis(port=server.port, socket_timeout=DEADLINE_S, decode_responses=True)


def run(client: redis.Redis, *words: str | int) -> Any:
    return client.execute_command(*words)  # type: ignore[no-untyped-call]  # redis-py has types for some of it


def url_of(server: BrokerServer) -> str:
    return f"redis://ws:{PASSWORD}@127.0.0.1:{server.port}/0"


def knows_setinfo(server: BrokerServer) -> bool:
    """Redis has `CLIENT SETINFO` from 7.2 on, Valkey from the first day on."""
    return server.kind == "valkey" or tuple(map(int, server.version.split(".")[:2])) >= (7, 2)


SERVERS: list[tuple[ServerKind, str]] = [("valkey", "valkey.acl"), ("valkey", "redis-7.acl"), ("redis", "redis-7.acl")]


@pytest.fixture(params=SERVERS, ids=lambda param: "-".join(param))
def restricted(request: pytest.FixtureRequest, start_own_server: StartServer, tmp_path: Path) -> BrokerServer:
    """A server that read the sample from its ACL file."""
    kind, name = request.param
    path = tmp_path / "users.acl"
    path.write_text(sample(name) + "\n")
    server: BrokerServer = start_own_server(kind, "--aclfile", str(path))
    return server


@pytest.fixture
def user(restricted: BrokerServer) -> Iterator[redis.Redis]:
    """A connection as the user `ws`."""
    with redis.Redis.from_url(url_of(restricted), socket_timeout=DEADLINE_S) as client:
        yield client


# -- the samples ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(path.name for path in SAMPLES.glob("*.acl")))
def test_every_server_takes_the_sample_that_is_made_for_it(own_server: BrokerServer, name: str) -> None:
    with admin_of(own_server) as admin:
        rule = ["ACL", "SETUSER", *sample(name).split()[1:]]
        if name == "valkey.acl" and not knows_setinfo(own_server):
            with pytest.raises(redis.ResponseError, match="client\\|setinfo"):
                run(admin, *rule)
        else:
            assert run(admin, *rule)
            assert run(admin, "ACL", "DRYRUN", "ws", "PUBLISH", "ws:chat", "x") in ("OK", True)


@pytest.mark.parametrize("kind", ["valkey", "redis"])
def test_server_does_not_start_with_a_sample_whose_password_was_forgotten(
    start_own_server: StartServer, kind: ServerKind, tmp_path: Path
) -> None:
    path = tmp_path / "users.acl"
    path.write_text((SAMPLES / "redis-7.acl").read_text())
    with pytest.raises(BrokerServerFailed):
        start_own_server(kind, "--aclfile", str(path))


def test_readme_names_every_sample_and_every_right() -> None:
    text = (SAMPLES / "README.md").read_text()
    for path in SAMPLES.glob("*.acl"):
        assert f"`{path.name}`" in text
        commands = [word for word in path.read_text().split() if word.startswith("+")]
        assert commands.index("+multi") < commands.index("+zunionstore") == len(commands) - 1
        for right in commands[: commands.index("+multi")]:
            assert right in text.replace("\\|", "|"), right


# -- what the user may do ---------------------------------------------------------------------------------------------


async def test_everything_the_library_does_is_allowed(restricted: BrokerServer) -> None:
    url = url_of(restricted)
    managers = [WebSocketManager("ws:chat", url=url), WebSocketManager("ws:chat", url=url.replace("/0", "/1"))]
    for manager in managers:
        await manager.start()
        assert manager.state is State.UP
    receipt = await managers[0].broadcast({"type": "x"}, topic="t")
    assert receipt.scope == "cluster"
    counts = await managers[1].cluster_counts(timeout_s=DEADLINE_S)
    assert (counts.replicas, counts.complete) == (2, True)
    assert not await managers[1].is_user_connected_anywhere("42", timeout_s=DEADLINE_S)
    async with Publisher(url) as publisher:
        await publisher.publish("ws:chat", {"type": "x"}, topic="t")
    with SyncPublisher(url) as blocking:
        await asyncio.to_thread(blocking.publish, "ws:chat", {"type": "x"})
    for manager in managers:
        await manager.close()

    with admin_of(restricted) as admin:
        assert run(admin, "ACL", "LOG") == []


async def test_everything_the_store_does_is_allowed(restricted: BrokerServer) -> None:
    store = store_for(url_of(restricted))
    assert await store.put_once("ticket", b"x", ttl_s=30.0)
    assert await store.take("ticket") == b"x"
    await store.beat("r1", ttl_s=30.0)
    assert await store.hold("r1", "c1", {"user:42": 1}, ttl_s=30.0) is None
    assert await store.hold("r1", "c2", {"user:42": 1}, ttl_s=30.0) == "user:42"
    await store.renew("r1", [("user:42", "c1")], ttl_s=30.0)
    assert await store.count("user:42") == 1
    await store.release("r1", [("user:42", "c1")])
    await store.end("r1")
    await store.close()

    with admin_of(restricted) as admin:
        assert run(admin, "ACL", "LOG") == []
        assert [key for key in run(admin, "KEYS", "*") if not key.startswith("antiphon:")] == []


async def test_library_does_without_the_rights_that_are_for_comfort(restricted: BrokerServer) -> None:
    with admin_of(restricted) as admin:
        run(admin, "ACL", "SETUSER", "ws", "-role", "-client")
    manager = WebSocketManager("ws:chat", url=url_of(restricted))
    await manager.start()
    assert manager.state is State.UP
    assert (await manager.broadcast({"type": "x"})).scope == "cluster"
    await manager.close()
    with admin_of(restricted) as admin:
        refused = str(run(admin, "ACL", "LOG"))
    assert "role" in refused
    assert "client|setname" in refused


async def test_library_never_tells_the_server_which_client_it_is(restricted: BrokerServer) -> None:
    """`CLIENT SETINFO`: what a server refuses is not even asked."""
    with admin_of(restricted) as admin:
        run(admin, "CONFIG", "RESETSTAT")
        manager = WebSocketManager("ws:chat", url=url_of(restricted))
        await manager.start()
        await manager.broadcast({"type": "x"})
        with SyncPublisher(url_of(restricted)) as blocking:
            await asyncio.to_thread(blocking.publish, "ws:chat", {"type": "x"})
        seen = [name for name in admin.info("commandstats") if "client" in name]
        await manager.close()
    assert seen == ["cmdstat_client|setname"]


# -- what it may not --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("PUBLISH", "other", "x"),
        ("PUBLISH", "wsx", "x"),
        ("PUBLISH", "__redis__:invalidate", "x"),
        ("SPUBLISH", "ws:chat", "x"),
        ("SUBSCRIBE", "other"),
        ("PSUBSCRIBE", "*"),
        ("PSUBSCRIBE", "ws:*"),
        ("PUBSUB", "CHANNELS"),
        ("KEYS", "*"),
        ("SCAN", "0"),
        ("GET", "secret"),
        ("SET", "secret", "x"),
        ("DEL", "secret"),
        ("SET", "antiphon", "x"),
        ("ZUNIONSTORE", "antiphon:copy", "1", "secret"),
        ("COPY", "secret", "antiphon:copy"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "maxmemory", "1"),
        ("ACL", "LIST"),
        ("ACL", "SETUSER", "ws", "+@all"),
        ("CLIENT", "LIST"),
        ("CLIENT", "KILL", "TYPE", "pubsub"),
        ("EVAL", "return 1", "0"),
        ("SCRIPT", "LOAD", "return 1"),
        ("FUNCTION", "LIST"),
        ("MONITOR",),
        ("REPLICAOF", "NO", "ONE"),
        ("SHUTDOWN", "NOSAVE"),
        ("MODULE", "LIST"),
        ("INFO",),
    ],
    ids=" ".join,
)
def test_user_is_refused_everything_else(restricted: BrokerServer, user: redis.Redis, words: tuple[str, ...]) -> None:
    with admin_of(restricted) as admin:
        admin.set("secret", "c4n4ry")
        with pytest.raises(redis.exceptions.NoPermissionError):
            run(user, *words)
        assert admin.get("secret") == "c4n4ry"


def test_user_reaches_no_other_channel_and_no_other_key_from_a_script(
    restricted: BrokerServer, user: redis.Redis
) -> None:
    """Scripts are forbidden; even where somebody allows them, they have no more rights than their caller."""
    with admin_of(restricted) as admin:
        run(admin, "ACL", "SETUSER", "ws", "+eval")
        admin.set("secret", "c4n4ry")
    assert run(user, "EVAL", "return redis.call('publish', 'ws:chat', 'x')", 0) == 0
    for script in (
        "return redis.call('publish', 'other', 'x')",
        "return redis.call('get', 'secret')",
        "return redis.call('flushall')",
        "return redis.call('config', 'get', '*')",
    ):
        with pytest.raises(redis.ResponseError, match=r"(?i)NOPERM|ACL failure|not allowed|can't (run|publish|access)"):
            run(user, "EVAL", script, 0)


def test_user_hears_only_its_channels_and_the_replicas(user: redis.Redis) -> None:
    with user.pubsub() as pubsub:  # type: ignore[no-untyped-call]  # redis-py has types for some of it
        pubsub.subscribe("ws:chat", "ws:chat/t", CONTROL_ROUTE)
        for _ in range(3):
            assert pubsub.get_message(timeout=DEADLINE_S)["type"] == "subscribe"
    assert run(user, "PUBLISH", "ws:chat", "x") == 0
    assert run(user, "PUBLISH", CONTROL_ROUTE, "x") == 0

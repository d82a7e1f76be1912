"""Three replicas and a broker, with clients on each, and the load that runs while a fault is on."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal, cast

import redis

from antiphon.dev.broker_server import BrokerServer
from tests.replicas.checker import Verdict, Window, check
from tests.replicas.client import Client, connect
from tests.replicas.proxy import Proxy
from tests.replicas.recorder import Listener, Recording, Send
from tests.replicas.replica import WAYS, Json, Replica, eventually

__all__ = ["CHANNEL", "TOPICS", "Cluster", "Kind", "Load"]

Kind = Literal["valkey", "redis"]
CHANNEL = "live"
TOPICS = ("t0", "t1", "t2", "t3", "t4")
NAMES = ("R1", "R2", "R3")
CLIENTS_PER_REPLICA = 15
SLACK = 3
# Tasks and descriptors more or less than before: the harness's own requests come and go.


class Cluster:
    """Started by `start`, ended by `close`, whatever happened in between."""

    replica_class: ClassVar[type[Replica]] = Replica
    _alive: ClassVar[dict[Cluster, None]] = {}

    def __init__(self, kind: Kind, *, arguments: Sequence[str] = ()) -> None:
        self.broker = BrokerServer.start(kind, arguments=arguments)
        self._alive[self] = None
        self.replicas: list[Replica] = []
        self.proxies: list[Proxy] = []
        self.began = time.time()

    @classmethod
    def start(
        cls,
        kind: Kind,
        *,
        names: Iterable[str] = NAMES,
        arguments: Sequence[str] = (),
        proxied: bool = False,
        environment: Mapping[str, str] | None = None,
        url: Callable[[BrokerServer], str] = lambda broker: broker.url,
    ) -> Cluster:
        """Start the broker and the replicas; with `proxied`, each replica has a proxy of its own before the broker."""
        cluster = cls(kind, arguments=arguments)
        try:
            for name in names:
                address = url(cluster.broker)
                if proxied:
                    cluster.proxies.append(Proxy(cluster.broker.port))
                    address = address.replace(f":{cluster.broker.port}", f":{cluster.proxies[-1].port}")
                cluster.add(name, address, environment=environment)
            for replica in cluster.replicas:
                replica.wait_ready()
        except BaseException:
            cluster.close()
            raise
        return cluster

    def add(self, name: str, url: str | None, *, environment: Mapping[str, str] | None = None) -> Replica:
        """Start one more replica, without waiting for it. Unless told a WAY, they take all ways in turn."""
        way = list(WAYS)[len(self.replicas) % len(WAYS)]
        replica = self.replica_class(name, url, environment={"WAY": way, **(environment or {})})
        self.replicas.append(replica)
        replica.launch()
        return replica

    def close(self) -> None:
        """End all processes."""
        for replica in self.replicas:
            replica.remove()
        for proxy in self.proxies:
            proxy.close()
        self.broker.stop()
        self._alive.pop(self, None)

    @classmethod
    def alive(cls) -> list[Cluster]:
        """The clusters that were started and not closed."""
        return list(cls._alive)

    def in_order(self) -> bool:
        """Whether the broker and all replicas run and are up; waits a while for the latter."""
        if not self.broker.is_running or not all(replica.running for replica in self.replicas):
            return False
        deadline = time.monotonic() + 15.0
        while any(replica.glance() != "up" for replica in self.replicas):
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
        return True

    def __getitem__(self, name: str) -> Replica:
        return next(replica for replica in self.replicas if replica.name == name)

    def proxy(self, name: str) -> Proxy:
        """What stands between this replica and the broker."""
        return self.proxies[self.replicas.index(self[name])]

    def logs(self) -> str:
        """The end of every replica's log, for the report of a failure."""
        return "\n".join(f"--- {replica.name} ---\n{replica.log[-6000:]}" for replica in self.replicas)

    async def until(self, state: str, *, timeout_s: float = 30.0) -> None:
        """Wait until all replicas are in this state."""
        await asyncio.gather(*(replica.until(state, timeout_s=timeout_s) for replica in self.running))

    async def until_complete(self, *, timeout_s: float = 30.0) -> None:
        """Wait until all replicas are up and hear of one another."""
        await self.until("up", timeout_s=timeout_s)
        count = len(self.running)
        for replica in self.running:
            await eventually(
                partial(replica.get, "/counts"),
                lambda found: found["complete"] and found["replicas"] == count,
                timeout_s=timeout_s,
                what=f"{replica.name} hearing of {count} replicas",
            )

    @property
    def running(self) -> list[Replica]:
        return [replica for replica in self.replicas if replica.running]

    # the broker, seen from an administrator's seat

    def command(self, *words: str | int) -> Any:
        """Let the broker carry out one command, on a connection of its own."""
        with redis.Redis(port=self.broker.port, socket_timeout=10.0, socket_connect_timeout=10.0) as client:
            return cast("Any", client.execute_command(*words))

    def publish(self, message: bytes | str, *, topic: str | None = None) -> int:
        """`PUBLISH`, as any other program does it."""
        with redis.Redis(port=self.broker.port, socket_timeout=10.0) as client:
            return int(cast("int", client.publish(CHANNEL if topic is None else f"{CHANNEL}/{topic}", message)))


class Load:
    """Clients on every replica, streams on some of them, and the recording of both."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.recording = Recording()
        self.clients: list[Client] = []
        self.baseline: dict[str, Json] = {}
        self._publishers: list[Replica] = []
        self.began = time.time()

    @classmethod
    @contextlib.asynccontextmanager
    async def on(
        cls,
        cluster: Cluster,
        *,
        clients: int = CLIENTS_PER_REPLICA,
        topics: Sequence[str] = TOPICS,
        complete: bool = True,
    ) -> AsyncIterator[Load]:
        """Connect `clients` to each replica, each to two of the topics; close them in the end.

        Unless `complete` is false, the replicas have to be up and know one another first.
        """
        load = cls(cluster)
        try:
            if complete:
                await cluster.until_complete()
            for replica in cluster.running:
                for number in range(clients):
                    wanted = frozenset({topics[number % len(topics)], topics[(number + 1) % len(topics)]})
                    await load.join(replica, number, wanted)
            for replica in cluster.running:
                load.baseline[replica.name] = await replica.state()
            yield load
        finally:
            for replica in load._publishers:
                if replica.running:
                    with contextlib.suppress(OSError, AssertionError, TimeoutError):
                        await replica.stop_streams()
            await asyncio.gather(*(client.close() for client in load.clients))

    async def join(self, replica: Replica, number: int, topics: frozenset[str]) -> Client:
        """Connect one client, and wait until it is registered with its topics."""
        listener = Listener(f"{replica.name}c{number}", replica.name, topics, user_id=f"{replica.name}u{number}")
        client = await connect(listener, replica.port)
        self.clients.append(client)
        client.send_json({"hello": number})
        await client.expect(lambda message: message == {"echo": {"hello": number}})
        listener.since = time.monotonic()
        self.recording.listen(listener)
        return client

    async def publish(
        self, *, per_replica_per_s: float = 20.0, on: Iterable[str] | None = None, **options: object
    ) -> None:
        """Begin a stream over all topics on the named replicas (all of them, unless said)."""
        for replica in self.cluster.running:
            if on is None or replica.name in on:
                self._publishers.append(replica)
                await replica.stream(rate_per_s=per_replica_per_s, topics=list(TOPICS), **options)

    async def until_delivered(self, count: int) -> None:
        """Wait for so many more receipts, all clients together."""
        goal = self.recording.deliveries + count

        async def look() -> int:
            return self.recording.deliveries

        await eventually(look, lambda deliveries: deliveries >= goal, what=f"{goal} receipts")

    async def stop_publishing(self) -> list[Send]:
        """End the streams, once every call has returned."""
        sends: list[Send] = []
        for replica in self._publishers:
            if replica.running:
                sends += await replica.stop_streams()
        self._publishers.clear()
        self.recording.sent(sends)
        return sends

    async def settle(
        self,
        *,
        windows: Iterable[Window] = (),
        forgive: Callable[[Listener, Send], bool] | None = None,
        quiet_s: float = 0.7,
        timeout_s: float = 25.0,
    ) -> Verdict:
        """Wait until what is on its way has arrived and nothing more comes; then judge."""
        windows = list(windows)
        begun = time.monotonic()

        async def look() -> tuple[Verdict, float]:
            newest = max(self.recording.last_arrival, begun)
            return check(self.recording, windows=windows, forgive=forgive), time.monotonic() - newest

        def over(found: tuple[Verdict, float]) -> bool:
            verdict, still_s = found
            return still_s >= quiet_s and (not verdict.missing or time.monotonic() - begun >= timeout_s - 2.0)

        verdict, _ = await eventually(look, over, timeout_s=timeout_s, every_s=0.2, what="the traffic's end")
        return verdict

    async def back_to_baseline(self) -> None:
        """Wait until every replica has as many tasks and descriptors as before the fault, with the same clients."""
        for replica in self.cluster.running:
            before = self.baseline[replica.name]

            def calm(now: Json, before: Json = before) -> bool:
                tasks, fds = now["tasks"] - before["tasks"], now["fds"] - before["fds"]
                return bool(abs(tasks) <= SLACK and abs(fds) <= SLACK)

            await eventually(
                replica.state,
                calm,
                every_s=0.1,
                what=f"{replica.name} with {before['tasks']} tasks and {before['fds']} descriptors",
            )

    def noise(self) -> list[str]:
        """What should not be in the logs since the load began."""
        return [f"{r.name}: {line}" for r in self.cluster.replicas for line in r.noise(since=self.began)]

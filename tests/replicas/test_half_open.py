"""A client vanishes without a word, as behind a dead line: it is gone after a ping without an answer."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Literal, Self

from tests.replicas.client import Client, connect
from tests.replicas.guarded import Program, guarded, join
from tests.replicas.recorder import Listener
from tests.replicas.replica import WAYS, Replica, eventually
from tests.replicas.report import Report

PING_S = 2
GONE_S = PING_S + PING_S + 2.0
VANISHED = 6


class Hole:
    """A line between clients and a server that can go dead while both ends believe in it."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._dead: Literal["", "lost", "held"] = ""
        self._never = asyncio.Event()
        self._pumps: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self._server.close()
        for pump in self._pumps:
            pump.cancel()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    def lose(self) -> None:
        """From now on bytes are acknowledged and go nowhere."""
        self._dead = "lost"

    def hold(self) -> None:
        """From now on nothing is taken any more, so that what is sent piles up."""
        self._dead = "held"

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        beyond, onward = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, onward]
        for source, target in ((reader, onward), (beyond, writer)):
            self._pumps.add(asyncio.create_task(self._pump(source, target)))

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65_536):
                if self._dead == "held":
                    await self._never.wait()
                if not self._dead:
                    target.write(data)
                    await target.drain()
        if not self._dead:
            target.close()


async def test_clients_on_dead_lines_are_gone_after_a_ping_without_an_answer(report: Report) -> None:
    """F31"""
    await asyncio.gather(*(on_dead_lines(report, traffic=traffic) for traffic in (False, True)))


async def on_dead_lines(report: Report, *, traffic: bool) -> None:
    async with contextlib.AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(guarded("R1", "R2", "R3", environment={"PING_S": str(PING_S)}))
        program = None
        if traffic:
            program = await stack.enter_async_context(Program(cluster.broker, per_s=50, padding_bytes=4_096))
        took_s = await asyncio.gather(*(gone_s(replica, program) for replica in cluster.replicas))
        await cluster.until_connected(0)
    measure = f"dead lines noticed, {'with' if traffic else 'without'} traffic"
    for way, after_s in zip(WAYS, took_s, strict=True):
        report.within(f"F31 {way}", measure, after_s, target_s=GONE_S)


async def gone_s(replica: Replica, program: Program | None) -> float:
    """Seconds until a replica has let go of clients at the ends of dead lines, and of no other."""
    async with contextlib.AsyncExitStack() as stack:
        good = await join(replica, "good")
        before = await replica.state()
        holes = [await stack.enter_async_context(Hole(replica.port)) for _ in range(2)]
        vanished: list[Client] = [
            await connect(Listener(f"vanished {number}", replica.name, frozenset()), holes[number % 2].port)
            for number in range(VANISHED)
        ]

        async def pings() -> int:
            return min(client.pings for client in [good, *vanished])

        # They answer pings before that: nobody is taken for gone who is not.
        await eventually(pings, lambda least: least >= 1, what="a ping answered by each")
        assert (await replica.state())["connections"] == 1 + VANISHED
        begun = time.monotonic()
        holes[0].lose()
        holes[1].hold()
        await eventually(
            replica.state,
            lambda now: now["connections"] == 1 and now["ended"] == VANISHED and now["fds"] <= before["fds"] + 3,
            timeout_s=3 * GONE_S + 5,
            what=f"only the good one being left at {replica.name}",
        )
        took_s = time.monotonic() - begun
        if program is not None:
            sequences = program.heard_by(good.listener)
            assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))
        assert good.close_code is None
        assert {client.close_code for client in vanished} == {None}  # they know nothing of it
        await good.close()
    return took_s

"""A replica is told to end: its clients are asked to come back, evenly spread, and the process ends with 0."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections import Counter

import pytest
import redis

from antiphon.dev.broker_server import BrokerServer
from tests.replicas.client import connect
from tests.replicas.drain_process import PER_S, SLACK_S, TOKEN, check_spread, process
from tests.replicas.recorder import Listener
from tests.replicas.replica import WAYS, eventually
from tests.replicas.report import Report

CLIENTS = 150


async def test_clients_are_asked_to_come_back_evenly_and_the_process_ends_with_0(report: Report) -> None:
    """F27"""
    async with asyncio.TaskGroup() as all_ways:
        for way in WAYS:
            all_ways.create_task(drain(way, report))


async def drain(way: str, report: Report) -> None:
    async with process(way, clients=CLIENTS, ANTIPHON_DRAIN_S="20") as (served, clients):
        told = time.monotonic()
        served.tell()
        status, _ = await eventually(lambda: served.answer("GET", "/readyz"), lambda answer: answer[0] == 503)
        late = await connect(Listener("late", "R", frozenset()), served.port)
        assert (status, await late.closed) == (503, 1012)
        codes = await asyncio.gather(*(client.closed for client in clients))
        assert await served.ended() == 0, served.log
        took_s = time.monotonic() - told
        assert Counter(codes) == {1012: CLIENTS}
        check_spread(clients, report, f"F27 {way}")
        assert "Traceback" not in served.log
        target_s = CLIENTS / PER_S + SLACK_S
        report.within(f"F27 {way}", "from SIGTERM to the end of the process", took_s, target_s=target_s)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(number: signal.Signals) -> None:
    async with process(clients=CLIENTS, ANTIPHON_DRAIN_S="600") as (served, clients):
        served.tell(number)
        await eventually(lambda: served.answer("GET", "/readyz"), lambda answer: answer[0] == 503)
        told = time.monotonic()
        served.tell(number)
        await served.ended()
        assert time.monotonic() - told < 30
        assert {await client.closed for client in clients} <= {1012}


async def test_it_ends_at_once_when_nobody_is_there() -> None:
    async with process(ANTIPHON_DRAIN_S="600") as (served, _):
        served.tell()
        assert await served.ended() == 0, served.log


async def test_a_pre_stop_hook_drains_and_the_signal_after_it_ends_the_process_at_once() -> None:
    async with process(clients=30, ANTIPHON_DRAIN_S="600") as (served, clients):
        command = [sys.executable, "-m", "antiphon.cli", "drain", f"http://127.0.0.1:{served.port}"]
        refused = await asyncio.create_subprocess_exec(*command, "--token", "x" * 16, stderr=subprocess.DEVNULL)
        assert await refused.wait() == 1
        assert (await served.answer("GET", "/readyz"))[0] == 200
        hook = await asyncio.create_subprocess_exec(*command, "--token", TOKEN, stdout=subprocess.PIPE)
        said, _ = await hook.communicate()
        assert (hook.returncode, said.startswith(b"drained: 30 sockets closed")) == (0, True)
        assert {await client.closed for client in clients} == {1012}
        assert (await served.answer("GET", "/readyz"))[0] == 503
        served.tell()
        assert await served.ended() == 0, served.log
        assert TOKEN not in served.log


async def test_a_handler_that_blocks_for_a_second_shows_in_the_metrics() -> None:
    """F28c"""
    async with process() as (served, _):
        await served.answer("POST", "/block?s=1.1")
        assert await served.metric("antiphon_loop_lag_worst_seconds") > 1
        below = await served.metric('antiphon_loop_lag_seconds_bucket{le="1.0"}')
        assert await served.metric("antiphon_loop_lag_seconds_count") > below
        served.tell()
        assert await served.ended() == 0


async def test_no_answer_and_no_line_holds_the_password_of_the_broker(own_server: BrokerServer) -> None:
    """S30"""
    with redis.Redis.from_url(own_server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", f">{TOKEN}", "~*", "&*", "+@all")
    url = own_server.url.replace("redis://", f"redis://app:{TOKEN}@")
    async with process(ANTIPHON_BROKER_URL=url, ANTIPHON_DRAIN_S="0") as (served, _):
        await eventually(
            lambda: served.answer("GET", "/metrics"), lambda answer: 'state="up"} 1' in answer[1], what="the link"
        )
        shown = [await served.answer("GET", path) for path in ("/readyz", "/metrics")]
        own_server.kill()
        await eventually(lambda: served.answer("GET", "/readyz"), lambda answer: "degraded" in answer[1])
        shown += [await served.answer("GET", path) for path in ("/readyz", "/metrics")]
        assert [status for status, _ in shown] == [200] * 4
        served.tell()
        assert await served.ended() == 0, served.log
        assert not [text for _, text in shown if TOKEN in text or "app:" in text]
        assert TOKEN not in served.log
        assert str(own_server.port) not in shown[0][1]

"""Publishing without an event loop: reconnecting, threads, processes made by fork."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import pytest

from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.codes import Reason
from antiphon.errors import BrokerRefused, BrokerTimeout, BrokerUnavailable
from tests.unit.scripted_redis import HANG_UP, ScriptedRedis, wait_until

WIDE_S = 20.0


def published(server: ScriptedRedis) -> list[bytes]:
    return [command[2] for command in server.commands if command[0] == b"PUBLISH"]


def test_publish_returns_the_number_of_subscribers() -> None:
    with (
        ScriptedRedis({"PUBLISH": b":3\r\n"}) as server,
        SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing,
    ):
        assert publishing.publish("chat/zażółć", b"\x00\r\n") == 3
        assert server.commands[-1] == [b"PUBLISH", "chat/zażółć".encode(), b"\x00\r\n"]
        assert publishing.address == f"127.0.0.1:{server.port}/0"


def test_nothing_is_connected_before_the_first_publication() -> None:
    with ScriptedRedis() as server:
        with SyncRedisPublishing(server.url, timeout_s=WIDE_S):
            pass
        assert server.accepted == 0


def test_one_connection_serves_many_publications() -> None:
    with ScriptedRedis() as server:
        with SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing:
            for _ in range(10):
                publishing.publish("r", b"x")
        assert (server.accepted, len(published(server))) == (1, 10)
        wait_until(lambda: server.connections == 0)


def test_publication_is_sent_again_when_the_connection_was_reset() -> None:
    with ScriptedRedis() as server, SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing:
        publishing.publish("r", b"1")
        server.drop()
        wait_until(lambda: server.connections == 0)
        publishing.publish("r", b"2")
        assert (server.accepted, published(server)) == (2, [b"1", b"2"])


def test_publication_ends_when_the_connection_is_reset_twice() -> None:
    with ScriptedRedis({"PUBLISH": HANG_UP}) as server:
        with (
            SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing,
            pytest.raises(BrokerUnavailable) as caught,
        ):
            publishing.publish("r", b"x")
        assert caught.value.reason is Reason.CONNECTION_LOST
        assert published(server) == [b"x", b"x"]


def test_outcome_is_unknown_when_the_server_is_gone_after_the_reset() -> None:
    with ScriptedRedis() as server:
        publishing = SyncRedisPublishing(server.url, timeout_s=WIDE_S)
        publishing.publish("r", b"x")
    with pytest.raises(BrokerUnavailable, match="nothing listens there") as caught:
        publishing.publish("r", b"x")
    assert caught.value.reason is Reason.CONNECTION_LOST
    with pytest.raises(BrokerUnavailable) as again:
        publishing.publish("r", b"x")
    assert again.value.reason is Reason.UNREACHABLE


def test_refused_publication_is_not_sent_again() -> None:
    with (
        ScriptedRedis({"PUBLISH": b"-NOPERM no\r\n"}) as server,
        SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing,
    ):
        with pytest.raises(BrokerRefused) as caught:
            publishing.publish("r", b"x")
        assert caught.value.reason is Reason.PERMISSION
        assert len(published(server)) == 1
        server.answers["PUBLISH"] = b":1\r\n"
        assert publishing.publish("r", b"x") == 1


def test_connection_is_not_used_again_after_a_time_out() -> None:
    """Its late answer would be taken for that of the next publication."""
    with (
        ScriptedRedis({"PUBLISH": None}) as server,
        SyncRedisPublishing(server.url, timeout_s=1.5) as publishing,
    ):
        with pytest.raises(BrokerTimeout):
            publishing.publish("r", b"1")
        server.answers["PUBLISH"] = b":5\r\n"
        assert publishing.publish("r", b"2") == 5
        assert server.accepted == 2


def test_answer_that_is_no_number_ends_the_connection() -> None:
    with (
        ScriptedRedis({"PUBLISH": b"+OK\r\n"}) as server,
        SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing,
        pytest.raises(BrokerUnavailable, match="no number"),
    ):
        publishing.publish("r", b"x")


def test_closed_publisher_refuses() -> None:
    with ScriptedRedis() as server:
        publishing = SyncRedisPublishing(server.url, timeout_s=WIDE_S)
        publishing.publish("r", b"x")
        publishing.close()
        publishing.close()
        wait_until(lambda: server.connections == 0)
        with pytest.raises(BrokerUnavailable) as caught:
            publishing.publish("r", b"x")
        assert caught.value.reason is Reason.CLOSED


def test_threads_share_one_connection_and_get_their_own_answers() -> None:
    def answer(command: list[bytes]) -> bytes:
        return b":%d\r\n" % int(command[2])

    with (
        ScriptedRedis({"PUBLISH": answer}) as server,
        SyncRedisPublishing(server.url, timeout_s=WIDE_S) as publishing,
    ):
        results: dict[int, int] = {}

        def work(number: int) -> None:
            for _ in range(20):
                results[number] = publishing.publish("r", b"%d" % number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WIDE_S)
        assert results == {number: number for number in range(8)}
        assert server.accepted == 1


def test_thread_gives_up_as_busy_when_another_holds_the_connection() -> None:
    with (
        ScriptedRedis({"PUBLISH": None}) as server,
        SyncRedisPublishing(server.url, timeout_s=1.5) as publishing,
    ):
        assert publishing._lock.acquire(timeout=WIDE_S)
        try:
            with pytest.raises(BrokerUnavailable) as caught:
                publishing.publish("r", b"x")
        finally:
            publishing._lock.release()
        assert caught.value.reason is Reason.BUSY
        assert server.accepted == 0


# A process of its own, because only one without threads should fork.
FORKING = """
import os, sys
from antiphon.brokers.redis_sync import SyncRedisPublishing

publishing = SyncRedisPublishing(sys.argv[1], timeout_s=20.0)
publishing.publish("r", b"parent")
assert publishing._lock.acquire()  # as if another thread were just publishing
child = os.fork()
if child == 0:
    try:
        os._exit(publishing.publish("r", b"child"))
    finally:
        os._exit(1)
publishing._lock.release()
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 4, status
assert publishing.publish("r", b"parent") == 4
publishing.close()
"""


def test_forked_process_gets_a_connection_of_its_own() -> None:
    with ScriptedRedis({"PUBLISH": b":4\r\n"}) as server:
        run = subprocess.run(
            [sys.executable, "-c", FORKING, server.url], capture_output=True, text=True, timeout=120, check=False
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert server.accepted == 2
        assert published(server) == [b"parent", b"child", b"parent"]


def test_publisher_that_is_forgotten_leaves_no_connection() -> None:
    with ScriptedRedis() as server:
        SyncRedisPublishing(server.url, timeout_s=WIDE_S).publish("r", b"x")
        gc.collect()
        wait_until(lambda: server.connections == 0)
        assert server.accepted == 1

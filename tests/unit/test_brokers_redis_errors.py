"""What a server's errors become, over a blocking connection and over both of the others, and that no password leaks."""

from __future__ import annotations

import asyncio
import logging
import socket
import traceback
from collections.abc import Callable

import pytest

from antiphon.brokers.redis_pubsub import RedisBroker
from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable
from tests.unit.scripted_redis import HANG_UP, Answer, ScriptedRedis

CANARY = "c4n4ry-pa55"

Way = Callable[[str], None]


def listen(url: str) -> None:
    async def run() -> None:
        listening = await RedisBroker(url, connect_timeout_s=5.0).open_listening()
        await listening.close()

    asyncio.run(run())


def publish(url: str) -> None:
    async def run() -> None:
        publishing = await RedisBroker(url, connect_timeout_s=5.0).open_publishing()
        try:
            await publishing.publish("r", b"x")
        finally:
            await publishing.close()

    asyncio.run(run())


def publish_blocking(url: str) -> None:
    with SyncRedisPublishing(url, timeout_s=10.0) as publishing:
        publishing.publish("r", b"x")


WAYS = [pytest.param(way, id=way.__name__) for way in (listen, publish, publish_blocking)]


def failure_of(way: Way, url: str) -> BrokerError:
    with pytest.raises(BrokerError) as caught:
        way(url)
    return caught.value


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("reply", "reason", "advice"),
    [
        (b"-NOAUTH Authentication required.", Reason.AUTHENTICATION, "put it into the broker URL"),
        (b"-NOPERM this user has no permissions to run the 'ping' command", Reason.PERMISSION, "ACL SETUSER"),
        (b"-LOADING Redis is loading the dataset in memory", Reason.LOADING, "ready by itself"),
        (b"-MASTERDOWN Link with MASTER is down", Reason.READ_ONLY, "point the broker URL at the primary"),
        (b"-ERR max number of clients reached", Reason.MAX_CLIENTS, "raise its maxclients"),
        (b"-DENIED Redis is running in protected mode", Reason.PERMISSION, "protected mode"),
        (b"-BUSY Redis is busy running a script.", Reason.REFUSED, "SCRIPT KILL"),
        (b"-OOM command not allowed when used memory > 'maxmemory'.", Reason.OUT_OF_MEMORY, "raise maxmemory"),
        (b"-WEIRD something new", Reason.REFUSED, "it said: WEIRD something new"),
    ],
)
def test_server_that_refuses_is_reported_with_reason_and_fix(
    way: Way, reply: bytes, reason: Reason, advice: str
) -> None:
    with ScriptedRedis({"PING": reply + b"\r\n"}) as server:
        error = failure_of(way, server.url)
    assert isinstance(error, BrokerRefused)
    assert error.reason is reason
    assert advice in str(error)
    assert f"127.0.0.1:{server.port}/0" in str(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (b"-WRONGPASS invalid username-password pair or user is disabled.", "user name or password are wrong"),
        (b"-ERR invalid password", "the password is wrong"),
        (b"-ERR AUTH <password> called without any password configured for the default user.", "remove it there"),
        (b"-ERR Client sent AUTH, but no password is set", "remove it there"),
    ],
)
def test_refused_credentials_are_reported_as_such(way: Way, reply: bytes, advice: str) -> None:
    with ScriptedRedis({"AUTH": reply + b"\r\n"}) as server:
        error = failure_of(way, f"redis://:{CANARY}@127.0.0.1:{server.port}")
    assert error.reason is Reason.AUTHENTICATION
    assert advice in str(error)


@pytest.mark.parametrize("way", WAYS)
def test_credentials_and_database_are_sent_before_anything_is_used(way: Way) -> None:
    with ScriptedRedis() as server:
        way(f"redis://ann:p%40ss@127.0.0.1:{server.port}/3?client_name=me")
    assert server.commands[:3] == [[b"AUTH", b"ann", b"p@ss"], [b"PING"], [b"SELECT", b"3"]]
    assert [b"CLIENT", b"SETNAME", b"me"] in server.commands


@pytest.mark.parametrize("way", WAYS)
def test_unknown_database_is_reported(way: Way) -> None:
    with ScriptedRedis({"SELECT": b"-ERR DB index is out of range\r\n"}) as server:
        error = failure_of(way, f"{server.url}/99")
    assert isinstance(error, BrokerRefused)
    assert "no database of that number" in str(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answer", [b"-NOPERM no\r\n", b"-ERR unknown command\r\n"])
def test_server_that_refuses_only_name_and_role_is_used(way: Way, answer: bytes) -> None:
    with ScriptedRedis({"ROLE": answer, "CLIENT": answer}) as server:
        way(server.url)
    assert "PING" in server.names()


@pytest.mark.parametrize("way", WAYS)
def test_server_that_cannot_save_to_disk_is_used(way: Way) -> None:
    with ScriptedRedis({"PING": b"-MISCONF Redis is configured to save RDB snapshots, but\r\n"}) as server:
        way(server.url)
    assert "PING" in server.names()


@pytest.mark.parametrize("way", WAYS)
def test_replica_is_refused_and_its_primary_named(way: Way) -> None:
    role = b"*5\r\n$5\r\nslave\r\n$9\r\n10.20.0.1\r\n:6399\r\n$9\r\nconnected\r\n:14\r\n"
    with ScriptedRedis({"ROLE": role}) as server:
        error = failure_of(way, server.url)
    assert isinstance(error, BrokerRefused)
    assert error.reason is Reason.READ_ONLY
    assert "replica of 10.20.0.1:6399" in str(error)


@pytest.mark.parametrize("way", WAYS)
def test_sentinel_is_refused(way: Way) -> None:
    with ScriptedRedis({"ROLE": b"*2\r\n$8\r\nsentinel\r\n*1\r\n$4\r\nmain\r\n"}) as server:
        error = failure_of(way, server.url)
    assert "is a Sentinel" in str(error)


@pytest.mark.parametrize("way", WAYS)
def test_full_server_that_hangs_up_is_reported_as_full(way: Way) -> None:
    """As Redis does it: the error comes unasked, and the connection ends with it."""
    with ScriptedRedis({"PING": b"-ERR max number of clients reached\r\n" + HANG_UP}) as server:
        error = failure_of(way, server.url)
    assert error.reason is Reason.MAX_CLIENTS


@pytest.mark.parametrize("way", WAYS)
def test_port_where_nobody_listens_is_unreachable(way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    error = failure_of(way, f"redis://127.0.0.1:{port}")
    assert isinstance(error, BrokerUnavailable)
    assert error.reason is Reason.UNREACHABLE
    assert "nothing listens there" in str(error)


@pytest.mark.parametrize("way", WAYS)
def test_socket_that_does_not_exist_is_unreachable(way: Way) -> None:
    error = failure_of(way, "unix:///nowhere/redis.sock")
    assert isinstance(error, BrokerUnavailable)
    assert "no such socket" in str(error)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("answers", [{"PING": HANG_UP}, {"ROLE": HANG_UP}])
def test_server_that_hangs_up_while_signing_in_is_unavailable(way: Way, answers: dict[str, Answer]) -> None:
    with ScriptedRedis(answers) as server:
        error = failure_of(way, server.url)
    assert isinstance(error, BrokerUnavailable)


@pytest.mark.parametrize("way", WAYS)
def test_server_that_speaks_another_protocol_is_unavailable(way: Way) -> None:
    with ScriptedRedis(greeting=b"HTTP/1.1 400 Bad Request\r\n\r\n") as server:
        error = failure_of(way, server.url)
    assert isinstance(error, BrokerUnavailable)


def test_server_that_never_answers_is_a_time_out_of_the_dial() -> None:
    with ScriptedRedis({"PING": None, "ROLE": None, "CLIENT": None}) as server:

        async def run() -> None:
            await RedisBroker(server.url, connect_timeout_s=0.05).open_listening()

        with pytest.raises(BrokerUnavailable, match=r"does not answer|no answer in time") as caught:
            asyncio.run(run())
        assert caught.value.reason is Reason.TIMEOUT
        with pytest.raises(BrokerUnavailable, match=r"does not answer|no answer in time") as blocked:
            SyncRedisPublishing(server.url, timeout_s=0.1).publish("r", b"x")
        assert blocked.value.reason is Reason.TIMEOUT


def test_blocking_publication_without_answer_is_of_unknown_outcome() -> None:
    with (
        ScriptedRedis({"PUBLISH": None}) as server,
        SyncRedisPublishing(server.url, timeout_s=1.5) as publishing,
        pytest.raises(BrokerTimeout),
    ):
        publishing.publish("r", b"x")
    assert server.names().count("PUBLISH") == 1


def everything_about(error: BaseException) -> str:
    """Texts, causes, contexts, and the variables of every frame on the way."""
    report = traceback.TracebackException.from_exception(error, capture_locals=True)
    shown, below = "".join(report.format(chain=True)), []
    one: BaseException | None = error
    while one is not None:
        below.append(f"{one!s} {one!r} {one.args!r}")
        context = one.__context__
        if context is not None and context is not one.__cause__:
            below.append(f"{context!s} {context!r} {context.args!r}")
        one = one.__cause__
    return shown + "".join(below)


ECHO = b"-ERR unknown command 'AUTH', with args beginning with: '" + CANARY.encode() + b"'\r\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "answers",
    [
        pytest.param({"AUTH": ECHO}, id="echo"),
        pytest.param({"AUTH": b"-WRONGPASS no\r\n"}, id="wrong"),
        pytest.param({"AUTH": HANG_UP}, id="gone"),
        pytest.param({"PING": b"-LOADING " + CANARY.encode() + b"\r\n"}, id="loading"),
        pytest.param({"AUTH": CANARY.encode() + b"\r\n"}, id="garbage"),
        pytest.param({"ROLE": b"*1\r\n$8\r\nsentinel\r\n"}, id="sentinel"),
    ],
)
def test_password_is_in_no_exception_and_no_log(
    way: Way, answers: dict[str, Answer], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with ScriptedRedis(answers) as server:
        host = f"127.0.0.1:{server.port}"
        for url in (f"redis://:{CANARY}@{host}", f"redis://ann:{CANARY}@{host}", f"redis://{CANARY}@{host}"):
            # Only what the library did is shown: the frames of this test hold the URL.
            error = failure_of(way, url)
            while error.__traceback__ is not None and "antiphon" not in error.__traceback__.tb_frame.f_code.co_filename:
                error.__traceback__ = error.__traceback__.tb_next
            assert CANARY not in everything_about(error)
    assert CANARY not in caplog.text

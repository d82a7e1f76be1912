"""One connection: what leaves in one write, whose answer is whose, and what is left when it ends."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import subprocess
from pathlib import Path

import pytest

from antiphon.brokers import _redis_wire
from antiphon.brokers.base import Message, Pong, Subscribed
from antiphon.brokers.redis_pubsub import UNRECEIVED_LIMIT_BYTES, RedisBroker, RedisListening, RedisPublishing
from antiphon.codes import Reason
from antiphon.errors import BrokerError, BrokerRefused, BrokerUnavailable
from tests.unit.scripted_redis import DEADLINE_S, HANG_UP, ScriptedRedis, wait_until

pytestmark = pytest.mark.every_loop


async def listening_to(server: ScriptedRedis) -> RedisListening:
    return await RedisBroker(server.url, connect_timeout_s=10.0).open_listening()


async def publishing_to(server: ScriptedRedis) -> RedisPublishing:
    return await RedisBroker(server.url, connect_timeout_s=10.0).open_publishing()


async def gone(server: ScriptedRedis) -> None:
    """The server saw the end of every connection: nothing is left open on our side."""
    await asyncio.to_thread(wait_until, lambda: server.connections == 0)


async def test_publications_of_one_turn_leave_in_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedRedis() as server:
        publishing = await publishing_to(server)
        written: list[bytes] = []
        write = publishing._wire.write

        def note(data: bytes) -> None:
            written.append(data)
            write(data)

        monkeypatch.setattr(publishing._wire, "write", note)
        answers = [publishing.publish("r", b"%d" % number) for number in range(100)]
        assert written == []
        await asyncio.gather(*answers)
        assert len(written) == 1
        assert [command[2] for command in server.commands[-100:]] == [b"%d" % number for number in range(100)]
        await publishing.close()


async def test_much_in_one_turn_leaves_in_several_writes_and_in_order() -> None:
    with ScriptedRedis() as server:
        publishing = await publishing_to(server)
        answers = [publishing.publish("r", b"%06d" % number + bytes(100_000)) for number in range(50)]
        async with asyncio.timeout(DEADLINE_S):
            assert await asyncio.gather(*answers) == [0] * 50
        assert [int(command[2][:6]) for command in server.commands[-50:]] == list(range(50))
        await publishing.close()


async def test_error_for_one_publication_leaves_the_others_alone() -> None:
    def answer(command: list[bytes]) -> bytes:
        return b"-NOPERM no access to the channel\r\n" if command[1] == b"forbidden" else b":7\r\n"

    with ScriptedRedis({"PUBLISH": answer}) as server:
        publishing = await publishing_to(server)
        one, two, three = (publishing.publish(route, b"x") for route in ("a", "forbidden", "b"))
        assert (await one, await three) == (7, 7)
        with pytest.raises(BrokerRefused, match="refuses PUBLISH") as caught:
            await two
        assert caught.value.reason is Reason.PERMISSION
        assert not publishing.lost
        await publishing.close()


async def test_lost_connection_ends_what_has_no_answer() -> None:
    with ScriptedRedis({"PUBLISH": None}) as server:
        publishing = await publishing_to(server)
        answers = [publishing.publish("r", b"x") for _ in range(3)]
        await asyncio.to_thread(wait_until, lambda: server.names().count("PUBLISH") == 3)
        server.drop()
        results = await asyncio.wait_for(asyncio.gather(*answers, return_exceptions=True), DEADLINE_S)
        assert all(isinstance(result, BrokerUnavailable) for result in results)
        assert {result.reason for result in results if isinstance(result, BrokerError)} == {Reason.CONNECTION_LOST}
        assert len({id(result) for result in results}) == 3
        assert publishing.lost
        await publishing.close()
        await gone(server)


async def test_server_that_closes_properly_ends_the_connection_too() -> None:
    with ScriptedRedis({"PUBLISH": b":1\r\n" + HANG_UP}) as server:
        publishing = await publishing_to(server)
        assert await publishing.publish("r", b"x") == 1
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(publishing.publish("r", b"x"), DEADLINE_S)
        await publishing.close()


@pytest.mark.parametrize("answer", [b"+OK\r\n", b"$-1\r\n", b":1\r\n:1\r\n", b"?\r\n"])
async def test_answers_that_do_not_fit_end_the_connection(answer: bytes) -> None:
    with ScriptedRedis({"PUBLISH": answer}) as server:
        publishing = await publishing_to(server)
        first = asyncio.ensure_future(publishing.publish("r", b"x"))
        await asyncio.wait([first], timeout=DEADLINE_S)
        with pytest.raises(BrokerUnavailable):
            await asyncio.wait_for(publishing.publish("r", b"x"), DEADLINE_S)
        assert publishing.lost
        await publishing.close()


async def test_ping_reply_for_a_publication_ends_the_connection() -> None:
    """A proxy swallowed the answer before it: from then on every answer would belong to another question."""
    with ScriptedRedis({"PUBLISH": None}) as server:
        publishing = await publishing_to(server)
        answer = publishing.publish("r", b"x")
        ping = publishing.ping()
        for future in (answer, ping):
            with pytest.raises(BrokerUnavailable, match="do not belong to what was asked"):
                await asyncio.wait_for(future, DEADLINE_S)
        await publishing.close()


async def test_server_that_reads_nothing_ends_the_connection_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_wire, "UNSENT_LIMIT_BYTES", 16 * 1024 * 1024)
    with ScriptedRedis() as server:
        publishing = await publishing_to(server)
        server.answers["PUBLISH"] = server.hang
        answers = [publishing.publish("r", bytes(1024 * 1024)) for _ in range(64)]
        with pytest.raises(BrokerUnavailable) as caught:
            await asyncio.wait_for(answers[-1], DEADLINE_S)
        assert caught.value.reason is Reason.BUSY
        assert publishing.lost
        await publishing.close()


async def test_too_many_questions_without_answer_end_the_connection_as_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_redis_wire, "UNANSWERED_LIMIT", 100)
    with ScriptedRedis({"PUBLISH": None}) as server:
        publishing = await publishing_to(server)
        answers = [publishing.publish("r", b"x") for _ in range(101)]
        with pytest.raises(BrokerUnavailable) as caught:
            await asyncio.wait_for(answers[0], DEADLINE_S)
        assert caught.value.reason is Reason.BUSY
        await publishing.close()


async def test_answers_that_nobody_looks_at_cause_no_complaint() -> None:
    complaints: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
    with ScriptedRedis({"PUBLISH": b"-ERR no\r\n"}) as server:
        publishing = await publishing_to(server)
        _ = publishing.publish("r", b"refused")
        await publishing.ping()
        _ = publishing.publish("r", b"lost")
        await publishing.close()
        _ = publishing.publish("r", b"late")
        await gone(server)
    gc.collect()
    await asyncio.sleep(0)
    assert complaints == []


async def test_forbidden_route_ends_listening_and_is_named() -> None:
    def answer(command: list[bytes]) -> bytes:
        if command[1] == b"forbidden":
            return b"-NOPERM No permissions to access a channel\r\n"
        return b"*3\r\n$9\r\nsubscribe\r\n$%d\r\n%b\r\n:1\r\n" % (len(command[1]), command[1])

    with ScriptedRedis({"SUBSCRIBE": answer}) as server:
        listening = await listening_to(server)
        listening.subscribe(["allowed", "forbidden", "never"])
        events: list[object] = []
        with pytest.raises(BrokerRefused, match="SUBSCRIBE forbidden") as caught:
            while True:
                events += await asyncio.wait_for(listening.receive(), DEADLINE_S)
        assert events == [Subscribed("allowed")]
        assert caught.value.reason is Reason.PERMISSION
        await gone(server)
        await listening.close()


async def test_server_that_cannot_save_to_disk_still_answers_pings() -> None:
    answer = b"-MISCONF Redis is configured to save RDB snapshots, but\r\n"
    with ScriptedRedis({"PING": answer}) as server:
        listening, publishing = await listening_to(server), await publishing_to(server)
        listening.ping(b"token")
        assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Pong(b"token")]
        await asyncio.wait_for(publishing.ping(), DEADLINE_S)
        await listening.close()
        await publishing.close()


async def test_unknown_pushes_are_passed_over() -> None:
    with ScriptedRedis() as server:
        listening = await listening_to(server)
        server.push(
            b"*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nr\r\n$1\r\nx\r\n*3\r\n$7\r\nmessage\r\n$1\r\nr\r\n$1\r\ny\r\n"
        )
        assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Message("r", b"y")]
        await listening.close()


async def test_garbage_ends_listening() -> None:
    with ScriptedRedis() as server:
        listening = await listening_to(server)
        server.push(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with pytest.raises(BrokerUnavailable, match="not the Redis protocol"):
            await asyncio.wait_for(listening.receive(), DEADLINE_S)
        await listening.close()


async def test_nothing_is_read_while_nobody_receives_and_nothing_is_lost() -> None:
    message = b"*3\r\n$7\r\nmessage\r\n$1\r\nr\r\n$1000000\r\n" + bytes(1_000_000) + b"\r\n"
    with ScriptedRedis() as server:
        listening = await listening_to(server)
        pushing = asyncio.get_running_loop().run_in_executor(None, server.push, message * 40)
        async with asyncio.timeout(DEADLINE_S):
            while not listening._paused:
                await asyncio.sleep(0.01)
        assert listening._arrivals.size_bytes < UNRECEIVED_LIMIT_BYTES + 2 * 1_000_000 + 1024
        received = 0
        while received < 40:
            events = await asyncio.wait_for(listening.receive(), DEADLINE_S)
            assert all(isinstance(event, Message) and len(event.payload) == 1_000_000 for event in events)
            received += len(events)
        await pushing
        await listening.close()


@pytest.mark.parametrize("silent", [["ROLE", "CLIENT"], ["PING", "ROLE", "CLIENT"], ["AUTH", "PING", "ROLE", "CLIENT"]])
async def test_cancelled_dial_leaves_nothing_open(silent: list[str]) -> None:
    with ScriptedRedis(dict.fromkeys(silent)) as server:
        broker = RedisBroker(f"redis://:pw@127.0.0.1:{server.port}", connect_timeout_s=DEADLINE_S)
        for open_one in (broker.open_listening, broker.open_publishing):
            dialling = asyncio.ensure_future(open_one())
            await asyncio.to_thread(wait_until, lambda: "CLIENT" in server.names())
            dialling.cancel()
            with pytest.raises(asyncio.CancelledError):
                await dialling
            await gone(server)
            server.commands.clear()


async def test_dial_that_is_cancelled_at_any_moment_leaves_nothing_open() -> None:
    with ScriptedRedis() as server:
        broker = RedisBroker(server.url, connect_timeout_s=DEADLINE_S)
        for turns in range(30):
            dialling = asyncio.ensure_future(broker.open_publishing())
            for _ in range(turns):
                await asyncio.sleep(0)
            dialling.cancel()
            for outcome in await asyncio.gather(dialling, return_exceptions=True):
                if isinstance(outcome, RedisPublishing):
                    await outcome.close()
        await gone(server)


async def test_close_does_not_wait_for_a_server_that_hangs() -> None:
    with ScriptedRedis() as server:
        publishing, listening = await publishing_to(server), await listening_to(server)
        server.answers["PUBLISH"] = server.hang
        answer = publishing.publish("r", bytes(8 * 1024 * 1024))
        await asyncio.sleep(0)
        await asyncio.wait_for(publishing.close(), DEADLINE_S)
        await asyncio.wait_for(listening.close(), DEADLINE_S)
        with pytest.raises(BrokerUnavailable) as caught:
            await answer
        assert caught.value.reason is Reason.CLOSED


class Certificate:
    """A certificate for localhost that no authority has signed."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "certificate.pem"
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        key = directory / "key.pem"
        subprocess.run(
            [
                *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
                *("-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
                *("-keyout", str(key), "-out", str(self.path)),
            ],
            check=True,
            capture_output=True,
        )
        self.context.load_cert_chain(self.path, key)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    try:
        return Certificate(tmp_path_factory.mktemp("tls"))
    except FileNotFoundError:
        pytest.skip("there is no openssl on PATH to make a certificate: `apt install openssl`")


async def test_certificate_of_an_unknown_authority_is_refused(certificate: Certificate) -> None:
    with ScriptedRedis(tls=certificate.context) as server:
        broker = RedisBroker(f"rediss://localhost:{server.port}", connect_timeout_s=10.0)
        with pytest.raises(BrokerUnavailable, match=r"certificate is not trusted.*ssl_ca_certs"):
            await broker.open_listening()
        assert server.commands == []


async def test_certificate_for_another_host_is_refused(certificate: Certificate) -> None:
    with ScriptedRedis(tls=certificate.context) as server:
        url = f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={certificate.path}"
        with pytest.raises(BrokerUnavailable, match=r"certificate is not trusted.*127.0.0.1"):
            await RedisBroker(url, connect_timeout_s=10.0).open_publishing()


@pytest.mark.parametrize("query", ["ssl_ca_certs={path}", "ssl_cert_reqs=none"])
async def test_tls_works_when_the_certificate_is_accepted(certificate: Certificate, query: str) -> None:
    with ScriptedRedis(tls=certificate.context) as server:
        url = f"rediss://:pw@localhost:{server.port}?{query.format(path=certificate.path)}"
        broker = RedisBroker(url, connect_timeout_s=10.0)
        listening, publishing = await broker.open_listening(), await broker.open_publishing()
        listening.subscribe(["r"])
        assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Subscribed("r")]
        assert await asyncio.wait_for(publishing.publish("r", bytes(300_000)), DEADLINE_S) == 0
        await listening.close()
        await publishing.close()
        await gone(server)


async def test_cancelled_tls_dial_leaves_nothing_open(certificate: Certificate) -> None:
    with ScriptedRedis(dict.fromkeys(["AUTH", "PING", "ROLE", "CLIENT"]), tls=certificate.context) as server:
        url = f"rediss://:pw@localhost:{server.port}?ssl_ca_certs={certificate.path}"
        dialling = asyncio.ensure_future(RedisBroker(url, connect_timeout_s=DEADLINE_S).open_listening())
        await asyncio.to_thread(wait_until, lambda: "CLIENT" in server.names())
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling
        await gone(server)


async def test_port_without_tls_is_a_time_out_or_an_error_that_says_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"rediss://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(BrokerUnavailable, match="without TLS"):
            await RedisBroker(url, connect_timeout_s=0.2).open_listening()

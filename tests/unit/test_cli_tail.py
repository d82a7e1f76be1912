"""`antiphon tail`: what it shows, and that it goes on after the broker was away."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys

import pytest

from antiphon.brokers.base import Message
from antiphon.brokers.memory import MemoryBroker, MemoryListening, MemoryServer
from antiphon.cli import tail as tail_module
from antiphon.cli.tail import Arrival, follow, print_arrival, tail, understand
from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import BrokerUnavailable
from antiphon.publisher import SyncPublisher
from antiphon.wire.envelope import Envelope, encode

WAIT_S = 30.0


def arrival(payload: bytes, *, route: str = "chat") -> Arrival:
    return understand(Message(route, payload), at=1_800_000_000.0)


def shown(capsys: pytest.CaptureFixture[str], payload: bytes, *, route: str = "chat") -> str:
    print_arrival(arrival(payload, route=route), channel="chat", as_json=False)
    return capsys.readouterr().out


# -- lines ------------------------------------------------------------------------------------------------------------


def test_line_names_sender_audience_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    envelope = Envelope(id="r1-1", payload=b'{"a":1}', sender="r1", users=frozenset({"7", "4"}), at_ms=1)
    line = shown(capsys, encode(envelope), route="chat/track:7")
    assert line.split(maxsplit=1)[1].split() == ["r1", "track:7", "to", "4,7", '{"a":1}']


def test_line_of_another_program_has_no_sender(capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys, b' {"a": 1} ').split(maxsplit=1)[1].split() == ["-", "all", '{"a":', "1}"]


def test_line_marks_what_was_sent_again(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, encode(Envelope(id="1", payload=b"1", retry_age_ms=2500, exclude=frozenset({"c"}))))
    assert "sent again after 2.5 s" in line
    assert "but 1" in line


def test_line_shows_what_cannot_be_understood(capsys: pytest.CaptureFixture[str]) -> None:
    line = shown(capsys, b"no\xff\x1b[31m")
    assert "not understood" in line
    assert "no\\xff\\x1b[31m" in line


def test_line_keeps_escape_sequences_from_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    envelope = Envelope(id="1", payload='{"a":"\u202e"}'.encode(), sender="\x1b]0;title\x07", kind="\x1b[2J")
    assert shown(capsys, encode(envelope)).rstrip("\n").isprintable()


@pytest.mark.parametrize("at_ms", [0, 10**17, 2**62])
def test_line_survives_a_time_that_no_calendar_has(capsys: pytest.CaptureFixture[str], at_ms: int) -> None:
    assert shown(capsys, encode(Envelope(id="1", payload=b"1", at_ms=at_ms))).endswith("1\n")


def test_json_line_has_every_field(capsys: pytest.CaptureFixture[str]) -> None:
    envelope = Envelope(id="r1-1", payload=b'"hi"', is_text=True, sender="r1", users=frozenset({"4"}), at_ms=5)
    print_arrival(arrival(encode(envelope), route="chat/t"), channel="chat", as_json=True)
    line = json.loads(capsys.readouterr().out)
    assert line["received_at"].startswith("2027-01-15T08:00:00.000")
    assert (line["channel"], line["topic"], line["id"], line["from"]) == ("chat", "t", "r1-1", "r1")
    assert (line["users"], line["text"], line["message"], line["published_at_ms"]) == (["4"], True, "hi", 5)


def test_json_line_of_what_cannot_be_understood_has_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_arrival(arrival(b"[1]"), channel="chat", as_json=True)
    line = json.loads(capsys.readouterr().out)
    assert line["payload"] == "[1]"
    assert "object" in line["error"]


# -- following --------------------------------------------------------------------------------------------------------


async def publish(server: MemoryServer, payload: bytes) -> None:
    publishing = await MemoryBroker(server).open_publishing()
    await publishing.publish("chat", payload)
    await publishing.close()


async def until_listening(server: MemoryServer) -> None:
    async with asyncio.timeout(WAIT_S):
        while not server.listeners("chat"):
            await asyncio.sleep(0.01)


async def test_tail_stops_after_so_many_and_leaves_nothing_open(capsys: pytest.CaptureFixture[str]) -> None:
    server = MemoryServer()
    notices: list[str] = []
    work = tail(MemoryBroker(server), channel="chat", routes=["chat"], count=2, as_json=False, notice=notices.append)
    task = asyncio.create_task(work)
    await until_listening(server)
    for number in range(3):
        await publish(server, b'{"n":%d}' % number)
    await asyncio.wait_for(task, WAIT_S)
    assert [line.split()[-1] for line in capsys.readouterr().out.splitlines()] == ['{"n":0}', '{"n":1}']
    assert notices[0].startswith("listening to chat at ")
    assert server.connections == 0


async def test_follow_fails_when_the_broker_is_away_at_first() -> None:
    server = MemoryServer()
    server.down = True
    with pytest.raises(BrokerUnavailable):
        await anext(follow(MemoryBroker(server), ["chat"], notice=print))


async def test_follow_fails_when_the_broker_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "CONNECT_S", 0.05)
    server = MemoryServer()
    server.freeze()
    with pytest.raises(BrokerUnavailable, match="did not answer"):
        await anext(follow(MemoryBroker(server), ["chat"], notice=print))


@pytest.mark.parametrize("fault", ["killed", "frozen"])
async def test_follow_goes_on_after_the_broker_was_away(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    for name, value in (("RETRY_S", 0.02), ("PING_S", 0.02), ("DEAD_S", 0.1), ("CONNECT_S", 0.1)):
        monkeypatch.setattr(tail_module, name, value)
    server = MemoryServer()
    notices: list[str] = []
    arrivals = follow(MemoryBroker(server), ["chat"], notice=notices.append)
    first = asyncio.create_task(anext(arrivals))
    await until_listening(server)
    await publish(server, b'{"n":1}')
    assert (await first).payload == b'{"n":1}'
    second = asyncio.create_task(anext(arrivals))
    if fault == "killed":
        server.down = True
        server.kill()
    else:
        server.freeze()
    async with asyncio.timeout(WAIT_S):
        while len(notices) < 2:
            await asyncio.sleep(0.01)
        server.down = False
        server.thaw()
        while len(notices) < 3:
            await asyncio.sleep(0.01)
        await publish(server, b'{"n":2}')
        assert (await second).payload == b'{"n":2}'
    await arrivals.aclose()
    assert "missing here" in notices[1]
    assert notices[2] == "listening again"


async def test_follow_stays_while_pings_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail_module, "PING_S", 0.01)
    pings: list[bytes] = []
    ping = MemoryListening.ping

    def counted(listening: MemoryListening, token: bytes) -> None:
        pings.append(token)
        ping(listening, token)

    monkeypatch.setattr(MemoryListening, "ping", counted)
    server = MemoryServer()
    notices: list[str] = []
    arrivals = follow(MemoryBroker(server), ["chat"], notice=notices.append)
    waiting = asyncio.create_task(anext(arrivals))
    async with asyncio.timeout(WAIT_S):
        while len(pings) < 5:
            await asyncio.sleep(0.01)
        await publish(server, b'{"n":1}')
        assert (await waiting).payload == b'{"n":1}'
    await arrivals.aclose()
    assert len(notices) == 1


# -- the whole command ------------------------------------------------------------------------------------------------


@pytest.fixture
def url(valkey_server: BrokerServer) -> str:
    return valkey_server.url


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "antiphon.cli", "tail", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )


def test_tail_shows_what_a_publisher_sends(url: str) -> None:
    with start("chat", "--count", "1", "--url", url) as process:
        assert process.stderr is not None
        assert "listening to chat" in process.stderr.readline()
        with SyncPublisher(url) as publisher:
            published = publisher.publish("chat", {"type": "x", "text": "é"}, target_user_ids={"4"})
        out, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert published.replicas == 1
    assert out.rstrip().endswith('{"type":"x","text":"é"}')
    assert "to 4" in out


def test_tail_of_a_topic_shows_that_topic_alone(url: str) -> None:
    with start("chat", "--topic", "t", "--topic", "u", "--json", "--count", "2", "--url", url) as process:
        assert process.stderr is not None
        assert "listening to chat/t, chat/u" in process.stderr.readline()
        with SyncPublisher(url) as publisher:
            for topic in (None, "t", "u"):
                publisher.publish("chat", {"topic": topic}, topic=topic)
        out, _ = process.communicate(timeout=WAIT_S)
    assert [json.loads(line)["topic"] for line in out.splitlines()] == ["t", "u"]


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
def test_tail_ends_with_0_when_it_is_interrupted(url: str) -> None:
    import signal

    with start("chat", "--url", url) as process:
        assert process.stderr is not None
        assert "listening to chat" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0
    assert "Traceback" not in err

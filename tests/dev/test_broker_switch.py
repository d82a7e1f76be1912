"""`antiphon dev --broker-switch`: the application stops, freezes and starts the embedded broker."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.dev.control import IDLE_S, LINE_BYTES, MOST_CALLERS
from tests.dev.processes import DEADLINE_S, ask, listens, wait_until
from tests.dev.terminal import APPLICATION, Dev

TELLING = APPLICATION.replace('told = ("ANTIPHON_REPLICA",', 'told = ("ANTIPHON_DEV_CONTROL", "ANTIPHON_REPLICA",')


def order(path: str, *lines: str) -> list[dict[str, str]]:
    """What it answers to these lines, on one connection."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(DEADLINE_S)
        caller.connect(path)
        answers = []
        with caller.makefile("rwb", buffering=0) as stream:
            for line in lines:
                stream.write(line.encode() + b"\n")
                answers.append(json.loads(stream.readline()))
        return answers


@pytest.fixture(scope="module")
def dev(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dev]:
    folder = tmp_path_factory.mktemp("switch")
    (folder / "app.py").write_text(TELLING)
    with Dev.start(folder, replicas=2, in_terminal=False, broker_switch=True) as started:
        yield started.wait_until_ready()


@pytest.fixture
def control(dev: Dev) -> Iterator[str]:
    path = dev.get(replica=1)["ANTIPHON_DEV_CONTROL"]
    yield path
    assert order(path, "start") == [{"state": "up"}]


def test_all_replicas_are_told_the_same_socket_when_it_was_asked_for(dev: Dev, control: str) -> None:
    assert dev.get(replica=2)["ANTIPHON_DEV_CONTROL"] == control
    assert stat.S_IMODE(os.stat(Path(control).parent).st_mode) == 0o700


def test_the_broker_stops_and_starts_on_its_port_when_it_is_ordered_to(dev: Dev, control: str) -> None:
    assert order(control, "status", "stop", "stop", "status") == [{"state": "up"}] + [{"state": "killed"}] * 3
    assert not listens(dev.broker_port)
    assert order(control, "start", "start") == [{"state": "up"}] * 2
    assert ask(dev.broker_port, "PING") == "+PONG\r\n"


def test_the_broker_freezes_and_thaws_when_it_is_ordered_to(dev: Dev, control: str) -> None:
    assert order(control, "freeze", "thaw") == [{"state": "frozen"}, {"state": "up"}]
    assert order(control, "freeze", "start") == [{"state": "frozen"}, {"state": "up"}]
    assert ask(dev.broker_port, "PING") == "+PONG\r\n"


def test_an_order_that_makes_no_sense_changes_nothing(control: str) -> None:
    (unknown,) = order(control, "shutdown now")
    assert "there is no order 'shutdown now'" in unknown["error"]
    assert "start it first" in order(control, "stop", "thaw")[1]["error"]
    assert order(control, "status") == [{"state": "killed"}]


def test_callers_are_hung_up_on_when_they_are_too_many_or_say_too_much(control: str) -> None:
    callers = [socket.socket(socket.AF_UNIX) for _ in range(MOST_CALLERS + 1)]
    try:
        for caller in callers:
            caller.settimeout(DEADLINE_S + IDLE_S)
            caller.connect(control)
        # Accepted in the order of their calls: the last of them finds all places taken.
        assert hung_up(callers[-1])
        callers[0].sendall(b"x" * (LINE_BYTES * 4))
        assert hung_up(callers[0])
    finally:
        for caller in callers:
            caller.close()
    wait_until(lambda: answers(control), what="places are free again")


def hung_up(caller: socket.socket) -> bool:
    """Whether the other side ends it: with a reset, where it left something unread."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def answers(control: str) -> bool:
    try:
        return order(control, "status") == [{"state": "up"}]
    except (OSError, ValueError):
        return False


def test_there_is_no_socket_when_nobody_asked_for_it(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TELLING)
    variables = {"ANTIPHON_DEV_CONTROL": "/of/another/one"}
    with Dev.start(tmp_path, replicas=1, in_terminal=False, environment=variables) as dev:
        assert dev.wait_until_ready().get(replica=1)["ANTIPHON_DEV_CONTROL"] is None


def test_the_switch_is_refused_when_the_broker_is_not_of_the_command(tmp_path: Path) -> None:
    with Dev.start(tmp_path, in_terminal=False, broker_switch=True, redis_url="none") as dev:
        assert dev.wait() == 2
        assert "--broker-switch is for the broker that is started without --redis" in dev.text


def test_nothing_is_left_behind_when_it_ends(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(TELLING)
    with Dev.start(tmp_path, replicas=1, in_terminal=False, broker_switch=True) as dev:
        path = dev.wait_until_ready().get(replica=1)["ANTIPHON_DEV_CONTROL"]
        assert order(path, "status") == [{"state": "up"}]
        dev.process.terminate()
        assert dev.wait() == 0
    assert not Path(path).parent.exists()

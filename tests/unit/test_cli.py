"""The command line: what it prints, and the exit codes that scripts rely on."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys

import pytest

import antiphon
from antiphon import cli
from antiphon.cli.commands import run
from antiphon.cli.exits import Exit, exit_for
from antiphon.cli.message import NotJSON, read_message
from antiphon.cli.output import printable
from antiphon.codes import Reason
from antiphon.dev import command
from antiphon.dev.broker_server import BrokerServer
from antiphon.errors import (
    AntiphonError,
    BrokerRefused,
    BrokerTimeout,
    BrokerUnavailable,
    InvalidBrokerURL,
    InvalidChannelName,
    MessageTooLarge,
    MissingExtra,
    PublishFailed,
)

NOBODY = "redis://canary:hunter2@127.0.0.1:1/0"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ANTIPHON_BROKER_URL", "REDIS_URL", "USE_REDIS_WEBSOCKET", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def url(valkey_server: BrokerServer) -> str:
    return valkey_server.url


# -- exit codes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidBrokerURL("no"), Exit.USAGE),
        (InvalidChannelName("no"), Exit.USAGE),
        (MessageTooLarge(2, limit_bytes=1), Exit.FAILED),
        (MissingExtra("no"), Exit.FAILED),
        (BrokerUnavailable("no"), Exit.BROKER),
        (BrokerTimeout("no"), Exit.BROKER),
        (BrokerRefused("no"), Exit.BROKER),
        (PublishFailed(reason=Reason.TIMEOUT, channel="c", id="1"), Exit.BROKER),
        (AntiphonError("no"), Exit.FAILED),
    ],
)
def test_exit_code_follows_from_the_error(error: AntiphonError, code: Exit) -> None:
    assert exit_for(error) is code


@pytest.mark.parametrize(
    "arguments", [["nope"], ["publish"], ["publish", "chat"], ["tail", "chat", "--count", "0"], []]
)
def test_usage_error_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == Exit.USAGE
    captured = capsys.readouterr()
    assert "Usage" in captured.err + captured.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["publish", "bad name", "{}", "--url", NOBODY], "bad-name"),
        (["publish", "chat", "{}", "--topic", "a b", "--url", NOBODY], "a-b"),
        (["publish", "chat", "{}", "--to-user", "", "--url", NOBODY], "user id is empty"),
        (["publish", "chat", "{", "--url", NOBODY], "not JSON"),
        (["publish", "chat", "{}", "--url", "redsi://localhost"], "redis://"),
        (["publish", "chat", "{}"], "ANTIPHON_BROKER_URL"),
        (["tail", "antiphon:control", "--url", NOBODY], "antiphon:"),
        (["tail", "chat"], "ANTIPHON_BROKER_URL"),
    ],
)
def test_wrong_argument_ends_with_2_and_names_the_fix(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == Exit.USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["publish", "chat", "{}"], ["tail", "chat"]])
def test_unreachable_broker_ends_with_3_and_shows_no_password(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*arguments, "--url", NOBODY]) == Exit.BROKER
    captured = capsys.readouterr()
    assert "127.0.0.1:1" in captured.err
    assert "hunter2" not in captured.err + captured.out


def test_switch_for_single_replica_mode_is_named_when_it_is_set(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("USE_REDIS_WEBSOCKET", "false")
    assert run(["publish", "chat", "{}", "--url", NOBODY]) == Exit.USAGE
    assert "USE_REDIS_WEBSOCKET" in capsys.readouterr().err


# -- publish ----------------------------------------------------------------------------------------------------------


def test_publish_says_what_became_of_it(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["publish", "chat", '{"type":"x"}', "--url", url]) == Exit.OK
    assert "listeners at the broker: 0" in capsys.readouterr().out


def test_publish_takes_the_address_from_the_environment(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("REDIS_URL", url)
    assert run(["publish", "chat", "{}", "--json"]) == Exit.OK
    printed = json.loads(capsys.readouterr().out)
    assert printed["replicas"] == 0
    assert printed["id"]


def test_publish_reads_standard_input_when_the_message_is_a_dash(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"type":"x"}\n'))
    assert run(["publish", "chat", "-", "--url", url]) == Exit.OK
    assert "published" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "value"), [('{"a": [1, null]}', {"a": [1, None]}), ('"hello"', "hello"), ("42", 42), (" true ", True)]
)
def test_message_is_json(text: str, value: object) -> None:
    assert read_message(text) == value


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{"type":}', '  {"type":}\n          ^'),
        ('{\n "a": 1,\n "b" 2}', '   "b" 2}\n       ^'),
        ("", "line 1, column 1"),
        ("hello", "quoted twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_message_that_is_not_json_is_shown_with_the_place(text: str, shown: str) -> None:
    with pytest.raises(NotJSON) as caught:
        read_message(text)
    assert shown in str(caught.value)


def test_long_message_that_is_not_json_is_shown_in_part() -> None:
    with pytest.raises(NotJSON) as caught:
        read_message('{"a": "' + "x" * 10_000 + '" "b"}')
    lines = str(caught.value).splitlines()
    assert max(map(len, lines)) < 100
    assert lines[1][lines[2].index("^")] == '"'


# -- version, dev, missing packages -----------------------------------------------------------------------------------


def test_version_names_what_matters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version"]) == Exit.OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["antiphon", antiphon.__version__]
    assert any(line.startswith("redis ") for line in lines)


def test_version_as_json_is_one_object(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["version", "--json"]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["antiphon"] == antiphon.__version__


def test_dev_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[dict[str, object]] = []

    def run_dev(**options: object) -> int:
        called.append(options)
        return 1

    monkeypatch.setattr(command, "run_dev", run_dev)
    options = {"app": "app:app", "replicas": 2, "port": 9000, "redis_url": "none", "app_dir": ".", "keys": False}
    words = ["dev", "app:app", "-n", "2", "--port", "9000", "--redis", "none", "--no-keys"]
    assert run(words) == 1
    assert run([*words, "--broker-switch"]) == 1
    assert called == [{**options, "broker_switch": False}, {**options, "broker_switch": True}]


def test_missing_package_is_explained(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "typer" else found(name))
    with pytest.raises(SystemExit) as leaving:
        cli.main()
    assert leaving.value.code == 1
    assert "antiphon[cli]" in capsys.readouterr().err


def test_command_is_a_module_too() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "antiphon.cli", "--help"],
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)),
    )
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("publish", "tail", "dev", "version"))
    assert "\x1b" not in done.stdout


# -- output -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain é 漢", "plain é 漢"), ("\x1b[31mred", "\\x1b[31mred"), ("a\nb", "a\\nb"), ("\u202eevil", "\\u202eevil")],
)
def test_what_a_terminal_would_obey_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown

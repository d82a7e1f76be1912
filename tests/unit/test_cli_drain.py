"""`antiphon drain`: what a pre-stop hook sees of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from antiphon.cli.commands import run
from antiphon.cli.drain import TOKEN_VARIABLE
from antiphon.cli.exits import Exit
from antiphon.drain import Drain
from tests.unit.browsers import closed_port

TOKEN = "canary-0123456789abcdef"


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (TOKEN_VARIABLE, "ANTIPHON_DRAIN_S", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Drain, "_current", None)


class Site:
    """A replica in a thread, with a drain endpoint that wants the token, and what else a server may answer."""

    def __init__(self) -> None:
        self.draining = Drain(token=TOKEN, managers=list)
        self.seen: list[str] = []
        app = Starlette(
            routes=[
                Route("/drain", self.draining.endpoint, methods=["POST"]),
                Route("/elsewhere", self.elsewhere, methods=["POST"]),
                Route("/seen", self.see, methods=["POST"]),
                Route("/odd", self.odd, methods=["POST"]),
            ]
        )
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]})

    async def elsewhere(self, request: Request) -> Response:
        return RedirectResponse("/seen", 307)

    async def see(self, request: Request) -> Response:
        self.seen.append(request.headers.get("authorization", ""))
        return PlainTextResponse("")

    async def odd(self, request: Request) -> Response:
        return PlainTextResponse("[1]")

    def start(self) -> None:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline
            time.sleep(0.005)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(30)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    site.start()
    yield site
    site.stop()


def test_it_waits_until_the_replica_is_done_and_says_what_was_done(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drain", site.url, "--token", TOKEN]) == Exit.OK
    assert capsys.readouterr().out == "drained: 0 sockets closed in 0.0 s\n"
    assert site.draining.report is not None


def test_token_may_stand_in_the_environment_where_other_users_do_not_see_it(
    site: Site, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert run(["drain", site.url + "/drain", "--json"]) == Exit.OK
    answer = json.loads(capsys.readouterr().out)
    assert (answer["status"], answer["closed"], answer["settled"]) == ("drained", 0, True)


def test_it_need_not_wait(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", site.url, "--token", TOKEN, "--no-wait"]) == Exit.OK
    assert capsys.readouterr().out == "draining\n"


def test_a_wrong_token_ends_with_1_and_says_what_to_do_without_showing_it(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drain", site.url, "--token", TOKEN + "x"]) == Exit.FAILED
    said = capsys.readouterr()
    assert TOKEN_VARIABLE in said.err
    assert TOKEN not in said.out + said.err
    assert not site.draining.draining


def test_a_server_without_the_endpoint_is_explained(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", site.url + "/nowhere", "--token", TOKEN]) == Exit.FAILED
    assert "antiphon.drain_endpoint" in capsys.readouterr().err


def test_the_token_follows_no_redirect(site: Site, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", site.url + "/elsewhere", "--token", TOKEN]) == Exit.FAILED
    assert "307" in capsys.readouterr().err
    assert site.seen == []


def test_an_answer_that_is_none_of_ours_is_taken_for_what_its_status_says(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["drain", site.url + "/odd"]) == Exit.OK
    assert capsys.readouterr().out == "drained\n"


def test_a_replica_that_is_not_there_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    with closed_port() as port:
        assert run(["drain", f"http://127.0.0.1:{port}", "--token", TOKEN]) == Exit.FAILED
    said = capsys.readouterr().err
    assert "cannot be asked" in said
    assert TOKEN not in said


def test_a_replica_that_does_not_answer_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert run(["drain", url, "--timeout-s", "0.3"]) == Exit.FAILED
    assert "timed out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:8000", "redis://h", "http://", "http://h:0", "http://h:x", f"http://u:{TOKEN}@h", "http://h/?a=1"],
)
def test_an_address_that_makes_no_sense_ends_with_2(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drain", url]) == Exit.USAGE
    said = capsys.readouterr().err
    assert "http://127.0.0.1:8000" in said
    assert TOKEN not in said

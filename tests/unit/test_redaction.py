"""No ticket, token or password in a log line: of records, and of a real server."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import logging.config
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uvicorn.logging import AccessFormatter
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin

from antiphon import redaction
from antiphon.redaction import PAIRS, SecretsFilter, hide_secrets, mask
from antiphon.serving import PROTOCOL

ROOT = Path(__file__).parents[2]
WAIT_S = 30.0

# -- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("/ws?ticket=SECRET&token=SECRET&page=2", "/ws?ticket=***&token=***&page=2"),
        ("/ws?page=2&access_token=SECRET#x", "/ws?page=2&access_token=***"),
        ("?key=SECRET&auth=SECRET&password=SECRET", "?key=***&auth=***&password=***"),
        ("?session=SECRET&sessionid=SECRET&session_id=SECRET", "?session=***&sessionid=***&session_id=***"),
        ("?TOKEN=SECRET&apiKey=SECRET&X-Auth-Token=SECRET", "?TOKEN=***&apiKey=***&X-Auth-Token=***"),
        ("?%74icket=SECRET&user%5Btoken%5D=SECRET", "?%74icket=***&user%5Btoken%5D=***"),
        ("?user[token]=SECRET", "?user[token]=***"),
        ("?token=SEC,RET;SEC'RET\"SEC(RET", "?token=***"),
        ("?token='SEC'RET", "?token=***"),
        ("token='SECRET SECRET', x", "token=***', x"),
        ("?token=%53ECRET%26SECRET", "?token=***"),
        ("?next=/ws%3Fticket%3DSECRET", "?next=/ws%3Fticket%3D***"),
        ("?a=token=SECRET", "?a=token=***"),
        ("a=1;session=SECRET", "a=1;session=***"),
        ('"GET /ws?token=SECRET HTTP/1.1" 200', '"GET /ws?token=*** HTTP/1.1" 200'),
        ('"GET /ws?token=SECRET" ok', '"GET /ws?token=***" ok'),
        ("{'query_string': b'token=SECRET', 'path': '/'}", "{'query_string': b'token=***', 'path': '/'}"),
        ("> Authorization: Bearer SECRET", "> Authorization: ***"),
        ("authorization: Custom SECRET SECRET", "authorization: ***"),
        ("Cookie: a=SECRET; b=SECRET", "Cookie: ***"),
        ("Set-Cookie: a=SECRET; Path=/", "Set-Cookie: ***"),
        ("X-Api-Key: SECRET", "X-Api-Key: ***"),
        (
            "[(b'authorization', b'Bearer SECRET'), (b'cookie', b'a=SECRET'), (b'host', b'x')]",
            "[(b'authorization', b'***'), (b'cookie', b'***'), (b'host', b'x')]",
        ),
        ("{'Authorization': 'Bearer SECRET', 'Host': 'x'}", "{'Authorization': '***', 'Host': 'x'}"),
        ("it said Bearer SECRET.SECRET-SECRET==", "it said Bearer ***"),
        (
            '< TEXT \'{"type":"auth","token":"SECRET"}\' [33 bytes]',
            '< TEXT \'{"type":"auth","token":"***"}\' [33 bytes]',
        ),
        (r'"{\"token\":\"SECRET\"}"', r'"{\"token\":\"***\"}"'),
        ('{"token": "SECRET', '{"token": "***"'),
        ("redis://user:SECRET@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:SECRET@host", "rediss://:***@host"),
    ],
)
def test_what_looks_like_a_secret_is_masked(text: str, masked: str) -> None:
    assert mask(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "",
        '127.0.0.1:4711 - "WebSocket /ws?page=2&author=tom" [accepted]',
        "?keyboard=de&tokens_left=3&page=token",
        "http://127.0.0.1:8000/a:b@c",
        '{"type":"auth","name":"token"}',
        "the session was ended: 4502",
        "100% of ?a=1",
    ],
)
def test_anything_else_stays_as_it_is(text: str) -> None:
    assert mask(text) == text


OPENINGS = (
    *(
        "",
        "token=",
        "token='",
        'a=token="',
        '"token":"',
        "'token' : '",
        "cookie:",
        "authorization: '",
        "x-api-key",
        "basic",
    ),
    *("Bearer ", "redis://", "://a:", "?a%3Dtoken%3D"),
)
REPEATED = (
    *(
        ";",
        ")",
        "'",
        '"',
        "\\",
        "=",
        "%3D",
        "%3",
        "&",
        "?",
        ".",
        "-",
        "_",
        "]",
        ":",
        "@",
        "/",
        " ",
        ",",
        "a",
        "0",
        "a.",
        "a-",
    ),
    *(
        "token",
        "token=",
        "token='",
        "token=);a",
        '"token":"',
        "'token':'\\",
        '"a.',
        "cookie",
        "cookie: ",
        "cookie:'",
        "x-",
    ),
    *("basic ", "bearer\t", "://a:", "://a:b@", "a=", "key=id", "authorization:\\'"),
)


@pytest.mark.parametrize("opening", OPENINGS, ids=ascii)
def test_no_text_of_a_stranger_takes_long(opening: str) -> None:
    """Longer than `mask` hands on, so that a pattern that grows with the square of the length shows."""
    length = 32 * 1024
    for repeated in REPEATED:
        text = opening + repeated * (length // len(repeated)) + "a"
        for work in (mask, redaction._masked):
            started = time.thread_time()
            work(text)
            assert time.thread_time() - started < 0.5, (opening, repeated, work)


async def test_a_query_of_a_stranger_does_not_hold_up_a_record() -> None:
    record = logging.LogRecord(
        "uvicorn.error", logging.INFO, "", 0, '"WebSocket %s" 403', (f"/?token={';' * 60_000}a",), None
    )
    started = time.thread_time()
    assert SecretsFilter().filter(record)
    assert time.thread_time() - started < 0.5
    assert record.getMessage().startswith('"WebSocket /?token=***')


def test_of_a_long_text_the_beginnings_of_the_lines_are_kept() -> None:
    text = f"first ?token=SECRET {'x' * 10_000} ?token=SECRET\nsecond ?token=SECRET\n"
    kept, *others = mask(text).split("\n")
    assert kept.startswith("first ?token=*** xxx")
    assert re.fullmatch(r".*x\.\.\. \(\d+ characters left out\)", kept)
    assert others == ["second ?token=***", ""]
    lines = "a ?token=SECRET line\n" * 10_000
    masked = mask(lines)
    assert masked.startswith("a ?token=*** line\na ?token=*** line\n")
    assert masked.endswith(f"... ({len(lines) - 64 * 1024} characters left out)")
    assert "SECRET" not in masked


@pytest.mark.parametrize(
    "secret", ["redis://user:{}@host", "?token={}", "Bearer {}", '{{"token":"{}"}}', "Cookie: a={}"]
)
def test_a_secret_that_is_cut_off_is_masked_too(secret: str) -> None:
    text = secret.format("SECRET-" * 4)
    for gap in range(8192 - len(text), 8192):
        assert "SEC" not in mask("x" * (gap - 1) + " " + text + " x" * 100)


def test_a_parameter_that_somebody_named_is_masked_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redaction, "_parameters", set())
    line = "/ws?t=SECRET&at=1&code=2&%74=SECRET&T=SECRET&next=/x%3Ft%3DSECRET"
    assert mask(line) == line
    hide_secrets(parameters=["T"])
    assert mask(line) == "/ws?t=***&at=1&code=2&%74=***&T=***&next=/x%3Ft%3D***"


@given(st.text(alphabet="SECRT0123456789-._~%", min_size=1, max_size=30), st.sampled_from(["ticket", "token", "key"]))
def test_no_value_of_a_secret_parameter_survives(value: str, name: str) -> None:
    assert mask(f"/ws?a=b&{name}={value}&z=1") == f"/ws?a=b&{name}=***&z=1"


# -- records ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger with the filter, and what its handler writes."""
    logger, written = logging.getLogger("test.redaction"), io.StringIO()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addFilter(SecretsFilter())
    logger.addHandler(logging.StreamHandler(written))
    yield logger, written
    logger.filters.clear()
    logger.handlers.clear()
    assert "SECRET" not in written.getvalue()


def test_arguments_are_masked_and_keep_their_places(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.handlers[0].setFormatter(
        AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False)
    )
    logger.info('%s - "%s %s HTTP/%s" %d', "1.2.3.4:5", "GET", "/ws?token=SECRET&a=1", "1.1", 200)
    assert written.getvalue() == "1.2.3.4:5 GET /ws?token=***&a=1 HTTP/1.1 200 OK\n"


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/basic", "/basic"),
        ("/docs/bearer", "/docs/bearer"),
        ("/x?cookie=SECRET", "/x?cookie=***"),
        ("/x?authorization=SECRET", "/x?authorization=***"),
        ("/x?a=1&cookie=", "/x?a=1&cookie="),
        ("/x-api-key:SECRET", "/x-api-key:***"),
        ("/x?token=SECRET", "/x?token=***"),
        ("/token=", "/token="),
        ("/x?y=" + "z" * 8180, "/x?y=" + "z" * 8180),
    ],
    ids=lambda text: text[:20],
)
def test_access_log_of_uvicorn_keeps_its_arguments_whatever_the_path_is(path: str, shown: str) -> None:
    record = logging.LogRecord(
        "uvicorn.access",
        logging.INFO,
        __file__,
        1,
        '%s - "%s %s HTTP/%s" %d',
        ("1.2.3.4:5", "GET", path, "1.1", 200),
        None,
    )
    assert SecretsFilter().filter(record)
    line = AccessFormatter("%(client_addr)s %(request_line)s %(status_code)s", use_colors=False).format(record)
    assert line == f"1.2.3.4:5 GET {shown} HTTP/1.1 200 OK"


def test_pairs_of_one_text_are_bounded_and_nothing_behind_them_is_shown() -> None:
    text = "a=&" * PAIRS
    assert mask(text) == text
    assert mask(f"{text}token=SECRET") == f"{text[:-1]}... (13 characters left out)"
    assert mask("token=SECRET&" * PAIRS) == "token=***&" * PAIRS


def test_a_secret_that_only_the_whole_line_shows_is_masked(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.info("token=%s for %s", "SECRET", "tom")
    logger.info("%s: %s", "Authorization", "Bearer SECRET")
    logger.info("?key=%(key)s", {"key": "SECRET"})
    logger.info("plain ?key=SECRET")
    assert written.getvalue() == "token=*** for tom\nAuthorization: ***\n?key=***\nplain ?key=***\n"


def test_objects_are_masked_by_their_text_and_others_stay_objects(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.info("%s %s", {"query_string": b"ticket=SECRET"}, b"ticket=SECRET")
    logger.info("%.1f %r %s", 2.55, "text", None)
    assert written.getvalue() == "{'query_string': b'ticket=***'} b'ticket=***'\n2.5 'text' None\n"


class Atoms(dict[str, str]):
    """What hypercorn and gunicorn hand to their access logs."""

    def __missing__(self, name: str) -> str:
        return f"({name})"


def test_a_mapping_that_computes_its_values_goes_on_doing_so(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    logger.info("%(h)s %(U)s?%(q)s %({user-agent}i)s", Atoms(h="1.2.3.4", U="/ws", q="token=SECRET"))
    logger.info("%(h)s %({user-agent}i)s", Atoms(h="1.2.3.4"))
    assert written.getvalue() == "1.2.3.4 /ws?token=*** ({user-agent}i)\n1.2.3.4 ({user-agent}i)\n"


def test_what_a_traceback_shows_is_masked(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    try:
        raise ValueError("no such page: /ws?ticket=SECRET")
    except ValueError:
        logger.exception("failed")
    try:
        raise ValueError("no such page")
    except ValueError:
        logger.exception("failed")
    assert written.getvalue().count("Traceback") == 2
    assert "no such page: /ws?ticket=***" in written.getvalue()


class Unprintable:
    def __str__(self) -> str:
        raise ValueError("SECRET")


def test_a_record_that_cannot_be_looked_at_is_emptied_and_harms_nobody(
    log: tuple[logging.Logger, io.StringIO],
) -> None:
    logger, written = log
    logger.info("%s", Unprintable())
    logger.info("%d ?token=SECRET", "SECRET")
    assert written.getvalue().count("could not be masked") == 2


def test_handlers_and_settings_that_come_later_get_masked_records() -> None:
    logger = logging.getLogger("uvicorn.error")
    before = (logger.handlers[:], logger.level, logger.propagate)
    first = hide_secrets()
    assert hide_secrets() is first
    assert logger.filters.count(first) == 1
    written = io.StringIO()
    config = {
        "version": 1,
        "disable_existing_loggers": False,
        "handlers": {"late": {"class": "logging.StreamHandler", "stream": written}},
        "loggers": {"uvicorn.error": {"handlers": ["late"], "level": "INFO", "propagate": False}},
    }
    try:
        logging.config.dictConfig(config)
        logger.info('%s - "WebSocket %s" [accepted]', "1.2.3.4:5", "/ws?ticket=SECRET")
    finally:
        logger.handlers, logger.level, logger.propagate = before
    assert written.getvalue() == '1.2.3.4:5 - "WebSocket /ws?ticket=***" [accepted]\n'


def test_loggers_of_the_application_are_masked_when_they_are_named() -> None:
    logger = logging.getLogger("test.redaction.named")
    assert hide_secrets() not in logger.filters
    try:
        assert hide_secrets(loggers=["test.redaction.named"]) in logger.filters
    finally:
        logger.filters.clear()


# -- real servers -----------------------------------------------------------------------------------------------------

APP = """
import logging

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute

from antiphon.security import Security

security = Security()


async def page(request):
    return PlainTextResponse("page")


async def socket(websocket):
    security.check_origin(websocket)
    await websocket.accept()
    await websocket.receive()


async def broken(websocket):
    await websocket.accept()
    raise RuntimeError(f"cannot serve {websocket.url}")


app = Starlette(routes=[Route("/page", page), WebSocketRoute("/ws", socket), WebSocketRoute("/broken", broken)])
"""

CONFIG = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "CUSTOM %(name)s %(levelname)s %(message)s"}},
    "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stdout"}},
    "root": {"handlers": ["out"], "level": "DEBUG"},
}


@asynccontextmanager
async def uvicorn_process(folder: Path, *options: str, app: str = APP) -> AsyncIterator[tuple[int, list[str]]]:
    """A server process, its port, and the lines that it writes, which are complete at the end."""
    (folder / "loud_app.py").write_text(app)
    paths = os.pathsep.join([str(folder), str(ROOT / "src")])
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "loud_app:app", "--port", "0", *options),
        env={**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    lines: list[str] = []
    try:
        async with asyncio.timeout(WAIT_S):
            while not (found := re.search(r"running on http://127\.0\.0\.1:(\d+)", "".join(lines))):
                line = await process.stdout.readline()
                assert line, "".join(lines)
                lines.append(line.decode())
        yield int(found[1]), lines
    finally:
        process.terminate()
        async with asyncio.timeout(WAIT_S):
            lines.extend((await process.stdout.read()).decode().splitlines(keepends=True))
            await process.wait()


SECRETS = {"Authorization": "Bearer SECRET-BEARER", "Cookie": "session=SECRET-COOKIE"}


async def visit(port: int) -> None:
    """A socket that is accepted, one that is refused, one whose endpoint fails, and a plain request."""
    query = "ticket=SECRET-TICKET&token=SECRET-TOKEN&page=2"
    site, evil = Origin(f"http://127.0.0.1:{port}"), Origin("https://evil.example")
    async with connect(f"ws://127.0.0.1:{port}/ws?{query}", additional_headers=SECRETS, origin=site) as socket:
        await socket.send('{"type":"auth","token":"SECRET-MESSAGE"}')
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    with pytest.raises(InvalidStatus) as refused:
        await connect(f"ws://127.0.0.1:{port}/ws?{query}", additional_headers=SECRETS, origin=evil)
    assert refused.value.response.status_code == 403
    async with connect(f"ws://127.0.0.1:{port}/broken?{query}", additional_headers=SECRETS) as socket:
        with pytest.raises(ConnectionClosed):
            await socket.recv()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET /page?{query} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in SECRETS.items())]
    writer.write("\r\n".join([*lines, "Connection: close", "", ""]).encode())
    assert b"200 OK" in await reader.read()
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--no-access-log"],
        ["--log-level", "trace"],
        ["--ws", "websockets", "--log-level", "debug"],
        ["--ws", PROTOCOL],
        ["--log-config", "CONFIG", "--log-level", "trace"],
    ],
    ids=" ".join,
)
async def test_no_secret_reaches_the_log_of_a_real_server(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "log.json").write_text(json.dumps(CONFIG))
    options = [str(tmp_path / "log.json") if option == "CONFIG" else option for option in options]
    async with uvicorn_process(tmp_path, *options) as (port, lines):
        await visit(port)
    written = "".join(lines)
    assert "SECRET" not in written
    assert '"WebSocket /ws?ticket=***&token=***&page=2" [accepted]' in written
    assert '"WebSocket /ws?ticket=***&token=***&page=2" 403' in written
    assert "cannot serve" in written
    assert ('"GET /page?ticket=***&token=***&page=2 HTTP/1.1" 200' in written) is ("--no-access-log" not in options)
    assert ("CUSTOM uvicorn.error" in written) is ("--log-config" in options)


async def test_the_same_server_writes_them_without_the_filter(tmp_path: Path) -> None:
    without = f'{APP}\nlogging.getLogger("uvicorn.error").filters.clear()\n'
    async with uvicorn_process(tmp_path, "--no-access-log", app=without) as (port, lines):
        await visit(port)
    assert "ticket=SECRET-TICKET" in "".join(lines)

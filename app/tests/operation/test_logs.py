"""The log: one line an event, with ids, without secrets."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import structlog

from encore.operation.logs import configure_logging
from encore.operation.replica import replica_name
from encore.settings import Settings

log = logging.getLogger("encore.test")


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def production() -> Settings:
    return Settings(mode="production")


def access(*args: object) -> None:
    """As uvicorn writes it."""
    logging.getLogger("uvicorn.access").info('%s - "%s %s HTTP/%s" %d', *args)


def test_a_line_is_json_with_time_replica_and_bound_ids_when_it_is_production(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(production())
    structlog.contextvars.bind_contextvars(request_id="abc", user_id=7)
    log.warning("%d things", 3)
    (line,) = lines(capsys)
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "3 things",
        "level": "warning",
        "logger": "encore.test",
        "replica": replica_name(),
        "request_id": "abc",
        "user_id": 7,
    }


def test_a_line_is_for_people_when_it_is_development(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings())
    structlog.contextvars.bind_contextvars(request_id="abc")
    log.warning("%d things", 3)
    written = capsys.readouterr().err
    assert "[warning  ] 3 things" in written
    assert "request_id=abc" in written
    assert len(written.splitlines()) == 1


def test_an_access_is_one_line_with_fields_when_the_server_had_handlers_of_its_own(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("uvicorn.access")
    logger.addHandler(logging.StreamHandler())
    logger.propagate = False
    configure_logging(production())
    configure_logging(production())
    access("127.0.0.1:5", "GET", "/api/tracks?q=x", "1.1", 200)
    (line,) = lines(capsys)
    assert (line["event"], line["status"], line["client"]) == ("GET /api/tracks?q=x", 200, "127.0.0.1:5")


@pytest.mark.parametrize("mode", ["production", "development"])
def test_secrets_are_masked_wherever_they_stand(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str], mode: str
) -> None:
    configure_logging(Settings(mode=mode))  # type: ignore[arg-type]  # pydantic checks it
    access("127.0.0.1:5", "GET", "/ws/broadcasts?ticket=geheim-1", "1.1", 101)
    log.info("redis://site:geheim-2@host/0 does not answer")
    logging.getLogger("antiphon").warning("Authorization: Bearer geheim-3")
    try:
        raise ValueError("postgresql://site:geheim-4@host/site")
    except ValueError:
        log.exception("no database")
    structlog.get_logger("encore.test").info("opened", url="redis://site:geheim-5@host/0")
    written = capsys.readouterr().err
    assert "geheim" not in written
    assert "ValueError" in written
    assert len([line for line in written.splitlines() if "no database" in line]) == 1


def test_a_traceback_is_part_of_its_line_when_it_is_production(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(production())
    try:
        raise KeyError("missing")
    except KeyError:
        log.exception("a defect")
    (line,) = lines(capsys)
    assert line["exception"].endswith("KeyError: 'missing'")
    assert "positional_args" not in line


def test_lines_below_the_level_are_left_out(
    environment: pytest.MonkeyPatch, logs: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(Settings(log_level="warning"))
    log.info("quiet")
    logging.getLogger("alembic.runtime").info("quiet")
    access("127.0.0.1:5", "GET", "/", "1.1", 200)
    assert capsys.readouterr().err == ""

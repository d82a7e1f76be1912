"""The log: one line of a kind in a while, and how many were kept back."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest

from antiphon.journal import Journal
from antiphon.testing.doubles import ManualClock


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def journal(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> Journal:
    caplog.set_level(logging.INFO, "antiphon")
    return Journal(every_s=10, clock=clock)


def test_the_first_line_of_each_kind_is_written(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.warning("filter", "the filter of %r raised %d times", "c", 3)
    journal.warning("listener", "100 % sure")
    journal.info("up", "up: %s", "memory")

    assert [(record.name, record.levelname, record.getMessage()) for record in caplog.records] == [
        ("antiphon", "WARNING", "the filter of 'c' raised 3 times"),
        ("antiphon", "WARNING", "100 % sure"),
        ("antiphon", "INFO", "up: memory"),
    ]


def test_the_same_kind_is_kept_back_for_a_while_and_then_counted(
    journal: Journal, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(1_000):
        journal.warning("filter", "message %d", number)
        clock.advance(0.009)
    clock.advance(1.1)
    journal.warning("filter", "later")
    clock.advance(10.1)
    journal.warning("filter", "much later")

    assert caplog.messages == ["message 0", "later (999 more of these since the last line)", "much later"]


def test_the_exception_is_shown_with_its_traceback(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError("the application's mistake")
    except ZeroDivisionError as error:
        journal.warning("handler", "on_message raised", error=error)

    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: the application's mistake" in caplog.text


def test_an_error_outside_of_an_except_block_is_shown_too(journal: Journal, caplog: pytest.LogCaptureFixture) -> None:
    journal.warning("handler", "it failed", error=ZeroDivisionError("elsewhere"))

    assert "ZeroDivisionError: elsewhere" in caplog.text


def test_nothing_is_printed_when_the_application_configures_no_logging() -> None:
    program = "from antiphon.journal import Journal; Journal().warning('kind', 'a warning')"
    path = ":".join(entry for entry in sys.path if entry)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

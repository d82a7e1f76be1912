"""In CI nothing is skipped: with ANTIPHON_CI set, a skip or an expected failure is a failure.

Elsewhere a component that is missing (a Redis server, a compiler) is a skip whose reason says how to get it.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

IN_CI = os.environ.get("ANTIPHON_CI", "") not in ("", "0")


def _failure(what: str, reason: object) -> str:
    return f"ANTIPHON_CI is set, where nothing may be skipped, but this was {what}: {reason}"


def _reason(report: pytest.TestReport | pytest.CollectReport) -> object:
    """What the skip said: pytest keeps (file, line, reason) for a skip and `wasxfail` for an expected failure."""
    expected: object = getattr(report, "wasxfail", None)
    if expected is not None:
        return expected
    longrepr = report.longrepr
    return longrepr[2] if isinstance(longrepr, tuple) else longrepr


def forbid_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip, an xfail or an xpass into a failure that keeps the reason."""
    if not report.skipped and not hasattr(report, "wasxfail"):
        return
    report.longrepr = _failure("skipped" if report.skipped else "expected to fail", _reason(report))
    report.outcome = "failed"
    if hasattr(report, "wasxfail"):
        del report.wasxfail


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if IN_CI:
        forbid_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if IN_CI:
        forbid_skip(report)
    return report

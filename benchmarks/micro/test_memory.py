"""Fan-out takes no memory for each connection and leaves none behind; an idle connection takes little."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def figures() -> dict[str, float]:
    measured = subprocess.run(
        [sys.executable, "-m", "benchmarks.micro.memory"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert measured.returncode == 0, measured.stderr
    found: dict[str, float] = json.loads(measured.stdout)
    return found


def test_a_delivery_takes_no_memory_for_each_connection(figures: dict[str, float]) -> None:
    assert figures["a delivery, for each connection"] <= 16


def test_deliveries_leave_nothing_behind(figures: dict[str, float]) -> None:
    assert figures["left behind"] <= 4 * 1024


def test_an_idle_connection_takes_little_memory(figures: dict[str, float]) -> None:
    assert 0 < figures["an idle connection"] <= 1024


def test_a_client_that_the_library_reads_takes_little_memory(figures: dict[str, float]) -> None:
    assert 0 < figures["an adopted client"] < 900

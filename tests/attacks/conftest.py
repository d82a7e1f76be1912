"""One server for each way to the sockets, shared by all attacks: each must leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from antiphon.errors import MissingExtra
from tests.attacks.target import WAYS, Target, Way, target

HERE = Path(__file__).parent
FIGURES = pytest.StashKey[list[str]]()


@pytest.fixture(scope="package")
def all_targets() -> Iterator[dict[Way, Target]]:
    """The servers of all ways."""
    with ExitStack() as stack:
        try:
            yield {way: stack.enter_context(target(way)) for way in WAYS}
        except MissingExtra as missing:
            pytest.skip(str(missing))


@pytest.fixture
async def targets(all_targets: dict[Way, Target]) -> dict[Way, Target]:
    """All of them, when they serve."""
    for each in all_targets.values():
        await each.ready()
    return all_targets


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    found: Way = request.param
    return found


@pytest.fixture
async def site(way: Way, all_targets: dict[Way, Target]) -> Target:
    """The server of one way."""
    await all_targets[way].ready()
    return all_targets[way]


@pytest.fixture
def figures(pytestconfig: pytest.Config) -> list[str]:
    """What was measured, for the end of the run."""
    return pytestconfig.stash.setdefault(FIGURES, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    lines = config.stash.get(FIGURES, [])
    if lines:
        terminalreporter.section("measured under attack")
        for line in lines:
            terminalreporter.write_line(line)

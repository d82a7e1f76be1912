"""docs/site.md says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from encore.cli import main
from encore.db import Database
from encore.main import app
from encore.operation import metrics
from encore.operation.asyncapi import SOCKETS
from encore.operation.start import Exit
from encore.settings import Settings

PAGE = Path(__file__).parents[3] / "docs/site.md"
TEXT = PAGE.read_text(encoding="utf-8")


def table(heading: str) -> list[list[str]]:
    """The cells of the first table below a line that begins so."""
    lines = TEXT[TEXT.index(heading) :].splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return rows


def names(rows: list[list[str]], *, column: int = 0) -> list[str]:
    return [name for row in rows for name in re.findall(r"`([^`]+)`", row[column])]


def variable(name: str) -> str:
    return name.upper() if name.endswith("_url") else f"ENCORE_{name.upper()}"


def shown(value: object) -> str:
    if value is None or value == ():
        return "-"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    return f"`{value}`" if value != "" else "made up"


def test_the_settings_are_those_of_the_table_with_their_defaults(environment: pytest.MonkeyPatch) -> None:
    settings = Settings()
    rows = table("## Settings")
    assert sorted(names(rows)) == sorted(map(variable, Settings.model_fields))
    defaults = {name: getattr(settings, name) for name in Settings.model_fields}
    defaults["database_url"] = settings.database_url.get_secret_value()
    assert {row[0].strip("`"): row[1] for row in rows} == {
        variable(name): shown(value) for name, value in defaults.items()
    }


def test_the_commands_are_those_of_the_table() -> None:
    group = get_command(main)
    found = {f"encore {name}" for name in group.commands if name != "user"}  # type: ignore[attr-defined]  # it is a group
    found |= {f"encore user {name}" for name in group.commands["user"].commands}  # type: ignore[attr-defined]  # so is this
    assert {name.removesuffix(" --demo") for name in names(table("## Commands"))} == found


def test_the_exit_codes_are_those_of_the_table() -> None:
    assert [row[0] for row in table("| Exit code")] == [str(int(code)) for code in Exit]


def test_the_sockets_are_those_of_the_table() -> None:
    rows = table("## Sockets")
    assert [(row[0].strip("`"), row[1].strip("`")) for row in rows] == [
        (socket.addresses[0], socket.addresses[1] if len(socket.addresses) > 1 else "-") for socket in SOCKETS
    ]


def test_the_paths_that_are_named_exist() -> None:
    paths = list(app.openapi()["paths"])
    for name in names(table("## Routes")):
        assert any(path.startswith(name.removesuffix("/…")) for path in paths), name
    for name in names(table("## Operation")):
        assert name == "/docs" or name in paths or name == "POST", name


async def test_the_metrics_are_those_of_the_table(database: Database) -> None:
    found = re.findall(r"^# TYPE (\S+) (\S+)$", metrics.render(database), re.M)
    rows = [(row[0].strip("`"), row[1]) for row in table("| Metric")]
    assert rows == found

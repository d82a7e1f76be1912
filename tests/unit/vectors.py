"""The examples of `protocol/`, which every implementation of either side runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["PROTOCOL", "cases", "codes"]

PROTOCOL = Path(__file__).parents[2] / "protocol"


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((PROTOCOL / name).read_text(encoding="utf-8"))
    return found


def cases(file: str, part: str) -> list[dict[str, Any]]:
    """The cases of one part of a file, which has some."""
    found: list[dict[str, Any]] = load(f"vectors/{file}.json")[part]
    names = [case["name"] for case in found]
    assert len(set(names)) == len(names) > 0
    return found


def codes() -> dict[str, Any]:
    """The table of codes."""
    return load("codes.json")

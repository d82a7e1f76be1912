"""The message that is given on the command line."""

from __future__ import annotations

import json
import sys
from typing import NoReturn

from antiphon.errors import ConfigurationError

__all__ = ["NotJSON", "read_message"]

SHOWN_CHARACTERS = 60


class NotJSON(ConfigurationError):
    """The argument is not JSON: the text shows where."""


def read_message(argument: str) -> object:
    """Return the value of a JSON argument; `-` stands for standard input. Raises NotJSON."""
    text = sys.stdin.read() if argument == "-" else argument
    try:
        value: object = json.loads(text, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise NotJSON(_explain(text, error)) from error
    except RecursionError as error:
        raise NotJSON("the message is nested too deeply") from error
    return value


def _refuse(name: str) -> NoReturn:
    raise NotJSON(f"{name} is not JSON: use null, or a string")


def _explain(text: str, error: json.JSONDecodeError) -> str:
    """The mistake, the line it is on, and a mark under the place."""
    lines = text.splitlines() or [""]
    line = lines[min(error.lineno, len(lines)) - 1]
    start = max(0, error.colno - 1 - SHOWN_CHARACTERS // 2)
    shown = line[start : start + SHOWN_CHARACTERS]
    hint = ""
    if not any(character in text for character in '{["'):
        hint = "\nA text must be quoted twice, for the shell and for JSON: '\"hello\"'"
    return (
        f"the message is not JSON: {error.msg} (line {error.lineno}, column {error.colno})\n"
        f"  {shown}\n  {' ' * (error.colno - 1 - start)}^{hint}"
    )

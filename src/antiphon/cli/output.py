"""What the commands print: colours on a terminal, plain text elsewhere, one JSON object a line with `--json`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text

__all__ = ["console", "notice", "print_json", "print_parts", "printable", "shows_colors"]


def shows_colors() -> bool:
    """Whether standard output is a terminal that wants colours (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """Where commands print. Made anew, so that a redirected standard output is respected."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, no_color=not shows_colors())


def printable(text: str) -> str:
    """The text with everything that a terminal would obey, or show nothing of, written as an escape.

    What comes from a channel was written by others: an escape sequence in it must not reach the terminal.
    """
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def print_parts(*parts: tuple[str, str]) -> None:
    """Print one line of (text, style) parts."""
    if sys.stdout.isatty():
        line = Text(end="")
        for text, style in parts:
            line.append(text, style)
        console().print(line)
    else:
        sys.stdout.write("".join(text for text, _ in parts) + "\n")
    sys.stdout.flush()


def print_json(value: Mapping[str, object]) -> None:
    """Print one JSON object on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def notice(text: str) -> None:
    """Tell the person at the terminal something that is no output: it goes to standard error."""
    sys.stderr.write(f"antiphon: {text}\n")
    sys.stderr.flush()

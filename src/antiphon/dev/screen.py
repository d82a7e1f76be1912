"""What `antiphon dev` prints: one line per event, with its time and its source in front."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Final, TextIO

__all__ = ["Screen"]

RESET: Final = "\x1b[0m"
STYLES: Final = {
    "bold": "\x1b[1m",
    "dim": "\x1b[2m",
    "red": "\x1b[31m",
    "green": "\x1b[32m",
    "yellow": "\x1b[33m",
}
REPLICA_STYLES: Final = ("\x1b[36m", "\x1b[32m", "\x1b[35m", "\x1b[33m", "\x1b[34m")
SOURCE_STYLES: Final = {"broker": "\x1b[31m", "dev": "\x1b[1m"}


class Screen:
    """Writes lines to a terminal in colour, elsewhere as plain text. A terminal that is gone is no error."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stdout
        self._lost = False
        self.colors = (
            self._stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM", "dumb") != "dumb"
        )

    def say(self, text: str) -> None:
        """A line of the command itself."""
        self.line("dev", text)

    def line(self, source: str, text: str) -> None:
        """One line of `source`: `dev`, `broker` or the number of a replica."""
        clock = self.styled(time.strftime("%H:%M:%S"), "dim")
        label = f"[{source}]"
        if self.colors:
            style = SOURCE_STYLES.get(source)
            if style is None:
                style = REPLICA_STYLES[(int(source) - 1) % len(REPLICA_STYLES)]
            label = f"{style}{label}{RESET}"
        self.write(f"{clock} {label} {text}\n")

    def block(self, lines: Iterable[str]) -> None:
        """Several lines as they are, with an empty one before and after."""
        self.write("\n" + "".join(f"{line}\n" for line in lines) + "\n")

    def styled(self, text: str, style: str) -> str:
        """`text` in that style where there are colours."""
        return f"{STYLES[style]}{text}{RESET}" if self.colors else text

    def write(self, text: str) -> None:
        """Everything goes through here: what the stream cannot encode is replaced, not raised."""
        if self._lost:
            return
        encoding = self._stream.encoding or "utf-8"
        try:
            self._stream.write(text.encode(encoding, "replace").decode(encoding))
            self._stream.flush()
        except OSError:  # the terminal was closed, or the reader of a pipe went away
            self._lost = True

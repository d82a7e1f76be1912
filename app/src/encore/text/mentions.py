"""Whom a text mentions: `@name`, and `@everyone`."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = ["EVERYONE", "MAX_MENTIONS", "Piece", "find_mentions", "mentions_everyone", "pieces"]

MAX_MENTIONS = 20
"""Of different people in one text; those behind are no mentions."""
EVERYONE = "everyone"
NAME_CHARACTERS = range(3, 33)
LINK_CHARACTERS = 2_000

# Neither part gives back what it took, so that a text costs what its length says.
_MARKED = re.compile(
    r"(?<![A-Za-z0-9])(?P<link>[hH][tT]{2}[pP][sS]?://[^\s<>\"'`]++)|(?<![\w@/+%-])@(?P<name>[A-Za-z0-9_.-]++)(?![\w@])"
)
_TICKS = re.compile("`+")


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text: as it is written, and for a mention the name in lower case."""

    kind: Literal["text", "link", "mention"]
    text: str
    name: str = ""


def pieces(text: str) -> Iterator[Piece]:
    """The text in parts, which joined are the text again. Knows nothing of code: give it what is none."""
    end = 0
    for found in _MARKED.finditer(text):
        piece = _mention(found["name"]) if found["link"] is None else _link(found["link"])
        if piece is None:
            continue
        if found.start() > end:
            yield Piece("text", text[end : found.start()])
        yield piece
        end = found.start() + len(piece.text)
    if end < len(text):
        yield Piece("text", text[end:])


def find_mentions(text: str) -> list[str]:
    """The usernames that a plain text mentions, in lower case and in order, each once; at most 20.

    What is within a word, an e-mail address, an address of the web or `code` is no mention, and @everyone is nobody's
    name. For Markdown ask `encore.text.markdown.find_mentions`, which knows the syntax.
    """
    return list(dict.fromkeys(name for name in _names(text) if name != EVERYONE))[:MAX_MENTIONS]


def mentions_everyone(text: str) -> bool:
    """Whether a plain text mentions @everyone."""
    return EVERYONE in _names(text)


def _names(text: str) -> list[str]:
    if "@" not in text:
        return []
    return [piece.name for piece in pieces(_without_code(text)) if piece.kind == "mention"]


def _mention(name: str) -> Piece | None:
    name = name.rstrip(".")
    return Piece("mention", f"@{name}", name.lower()) if len(name) in NAME_CHARACTERS else None


def _link(address: str) -> Piece | None:
    """The address without the punctuation of the sentence around it."""
    if len(address) > LINK_CHARACTERS:
        return None
    while address[-1] in ".,;:!?*_~]" or (address[-1] == ")" and address.count(")") > address.count("(")):
        address = address[:-1]
    return None if address.endswith("/") and address.count("/") == 2 else Piece("link", address)


def _without_code(text: str) -> str:
    """The text with a backtick in place of all that stands between two equal runs of backticks."""
    runs = list(_TICKS.finditer(text))
    if len(runs) < 2:
        return text
    places: defaultdict[int, list[int]] = defaultdict(list)
    for number, run in enumerate(runs):
        places[len(run[0])].append(number)
    kept, end, number = [], 0, 0
    while number < len(runs):
        same = places[len(runs[number][0])]
        behind = bisect_right(same, number)
        if behind == len(same):
            number += 1
            continue
        kept.append(text[end : runs[number].start()])
        end = runs[same[behind]].end()
        number = same[behind] + 1
    return "`".join([*kept, text[end:]])

"""Whom a plain text mentions."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encore.text.mentions import MAX_MENTIONS, find_mentions, mentions_everyone, pieces


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@ann", ["ann"]),
        ("hi @Ann, and @BEN!", ["ann", "ben"]),
        ("@ann @ben @Ann", ["ann", "ben"]),
        ("(@ann) “@ben” [@kim] cc:@tom", ["ann", "ben", "kim", "tom"]),
        ("@a.b-c_d", ["a.b-c_d"]),
        ("did you see it, @ann.", ["ann"]),
        ("@ann...", ["ann"]),
        ("@ann.smith.", ["ann.smith"]),
        ("@al", []),
        ("@a..", []),
        ("@" + "x" * 32, ["x" * 32]),
        ("@" + "x" * 33, []),
        ("ann@example.org", []),
        ("ann+x@example.org", []),
        ("@ann@example.org", []),
        ("@annö", []),
        ("ö@ann", []),
        ("https://example.org/@ann?x=@ben and @kim", ["kim"]),
        ("HTTP://example.org/?@ann", []),
        ("`@ann` @ben", ["ben"]),
        ("``@ann ` @ben`` @kim", ["kim"]),
        ("```\n@ann\n``` @ben", ["ben"]),
        ("` @ann", ["ann"]),
        ("`` @ann `", ["ann"]),
        ("@everyone", []),
        ("@ @@ann @", []),
        ("", []),
    ],
)
def test_names_are_found_when_they_stand_alone(text: str, names: list[str]) -> None:
    assert find_mentions(text) == names


def test_only_some_names_count_when_there_are_too_many() -> None:
    text = " ".join(f"@name{number}" for number in range(100))
    assert find_mentions(text) == [f"name{number}" for number in range(MAX_MENTIONS)]


@pytest.mark.parametrize(
    ("text", "does"),
    [
        ("@everyone!", True),
        ("hello @Everyone", True),
        ("@everyone.", True),
        ("@everyones", False),
        ("me@everyone", False),
        ("`@everyone`", False),
        (" ".join(f"@name{number}" for number in range(100)) + " @everyone", True),
        ("everyone", False),
    ],
)
def test_everyone_is_meant_when_the_name_stands_alone(text: str, does: bool) -> None:
    assert mentions_everyone(text) is does


@given(st.text(alphabet="@ab.-_ `\n/:htps()é"))
def test_the_pieces_are_the_text_when_they_are_joined(text: str) -> None:
    assert "".join(piece.text for piece in pieces(text)) == text
    assert all(3 <= len(name) <= 32 for name in find_mentions(text))


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("see https://example.org/a_(b), please", "https://example.org/a_(b)"),
        ("(https://example.org/a)", "https://example.org/a"),
        ("https://example.org/a?b=c&d=e#f.", "https://example.org/a?b=c&d=e#f"),
    ],
)
def test_an_address_ends_before_the_punctuation_when_a_sentence_has_it(text: str, address: str) -> None:
    assert [piece.text for piece in pieces(text) if piece.kind == "link"] == [address]


@pytest.mark.parametrize(
    "text",
    [
        "@" * 50_000,
        "@a" * 25_000,
        "@a" + "." * 50_000,
        "`" * 50_000,
        "` `` " * 10_000,
        "https://" * 6_000,
        "@ann`" * 9_000,
    ],
)
def test_the_time_is_short_when_the_text_is_hostile(text: str) -> None:
    began = time.process_time()
    find_mentions(text)
    mentions_everyone(text)
    assert time.process_time() - began < 1.5

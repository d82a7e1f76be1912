"""Types for what people write, in JSON bodies and in forms alike.

`Line` and `Prose` are ready to use; other limits go by `Annotated[str, line(max_length=80)]`. Every one of them strips
the text, and refuses what no database or page should have to cope with: an answer 422 names what is wrong.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Annotated

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

__all__ = ["Line", "Name", "Prose", "line", "name", "prose"]

LINE_CHARACTERS = 200
NAME_CHARACTERS = 80
PROSE_CHARACTERS = 5_000

_LINE_ENDS = re.compile("\r\n?|\u2028|\u2029")
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""All but tab and newline, which a `line` refuses too."""
_BREAKS = re.compile("[\t\n\u2028\u2029]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_BIDI = re.compile("[\u202a-\u202e\u2066-\u2069]")
"""They turn round the text that a page shows after them, which is somebody else's."""
_INVISIBLE = re.compile("[\u00ad\u061c\u115f\u1160\u180e\u200b\u200e\u200f\u2060-\u2064\u2800\u3164\ufeff\uffa0]")
"""With these two names look the same and are not. Joiners are not among them: emoji and Persian need them."""
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Letters, by their category, that show nothing."""


@dataclass(frozen=True, slots=True)
class _Text:
    """The rule for one kind of text, as pydantic asks for it."""

    max_length: int
    several_lines: bool = False
    is_name: bool = False
    may_be_empty: bool = False

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        text = core_schema.str_schema(max_length=self.max_length)
        return core_schema.no_info_before_validator_function(self._cleaned, text)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        described = handler(schema)
        if not self.may_be_empty:
            described.update(minLength=1, pattern=r"\S")
        return described

    def _cleaned(self, value: object) -> object:
        if not isinstance(value, str):
            return value
        if _SURROGATES.search(value):
            raise PydanticCustomError("text_surrogate", "The text is no valid Unicode: it holds half a character")
        text = _LINE_ENDS.sub("\n", value) if self.several_lines else value
        text = text.strip()
        if _CONTROLS.search(text):
            raise PydanticCustomError("text_control", "The text must hold no control characters")
        if not self.several_lines:
            self._check_line(text)
        if not self.may_be_empty and not _shows_something(text):
            raise PydanticCustomError("text_empty", "The text must not be empty")
        return text

    def _check_line(self, text: str) -> None:
        if _BREAKS.search(text):
            raise PydanticCustomError("text_lines", "The text must be one line, without tabs")
        if _BIDI.search(text):
            raise PydanticCustomError("text_direction", "The text must not turn round the direction of writing")
        if self.is_name and _INVISIBLE.search(text):
            raise PydanticCustomError("text_invisible", "A name must hold no invisible characters")


def line(*, max_length: int = LINE_CHARACTERS, may_be_empty: bool = False) -> _Text:
    """One line, as a title: for `Annotated[str, line(max_length=80)]`."""
    return _Text(max_length, may_be_empty=may_be_empty)


def name(*, max_length: int = NAME_CHARACTERS, may_be_empty: bool = False) -> _Text:
    """One line that stands for somebody or something: no invisible characters either."""
    return _Text(max_length, is_name=True, may_be_empty=may_be_empty)


def prose(*, max_length: int = PROSE_CHARACTERS, may_be_empty: bool = False) -> _Text:
    """Several lines, ended by "\\n" however they came."""
    return _Text(max_length, several_lines=True, may_be_empty=may_be_empty)


Line = Annotated[str, line()]
"""One line of 1 to 200 characters."""
Name = Annotated[str, name()]
"""A name of 1 to 80 characters."""
Prose = Annotated[str, prose()]
"""Several lines, of 1 to 5,000 characters together."""


def _shows_something(text: str) -> bool:
    return any(
        not character.isspace() and character not in _BLANKS and unicodedata.category(character) != "Cf"
        for character in text
    )

"""Which texts are taken, in JSON and in forms."""

from __future__ import annotations

from typing import Annotated

import pytest
from fastapi import FastAPI, Form
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.testclient import TestClient

from encore.text.fields import Line, Name, Prose, line, prose

LINE: TypeAdapter[str] = TypeAdapter(Line)
NAME: TypeAdapter[str] = TypeAdapter(Name)
PROSE: TypeAdapter[str] = TypeAdapter(Prose)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("  two words ", "two words"),
        ("\n a title \r\n", "a title"),
        ("שלום عليكم 你好 👩‍👩‍👧", "שלום عليكم 你好 👩‍👩‍👧"),
        ("x" * 200, "x" * 200),
        (" " * 300 + "x", "x"),
    ],
)
def test_a_line_is_stripped_when_it_is_taken(given: str, taken: str) -> None:
    assert LINE.validate_python(given) == taken


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "text_empty"),
        ("  \u200b\u3164 ", "text_empty"),
        ("x" * 201, "string_too_long"),
        ("a\nb", "text_lines"),
        ("a\tb", "text_lines"),
        ("a\u2028b", "text_lines"),
        ("a\0b", "text_control"),
        ("a\x1b[31mb", "text_control"),
        ("a\x85b", "text_control"),
        ("a\x7fb", "text_control"),
        ("a\ud800b", "text_surrogate"),
        ("abc\u202egnp.exe", "text_direction"),
        ("a\u2066b", "text_direction"),
        (7, "string_type"),
        (None, "string_type"),
        (b"bytes\xff", "string_unicode"),
    ],
)
def test_a_line_is_refused_when_it_would_break_something(text: object, error: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LINE.validate_python(text)
    assert refused.value.errors()[0]["type"] == error


@pytest.mark.parametrize("text", ["a\u200bnn", "ann\ufeff", "an\u00adn", "\u2060ann"])
def test_a_name_is_refused_when_it_hides_characters(text: str) -> None:
    assert LINE.validate_python(text)
    with pytest.raises(ValidationError, match="invisible"):
        NAME.validate_python(text)


def test_prose_has_plain_line_ends_when_it_came_from_a_form() -> None:
    assert PROSE.validate_python(" one\r\ntwo\rthree\u2029\tfour\n\n") == "one\ntwo\nthree\n\tfour"


@pytest.mark.parametrize("text", ["", " \r\n ", "a\0b", "\ud83d", "x" * 5001])
def test_prose_is_refused_when_it_is_empty_broken_or_too_long(text: str) -> None:
    with pytest.raises(ValidationError):
        PROSE.validate_python(text)


@given(st.text())
def test_what_was_taken_is_taken_again_unchanged(text: str) -> None:
    for kind in (LINE, NAME, PROSE):
        try:
            taken = kind.validate_python(text)
        except ValidationError:
            continue
        assert kind.validate_python(taken) == taken
        taken.encode()
        assert "\0" not in taken


class _Body(BaseModel):
    title: Annotated[str, line(max_length=10)]
    note: Annotated[str, prose(max_length=20, may_be_empty=True)] = ""


def _application() -> FastAPI:
    application = FastAPI()

    @application.post("/form")
    def take_form(content: Annotated[Prose, Form()], title: Annotated[str, line(max_length=5), Form()]) -> list[str]:
        return [content, title]

    @application.post("/json")
    def take_json(body: _Body) -> list[str]:
        return [body.title, body.note]

    return application


def test_the_types_hold_in_forms_and_json_when_a_route_names_them() -> None:
    with TestClient(_application()) as client:
        assert client.post("/form", data={"content": " a\r\nb ", "title": " t "}).json() == ["a\nb", "t"]
        assert client.post("/form", data={"content": "a", "title": "longer"}).status_code == 422
        assert client.post("/form", data={"content": "a\0", "title": "t"}).status_code == 422
        assert client.post("/json", json={"title": " t ", "note": " "}).json() == ["t", ""]
        assert client.post("/json", json={"title": "elevenletters"}).status_code == 422


def test_the_schema_tells_the_limits_when_it_is_made() -> None:
    properties = _Body.model_json_schema()["properties"]
    assert properties["title"] == {
        "maxLength": 10,
        "minLength": 1,
        "pattern": r"\S",
        "title": "Title",
        "type": "string",
    }
    assert properties["note"]["maxLength"] == 20
    assert "minLength" not in properties["note"]

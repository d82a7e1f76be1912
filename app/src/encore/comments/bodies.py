"""The body of an edit, which earlier clients send as a form and newer ones as JSON."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from encore.comments.schemas import Edited

__all__ = ["EDITED_BODY", "EditedBody"]

_SCHEMA = Edited.model_json_schema()
EDITED_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {kind: {"schema": _SCHEMA} for kind in ("application/json", "application/x-www-form-urlencoded")},
    }
}
"""For `openapi_extra`: a dependency that reads the request does not describe itself."""


async def _edited(request: Request) -> Edited:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind in ("application/x-www-form-urlencoded", "multipart/form-data"):
        async with request.form(max_files=0, max_fields=10) as form:
            body: object = {"content": form.get("content")}
    else:
        try:
            body = await request.json()
        except (ValueError, RecursionError) as error:  # the latter: thousands of lists in one another
            problem = {"type": "json_invalid", "loc": ("body",), "msg": "The body is no JSON", "input": None}
            raise RequestValidationError([problem]) from error
    try:
        return Edited.model_validate(body)
    except ValidationError as error:
        problems = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
        raise RequestValidationError(problems) from error


EditedBody = Annotated[Edited, Depends(_edited)]

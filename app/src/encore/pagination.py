"""Pages by key: the next one begins behind the last item of this one, so that page 1,000 costs what page 1 does."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from encore.errors import BadRequest

__all__ = ["Cursor", "Limit", "Page", "cut", "read_cursor", "write_cursor"]

Item = TypeVar("Item")
Row = TypeVar("Row")
Key = list[int | float | str]

Limit = Annotated[int, Query(ge=1, le=100, description="Items on a page")]
Cursor = Annotated[
    str | None, Query(max_length=500, description="`next_cursor` of the page before; without it the first page")
]


class Page(BaseModel, Generic[Item]):
    """Some items, and how to ask for those behind them."""

    items: list[Item]
    next_cursor: str | None = Field(default=None, description="Null on the last page")


def write_cursor(key: Sequence[int | float | str]) -> str:
    """The key of an item as a text for the address: opaque to clients, no secret."""
    return base64.urlsafe_b64encode(json.dumps(list(key)).encode()).decode().rstrip("=")


def read_cursor(cursor: str | None, *types: type) -> Key | None:
    """The key in a cursor, or None without one. Raises BadRequest unless its parts have these types."""
    if cursor is None:
        return None
    try:
        key = json.loads(base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error, RecursionError):
        key = None
    fits = isinstance(key, list) and len(key) == len(types)
    if not fits or any(type(part) is not wanted for part, wanted in zip(key, types, strict=True)):
        raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor")
    if not all(map(_fits_a_column, key)):
        raise BadRequest("cursor= is not one of ours: take next_cursor of the page before", code="bad_cursor")
    assert isinstance(key, list)
    return key


def _fits_a_column(part: int | float | str) -> bool:
    """Whether a database takes it: the cursor may be made by anybody."""
    if isinstance(part, str):
        return part.isprintable()
    return abs(part) < 2**63 if isinstance(part, int) else math.isfinite(part)


def cut(
    rows: Sequence[Row], *, limit: int, key: Callable[[Row], Sequence[int | float | str]]
) -> tuple[Sequence[Row], str | None]:
    """Of `limit + 1` rows that were asked for: the page, and the cursor behind it if there is more."""
    if len(rows) <= limit:
        return rows, None
    return rows[:limit], write_cursor(key(rows[limit - 1]))

"""What counts as a JSON value here, in plain Python: the reference that both JSON back ends obey.

It runs only where the fast way refuses or cannot tell, and for everything when orjson is not installed.
"""

from __future__ import annotations

import json
import math
import re
from enum import Enum
from types import NoneType
from typing import Any, NoReturn, TypeAlias
from uuid import UUID

from antiphon.errors import EnvelopeError, MessageNotSerializable

__all__ = ["MAX_DEPTH", "JSONValue", "dumps", "parse", "plain", "sound"]

MAX_DEPTH = 128
"""Containers within containers; what is nested deeper is refused."""

JSONValue: TypeAlias = "bool | int | float | str | list[JSONValue] | dict[str, JSONValue] | None"

_LEAVES = frozenset((str, int, bool, NoneType))
_BOXES = frozenset((dict, list, tuple))

_SHOWN_STEPS = 8
_SHOWN_CHARACTERS = 60

_escapes = re.compile(r"\\(?:u[dD][89abAB]..\\u[dD][c-fC-F]..|(u[dD][89a-fA-F]..)|.)")
"""Every escape of a JSON text; a surrogate that has no partner is in the group."""
_may_overflow = re.compile(r"[0-9]{100}|[eE]\+?[0-9]{3}")
"""What a number must look like to be too large for a double."""


def plain(message: object, *, levels: int = MAX_DEPTH) -> JSONValue:
    """Return `message` in exact JSON types. Raises MessageNotSerializable, naming the first part that is none.

    An `Enum` stands for its value and a `UUID` for its text; subclasses of `str`, `int`, `float`, `list`, `tuple` and
    `dict` stand for what they hold.
    """
    trail: list[str | int] = []
    try:
        return _plain(message, trail, levels)
    except RecursionError:
        _refuse(trail, "is nested too deep for the stack of the caller: flatten it")


def _plain(value: object, trail: list[str | int], levels: int) -> JSONValue:
    if value is None or value is True or value is False:
        return value
    if isinstance(value, Enum):
        return _plain(value.value, trail, levels)
    if isinstance(value, str):
        return _text(value, trail, what="")
    if isinstance(value, int):
        return _integer(value, trail)
    if isinstance(value, float):
        if not math.isfinite(value):
            _refuse(trail, f"is {float(value)}: JSON has no NaN and no infinity; send None or a str")
        return float.__float__(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (dict, list, tuple)):
        if levels == 0:
            _refuse(trail, f"is nested deeper than {MAX_DEPTH} levels, or contains itself: flatten it")
        return _dict(value, trail, levels - 1) if isinstance(value, dict) else _list(value, trail, levels - 1)
    _refuse(trail, f"is {_kind(value)}: {_remedy(value)}")


def _dict(value: dict[object, object], trail: list[str | int], levels: int) -> JSONValue:
    result: dict[str, JSONValue] = {}
    for key, item in dict.items(value):
        if not isinstance(key, str):
            _refuse(trail, f"has the key {_short(key)}, which is {_kind(key)}: keys must be str, use str(key)")
        exact = _text(key, trail, what="has a key that ")
        trail.append(exact)
        result[exact] = _plain(item, trail, levels)
        trail.pop()
    return result


def _list(value: list[object] | tuple[object, ...], trail: list[str | int], levels: int) -> JSONValue:
    result: list[JSONValue] = []
    for index, item in enumerate(value):
        trail.append(index)
        result.append(_plain(item, trail, levels))
        trail.pop()
    return result


def _text(value: str, trail: list[str | int], *, what: str) -> str:
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            _refuse(trail, f"{what or 'is a str that '}holds a lone surrogate, which is no valid text: clean it with "
                           "value.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')")  # fmt: skip
    return str.__str__(value)


def _integer(value: int, trail: list[str | int]) -> int:
    exact = int.__index__(value)
    try:
        float(exact)
    except OverflowError:
        _refuse(trail, "is an int too large for any client: send str(value)")
    return exact


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[:1] in 'aeioAEIO' else 'a'} {name}"


def _remedy(value: object) -> str:
    if hasattr(value, "model_dump"):
        return "call model_dump(mode='json')"
    if hasattr(value, "isoformat"):
        return "call isoformat()"
    if hasattr(value, "__dataclass_fields__"):
        return "call dataclasses.asdict(value)"
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "decode it to str, as text or as base64"
    if isinstance(value, (set, frozenset)):
        return "use sorted(value) or list(value)"
    if hasattr(value, "tolist"):
        return "call tolist()"
    if type(value).__name__ == "Decimal":
        return "use str(value)"
    return "use str(value), or a dict, list, str, int, float, bool or None made from it"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _refuse(trail: list[str | int], why: str) -> NoReturn:
    steps = "".join(f"[{_short(step)}]" for step in trail[:_SHOWN_STEPS])
    raise MessageNotSerializable(f"message{steps}{'[…]' if len(trail) > _SHOWN_STEPS else ''} {why}")


def dumps(value: JSONValue) -> bytes:
    """Encode what `plain` returned."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def sound(value: object, *, levels: int = MAX_DEPTH) -> bool:
    """Whether all floats are finite and nothing is nested too deep. Cheaper than `plain`; False when unsure."""
    layer: list[Any] = [(value,)]
    for _ in range(levels + 1):
        inner: list[Any] = []
        for box in layer:
            for item in box.values() if type(box) is dict else box:
                kind = type(item)
                if kind in _LEAVES:
                    continue
                if kind in _BOXES:
                    inner.append(item)
                elif kind is not float or item - item != 0.0:  # NaN and infinities minus themselves are NaN
                    return False
        if not inner:
            return True
        layer = inner
    return False


def parse(payload: bytes, *, levels: int = MAX_DEPTH) -> JSONValue:
    """Decode strict UTF-8 JSON. Raises EnvelopeError for anything else, and for what is nested too deep."""
    try:
        text = payload.decode()
        hooks = {"parse_float": _finite, "parse_int": _bounded} if _may_overflow.search(text) else {}
        value: JSONValue = json.loads(text, parse_constant=_finite, **hooks)  # type: ignore[arg-type]  # one type for all
    except RecursionError as error:
        raise EnvelopeError(f"the JSON is nested deeper than {levels} levels") from error
    except ValueError as error:
        raise EnvelopeError(f"not JSON in UTF-8: {error}") from error
    if "\\u" in text and any(found[1] for found in _escapes.finditer(text)):
        raise EnvelopeError("the JSON holds a lone surrogate, which is no valid text")
    if not sound(value, levels=levels):
        raise EnvelopeError(f"the JSON is nested deeper than {levels} levels")
    return value


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _bounded(digits: str) -> int:
    _finite(digits)
    return int(digits)

"""Values for property tests, and copies of the wire modules that run without orjson."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum, IntEnum
from types import ModuleType
from unittest.mock import patch
from uuid import UUID

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

import antiphon.wire

modest = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
"""Few enough examples for a quick suite, the same ones everywhere, and no limit of time."""


class Colour(str, Enum):
    RED = "red"


class Level(IntEnum):
    HIGH = 3


class Shape(Enum):
    POINT = (0, 0.5)


class Odd(str):
    __slots__ = ()


json_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
json_values = st.recursive(
    json_leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
"""What JSON can carry."""

json_objects = st.dictionaries(st.text(max_size=5), json_values, max_size=4)

_any_leaves = json_leaves | st.sampled_from(
    [
        float("nan"),
        float("inf"),
        "\ud800",
        "null",
        10**308,
        10**309,
        -(2**64),
        Colour.RED,
        Level.HIGH,
        Shape.POINT,
        Odd("x"),
        UUID(int=7),
        b"x",
        Decimal(1),
        datetime(2026, 1, 1, tzinfo=UTC),
        {1},
        object,
    ]
)
_any_keys = st.text(max_size=5) | st.sampled_from([1, None, Colour.RED, Odd("k"), "\udfff", (1, 2)])
any_values = st.recursive(
    _any_leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(_any_keys, inner, max_size=4)
    ),
    max_leaves=12,
)
"""What an application may try to send."""


def nested(levels: int) -> list[object]:
    """A list in a list, `levels` deep."""
    value: list[object] = []
    for _ in range(levels - 1):
        value = [value]
    return value


def outcome(function: Callable[[bytes], object], data: bytes) -> str:
    """What `function` makes of `data`, for comparison: the result, or the class of the exception."""
    try:
        return repr(function(data))
    except Exception as error:
        return type(error).__name__


def _copy_without_orjson(name: str) -> ModuleType:
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with patch.dict(sys.modules, {"orjson": None, name: module}):
        spec.loader.exec_module(module)
    return module


pure_codec = _copy_without_orjson("antiphon.wire.codec")
with patch.object(antiphon.wire, "codec", pure_codec, create=True):
    pure_envelope = _copy_without_orjson("antiphon.wire.envelope")

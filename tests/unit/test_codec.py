from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from types import ModuleType
from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon.errors import EnvelopeError, MessageError, MessageNotSerializable
from antiphon.wire import codec, strict
from tests.unit.json_values import (
    Colour,
    Level,
    Odd,
    Shape,
    any_values,
    json_values,
    modest,
    nested,
    outcome,
    pure_codec,
)

BACK_ENDS = [pytest.param(codec, id="installed"), pytest.param(pure_codec, id="pure")]


@dataclass
class Point:
    x: int


class Model:
    def model_dump(self) -> dict[str, object]:
        return {}


class Array:
    def tolist(self) -> list[object]:
        return []


def encoded(back_end: ModuleType, message: object) -> tuple[str, object]:
    """The decoded result, with types and signs that `==` would not tell apart; or the refusal's text."""
    try:
        return "taken", repr(json.loads(back_end.encode(message)))
    except MessageNotSerializable as error:
        return "refused", str(error)


def taken(function: Callable[[bytes], object], payload: bytes) -> bool:
    try:
        function(payload)
    except EnvelopeError:
        return False
    return True


def test_copy_runs_without_orjson_when_it_is_hidden() -> None:
    assert pure_codec.FAST is False


@given(any_values)
@example([float("nan"), None])
@example({"a": [1, {"b": float("-inf")}]})
@example(nested(128))
@example(nested(129))
@example([{"text": "[" * 300}])
@example({"deep": nested(200), "bad": b"x"})
@modest
def test_back_ends_agree_when_anything_is_encoded(message: object) -> None:
    assert encoded(codec, message) == encoded(pure_codec, message)


@given(json_values)
@modest
def test_value_comes_back_when_encoded_and_decoded(value: object) -> None:
    for back_end in (codec, pure_codec):
        payload = back_end.encode(value)
        assert repr(codec.decode(payload)) == repr(value)
        assert repr(pure_codec.decode(payload)) == repr(value)


@given(json_values, st.data())
@modest
def test_back_ends_agree_when_json_is_damaged(value: object, data: st.DataObject) -> None:
    payload = json.dumps(value, ensure_ascii=data.draw(st.booleans())).encode()
    start = data.draw(st.integers(0, len(payload)))
    length = data.draw(st.integers(0, 3))
    splice = data.draw(
        st.sampled_from([b"", b"0", b"-", b".", b"e9", b'"', b"\\", b"\\ud800", b"\\u00e9", b"\xff", b" ", b"}"])
    )
    damaged = payload[:start] + splice + payload[start + length :]
    assert outcome(codec.decode, damaged) == outcome(pure_codec.decode, damaged)


NUMBER = r"-?[0-9]{1,24}(\.[0-9]{1,24})?([eE][+-]?[0-9]{1,4})?"


@given(st.from_regex(NUMBER, fullmatch=True))
@example("1e400")
@example("-1e400")
@example("1" + "0" * 308)
@example("9" * 309)
@example("9" * 5000)
@example("9" * 250 + "e99")
@example("1" + "0" * 310 + "e-310")
@example("18446744073709551616")
@example("-9223372036854775809")
@example("0e99999")
@example("1e00000400")
@example("12345678901234567890.5")
@modest
def test_back_ends_agree_when_a_number_is_decoded(number: str) -> None:
    payload = f"[{number}]".encode()
    assert outcome(codec.decode, payload) == outcome(pure_codec.decode, payload)
    assert taken(codec.parse, payload) == taken(pure_codec.parse, payload) == taken(codec.decode, payload)


@given(st.binary(max_size=12) | st.text(alphabet='[]{}",:\\u dD8c0e-.1nultrfase\ufeff', max_size=16).map(str.encode))
@modest
def test_back_ends_agree_when_bytes_are_arbitrary(payload: bytes) -> None:
    assert outcome(codec.decode, payload) == outcome(pure_codec.decode, payload)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b" ",
        b"NaN",
        b"[Infinity]",
        b"-Infinity",
        b"\xef\xbb\xbf1",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"\\ud800"',
        b'"\\udc00\\ud800"',
        b'{"\\ud83d":1}',
        b'{"a":"\\ud800","a":1}',
        b"1e400",
        b"9" * 309,
        b"9" * 5_000,
        b"9" * 250 + b"e99",
        b"1 2",
        b"[1,]",
        b"'a'",
        b'"\x01"',
        b"[" * 129 + b"]" * 129,
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
    ],
)
def test_decode_refuses_when_payload_is_no_strict_json(back_end: ModuleType, payload: bytes) -> None:
    with pytest.raises(EnvelopeError):
        back_end.decode(payload)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_decode_keeps_every_digit_when_an_integer_is_beyond_64_bits(back_end: ModuleType) -> None:
    assert back_end.decode(b"[18446744073709551616]") == [2**64]


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_decode_takes_text_when_escapes_are_whole(back_end: ModuleType) -> None:
    payload = b'["\\ud83d\\ude00", "\\\\ud800", "\\\\\\u00e9"]'
    assert back_end.decode(payload) == ["😀", "\\ud800", "\\é"]


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    ("message", "words"),
    [
        ({"a": [1, 2, datetime(2026, 1, 1, tzinfo=UTC)]}, "message['a'][2] is a datetime: call isoformat()"),
        (date(2026, 1, 1), "message is a date: call isoformat()"),
        ([Decimal(1)], "message[0] is a Decimal: use str(value)"),
        ({"p": Point(1)}, "message['p'] is a Point: call dataclasses.asdict(value)"),
        ({"p": Model()}, "message['p'] is a Model: call model_dump(mode='json')"),
        ({"p": Array()}, "message['p'] is an Array: call tolist()"),
        ({"p": {1, 2}}, "message['p'] is a set: use sorted(value) or list(value)"),
        ({"p": b"x"}, "message['p'] is a bytes: decode it to str"),
        ({"p": object()}, "message['p'] is an object: use str(value), or a dict"),
        ({"p": float("nan")}, "message['p'] is nan: JSON has no NaN"),
        ([None, [float("-inf")]], "message[1][0] is -inf: JSON has no NaN"),
        ({"p": {1: 2}}, "message['p'] has the key 1, which is an int: keys must be str, use str(key)"),
        ({None: 2}, "message has the key None, which is a NoneType: keys must be str"),
        ({"p": "\ud800"}, "message['p'] is a str that holds a lone surrogate"),
        ({"p": {"\ud800": 1}}, "message['p'] has a key that holds a lone surrogate"),
        ([10**400], "message[0] is an int too large for any client: send str(value)"),
        (nested(129), "message[0][0][0][0][0][0][0][0][…] is nested deeper than 128 levels"),
        ({"x" * 500: b""}, "message['" + "x" * 58 + "…] is a bytes"),
    ],
)
def test_encode_names_the_place_and_the_remedy_when_it_refuses(
    back_end: ModuleType, message: object, words: str
) -> None:
    with pytest.raises(MessageNotSerializable) as caught:
        back_end.encode(message)
    assert words in str(caught.value)
    assert isinstance(caught.value, (TypeError, MessageError))


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_encode_refuses_when_a_message_contains_itself(back_end: ModuleType) -> None:
    messages: list[object] = []
    messages.append({"again": messages})
    with pytest.raises(MessageNotSerializable, match="contains itself"):
        back_end.encode(messages)


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_encode_refuses_with_its_own_error_when_the_stack_is_nearly_full(back_end: ModuleType) -> None:
    def fill(frames: int) -> object:
        if frames:
            return fill(frames - 1)
        with pytest.raises(MessageNotSerializable):
            back_end.encode([*nested(100), object()])
        return "refused"

    depth = 0
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        depth += 1
    assert fill(sys.getrecursionlimit() - depth - 90) == "refused"


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize(
    ("message", "value"),
    [
        ((1, (2,)), [1, [2]]),
        (Colour.RED, "red"),
        ({Colour.RED: Level.HIGH}, {"red": 3}),
        (Shape.POINT, [0, 0.5]),
        ([Odd("x"), True, None], ["x", True, None]),
        ({"id": UUID(int=7)}, {"id": "00000000-0000-0000-0000-000000000007"}),
        ([2**70, -(2**64)], [2**70, -(2**64)]),
        (nested(128), nested(128)),
        ({"a": [None, 1.5, UUID(int=1)]}, {"a": [None, 1.5, "00000000-0000-0000-0000-000000000001"]}),
        ("null", "null"),
    ],
)
def test_encode_takes_a_value_when_it_stands_for_json(back_end: ModuleType, message: object, value: object) -> None:
    assert codec.decode(back_end.encode(message)) == value


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_encode_writes_compact_text_when_it_is_not_ascii(back_end: ModuleType) -> None:
    assert back_end.encode({"a": ["ü", 1, None]}) == '{"a":["ü",1,null]}'.encode()


def test_sound_is_sure_when_a_value_is_plain() -> None:
    assert strict.sound({"a": [1, 2.5, None, "x", True]})
    assert strict.sound(nested(128))
    assert strict.sound(1.5)
    assert not strict.sound(nested(129))
    assert not strict.sound([[float("nan")]])
    assert not strict.sound([object()])


@pytest.mark.parametrize("payload", [b"[NaN]", b"-Infinity", b"1e999", b"9" * 250 + b"e99", b"9" * 400])
def test_refusal_names_the_number_when_it_is_not_finite(payload: bytes) -> None:
    with pytest.raises(EnvelopeError, match="not finite"):
        pure_codec.decode(payload)

from __future__ import annotations

import json
from types import ModuleType

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from antiphon.errors import AntiphonError, EnvelopeError, MessageNotSerializable, UnsupportedEnvelope
from antiphon.wire import codec, envelope
from antiphon.wire.envelope import Envelope, WhenSlow, decode, encode
from tests.unit.json_values import json_objects, json_values, modest, nested, outcome, pure_envelope

BACK_ENDS = [pytest.param(envelope, id="installed"), pytest.param(pure_envelope, id="pure")]

WHEN_SLOW: tuple[WhenSlow, ...] = ("drop", "newest")
names = st.text(max_size=8) | st.sampled_from([',"message":', '"', "\\", "ü", "}"])
name_sets = st.frozensets(names, max_size=3)
times = st.integers(0, 2**63 - 1)


@st.composite
def envelopes(draw: st.DrawFn) -> Envelope:
    is_text = draw(st.booleans())
    message = draw(names if is_text else json_values)
    return Envelope(
        id=draw(st.none() | st.text(min_size=1, max_size=200)),
        payload=codec.encode(message),
        is_text=is_text,
        sender=draw(st.none() | names),
        users=draw(st.none() | name_sets),
        exclude=draw(st.none() | name_sets),
        expires_at_ms=draw(st.none() | times),
        retry_age_ms=draw(st.none() | times),
        kind=draw(st.none() | names),
        at_ms=draw(st.none() | times),
        slow=draw(st.none() | st.sampled_from(WHEN_SLOW)),
        key=draw(st.none() | st.text(min_size=1, max_size=128)),
    )


def meaning(module: ModuleType, data: bytes) -> str:
    """What `data` means, with the message as a value: other spellings keep the value, not the bytes."""

    def read(data: bytes) -> object:
        found = module.decode(data)
        fields = [getattr(found, name) for name in Envelope.__slots__ if name != "payload"]
        sets = [sorted(field) if isinstance(field, frozenset) else field for field in fields]
        return repr(codec.decode(found.payload)), sets

    return outcome(read, data)


def meaning_slowly(data: bytes) -> str:
    """The same, without the fast path: a blank in front is not what `encode` writes."""
    return meaning(envelope, b" " + data)


@given(envelopes())
@modest
def test_envelope_comes_back_when_encoded_and_decoded(sent: Envelope) -> None:
    data = encode(sent)
    assert decode(data) == sent
    assert type(decode(data)) is Envelope
    assert data.startswith(b'{"antiphon":1')
    assert data.endswith(b',"message":' + sent.payload + b"}")
    assert json.loads(data)["antiphon"] == 1


@given(envelopes())
@modest
def test_back_ends_agree_when_an_envelope_travels(sent: Envelope) -> None:
    for data in (encode(sent), pure_envelope.encode(sent)):
        assert meaning(envelope, data) == meaning(pure_envelope, data) == meaning_slowly(data)


field_values = (
    st.none()
    | st.booleans()
    | st.sampled_from(
        [0, 1, 2, -1, 1.0, 2**63 - 1, 2**63, 2**64, "", "x", "x" * 201, "drop", [], ["a"], [1], {}, {"message": 1}]
    )
    | st.just({"a": 1, "message": {"b": ',"message":'}})
)
field_names = st.sampled_from(
    [
        "antiphon",
        "id",
        "from",
        "text",
        "users",
        "not",
        "expires",
        "retry",
        "kind",
        "at",
        "slow",
        "key",
        "message",
        "new",
    ]
)


@given(st.lists(st.tuples(field_names, field_values), max_size=6), st.booleans(), st.booleans())
@example([("message", 1), ("antiphon", 1), ("message", 2)], True, False)
@example([("x", {"a": 1, "message": 2}), ("message", 3), ("users", ["a"])], True, False)
@example([("message", {}), ("users", [])], True, False)
@modest
def test_fast_path_means_the_same_as_the_slow_one(
    fields: list[tuple[str, object]], is_envelope: bool, is_spaced: bool
) -> None:
    """Fields in any order and number, repeated ones too: whatever may follow `{"antiphon":1`."""
    if is_envelope:
        fields = [("antiphon", 1), *fields]
    separators = (", ", ": ") if is_spaced else (",", ":")
    pairs = [separators[1].join((json.dumps(name), json.dumps(value, separators=separators))) for name, value in fields]
    data = ("{" + separators[0].join(pairs) + "}").encode()
    assert meaning(envelope, data) == meaning_slowly(data) == meaning(pure_envelope, data)


@given(envelopes(), st.data())
@modest
def test_decode_raises_nothing_else_when_an_envelope_is_damaged(sent: Envelope, data: st.DataObject) -> None:
    whole = encode(sent)
    at = data.draw(st.integers(0, len(whole)))
    splice = data.draw(st.binary(max_size=3) | st.sampled_from([b",", b'"', b"}", b"{", b',"message":', b"\\", b'"}']))
    damaged = whole[:at] + splice + whole[at + data.draw(st.integers(0, 3)) :]
    assert meaning(envelope, damaged) == meaning_slowly(damaged) == meaning(pure_envelope, damaged)
    try:
        decode(damaged)
    except EnvelopeError:
        return


@given(st.binary(max_size=40) | st.binary(max_size=20).map(lambda tail: b'{"antiphon":1,' + tail))
@modest
def test_decode_raises_nothing_else_when_bytes_are_arbitrary(data: bytes) -> None:
    assert meaning(envelope, data) == meaning_slowly(data) == meaning(pure_envelope, data)
    try:
        decode(data)
    except EnvelopeError:
        return


@given(json_objects, st.sampled_from([b"", b" ", b"\n", b"\t\r\n "]))
@modest
def test_object_is_a_plain_message_when_it_has_no_version(message: dict[str, object], blanks: bytes) -> None:
    payload = codec.encode(message)
    assert decode(blanks + payload + blanks) == Envelope(id=None, payload=payload)


@pytest.mark.parametrize("module", BACK_ENDS)
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"  ",
        b"null",
        b"[]",
        b'"text"',
        b"7",
        b"{",
        b"{'a':1}",
        b'{"a":NaN}',
        b'{"a":"\xff"}',
        b'{"a":"\\ud800"}',
        b'{"antiphon":1}',
        b'{"antiphon":1,"id":"x"}',
        b'{"antiphon":1,"message":}',
        b'{"antiphon":1,"message":NaN}',
        b'{"antiphon":"1","message":1}',
        b'{"antiphon":null,"message":1}',
        b'{"antiphon":true,"message":1}',
        b'{"antiphon":1,"text":true,"message":{}}',
        b'{"antiphon":1,"id":"","message":1}',
        b'{"antiphon":1,"users":null,"message":1}',
        b'{"antiphon":1,"users":[1],"message":1}',
        b'{"antiphon":1,"users":"x","message":1}',
        b'{"antiphon":1,"expires":-1,"message":1}',
        b'{"antiphon":1,"expires":9223372036854775808,"message":1}',
        b'{"antiphon":1,"retry":1.5,"message":1}',
        b'{"antiphon":1,"at":true,"message":1}',
        b'{"antiphon":1,"at":-1,"message":1}',
        b'{"antiphon":1,"at":9223372036854775808,"message":1}',
        b'{"antiphon":1,"kind":1,"message":1}',
        b'{"antiphon":1,"slow":null,"message":1}',
        b'{"antiphon":1,"slow":["drop"],"message":1}',
        b'{"antiphon":1,"key":7,"message":1}',
        b'{"antiphon":1,"key":"","message":1}',
        b'{"antiphon":1,"key":"' + b"k" * 129 + b'","message":1}',
        b'{"antiphon":1,"from":[],"message":1}',
        b'{"antiphon":1,"text":1,"message":"x"}',
        b'{"antiphon":1,"message":' + b"[" * 129 + b"]" * 129 + b"}",
        b'{"a":' + b"[" * 128 + b"]" * 128 + b"}",
    ],
)
def test_decode_refuses_when_it_is_no_envelope_and_no_object(module: ModuleType, data: bytes) -> None:
    with pytest.raises(EnvelopeError) as caught:
        module.decode(data)
    assert not isinstance(caught.value, UnsupportedEnvelope)


@pytest.mark.parametrize("module", BACK_ENDS)
@pytest.mark.parametrize("version", [b"0", b"2", b"-1", b"1.5", b"1" + b"0" * 30])
def test_decode_says_so_when_the_major_version_is_another(module: ModuleType, version: bytes) -> None:
    with pytest.raises(UnsupportedEnvelope, match="upgrade this replica"):
        module.decode(b'{"antiphon":' + version + b',"id":7,"body":{}}')


@pytest.mark.parametrize("module", BACK_ENDS)
def test_unknown_fields_are_ignored_when_the_version_is_known(module: ModuleType) -> None:
    found = module.decode(b'{"antiphon":1,"trace":{"a":[1]},"id":"x","message":{"b": 2}}')
    assert (found.id, found.payload) == ("x", b'{"b": 2}')


@pytest.mark.parametrize("module", BACK_ENDS)
def test_a_policy_that_is_not_known_is_ignored(module: ModuleType) -> None:
    found = module.decode(b'{"antiphon":1,"slow":"compress","key":"k","message":1}')
    assert (found.slow, found.key) == (None, "k")


def test_policy_follows_the_expiry_when_encoded() -> None:
    sent = Envelope("x", b"1", expires_at_ms=5, slow="newest", key="typing:1")
    assert encode(sent) == b'{"antiphon":1,"id":"x","expires":5,"slow":"newest","key":"typing:1","message":1}'


def test_message_keeps_its_bytes_when_the_spelling_is_ours() -> None:
    assert decode(b'{"antiphon":1,"id":"x","message": {"b":1.50, "b":2} }').payload == b'{"b":1.50, "b":2}'
    assert decode(b'{"antiphon":1,"message":{"a":1.50,"message":2}}').payload == b'{"a":1.50,"message":2}'


@pytest.mark.parametrize("module", BACK_ENDS)
def test_message_keeps_its_value_when_the_spelling_is_another(module: ModuleType) -> None:
    found = module.decode(b'{ "message": {"n": 18446744073709551616}, "users": ["a", "b"], "antiphon": 1, "id": "x" }')
    assert found.payload == b'{"n":18446744073709551616}'
    assert (found.id, found.users) == ("x", {"a", "b"})


@pytest.mark.parametrize("module", BACK_ENDS)
def test_message_may_be_nested_to_the_limit_when_in_an_envelope(module: ModuleType) -> None:
    payload = codec.encode(nested(codec.MAX_DEPTH))
    assert module.decode(b'{"antiphon":1,"message":' + payload + b"}").payload == payload
    assert module.decode(b'{"message":' + payload + b',"antiphon":1}').payload == payload


def test_empty_set_of_users_is_nobody_when_it_travels() -> None:
    assert decode(encode(Envelope(id="x", payload=b"1", users=frozenset()))).users == frozenset()


def test_encode_refuses_when_a_name_is_no_valid_text() -> None:
    with pytest.raises(MessageNotSerializable, match="lone surrogate"):
        encode(Envelope(id="x", payload=b"1", users=frozenset({"\ud800"})))


def test_errors_never_show_the_message_when_it_is_malformed() -> None:
    with pytest.raises(AntiphonError) as caught:
        decode(b'{"antiphon":1,"users":["secret",1],"message":"secret"}')
    assert "secret" not in str(caught.value)
    assert "'users'" in str(caught.value)

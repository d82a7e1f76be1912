"""Signed envelopes: what passes, what does not, for how long, and that keys can be changed without loss."""

from __future__ import annotations

import hashlib
import hmac
import pickle
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import EnvelopeError, InvalidSigningKey, UnsupportedEnvelope, UntrustedEnvelope
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from antiphon.wire.signing import Signer, Verifier

OLD, NEW = "old-key-0123456789-abcdefghijklmnop", "new-key-0123456789-abcdefghijklmnop"
ROUTE = "chat/room:7"
NOW_S = 1_795_257_600.0


class Clock:
    """Wall clocks of the receiver, in the test's hand."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s

    @property
    def ms(self) -> int:
        return round(self.now_s * 1000)


def verifier(*keys: str, clock: Clock | None = None, accept_unsigned: bool = False, limit: int = 1_000) -> Verifier:
    signer = Signer(keys or (OLD,), accept_unsigned=accept_unsigned)
    return Verifier(signer, limit=limit, wall_clock=clock if clock is not None else Clock())


def message(id: str = "r1-1", *, at_ms: int = round(NOW_S * 1000), sender: str = "r1") -> Envelope:
    return Envelope(id, b'{"type":"x"}', sender=sender, at_ms=at_ms)


def refusal(verifier: Verifier, route: str, data: bytes) -> str:
    with pytest.raises(UntrustedEnvelope) as refused:
        verifier.decode(route, data)
    assert OLD not in str(refused.value)
    return refused.value.why


# -- what passes ------------------------------------------------------------------------------------------------------


def test_signed_message_is_the_message_when_it_arrives() -> None:
    full = Envelope(
        id="r1-1",
        payload=b'"t"',
        is_text=True,
        sender="r1",
        users=frozenset({"42"}),
        exclude=frozenset({"c"}),
        expires_at_ms=5,
        retry_age_ms=3,
        at_ms=round(NOW_S * 1000),
    )
    assert verifier().decode(ROUTE, Signer(OLD).encode(ROUTE, full)) == full


def test_signature_can_be_made_and_checked_by_any_program() -> None:
    data = envelopes.encode(message())
    signature = hmac.new(OLD.encode(), ROUTE.encode() + b"\n" + data, hashlib.sha256).hexdigest()
    by_hand = data.replace(b',"message":', b',"sig":"%b","message":' % signature.encode(), 1)

    assert Signer(OLD).encode(ROUTE, message()) == by_hand
    assert verifier().decode(ROUTE, by_hand) == message()


@given(secret=st.binary(min_size=32, max_size=200).filter(lambda secret: len(set(secret)) >= 8), payload=st.integers())
def test_signature_is_hmac_sha_256_whatever_the_key(secret: bytes, payload: int) -> None:
    data = envelopes.encode(Envelope("a-1", str(payload).encode(), at_ms=1))
    expected = hmac.new(secret, b"c\n" + data, "sha256").hexdigest()
    assert f',"sig":"{expected}",'.encode() in Signer(secret).sign("c", data)


def test_signed_message_is_read_by_replicas_that_have_no_key() -> None:
    assert envelopes.decode(Signer(OLD).encode(ROUTE, message())) == message()


@given(
    payload=st.sampled_from([b"1", b'{"message":1}', b'{"a":{"message":2},"sig":"x"}', b'",\\"message\\":"', b"[]"]),
    users=st.none() | st.frozensets(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=3),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
)
def test_any_envelope_passes_and_no_bit_of_it_can_be_changed(
    payload: bytes, users: frozenset[str] | None, text: str
) -> None:
    envelope = Envelope(text, payload, sender=text, users=users, at_ms=round(NOW_S * 1000))
    data = Signer(OLD).encode(ROUTE, envelope)
    assert verifier().decode(ROUTE, data) == envelope

    for position in range(0, len(data), 7):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(EnvelopeError):
            verifier().decode(ROUTE, bytes(changed))


def test_control_message_gets_an_id_and_a_time_so_that_its_repeat_is_known() -> None:
    signer = Signer(OLD)
    ask = Envelope(None, b"{}", sender="r1", kind="ask")
    first, second = (envelopes.decode(signer.encode("antiphon:control", ask)) for _ in range(2))

    assert first.id is not None
    assert first.id != second.id
    assert first.at_ms is not None
    assert (first.kind, first.sender) == ("ask", "r1")
    reader = Verifier(signer)
    data = signer.encode("antiphon:control", ask)
    assert reader.decode("antiphon:control", data).kind == "ask"
    assert refusal(reader, "antiphon:control", data) == "replayed"


# -- what does not ----------------------------------------------------------------------------------------------------


def test_forged_message_is_refused() -> None:
    forged = Signer(NEW).encode(ROUTE, message())
    assert refusal(verifier(), ROUTE, forged) == "forged"
    assert refusal(verifier(accept_unsigned=True), ROUTE, forged) == "forged"


@pytest.mark.parametrize("route", ["chat", "chat/room:8", "chat/room", "other/room:7", "antiphon:control"])
def test_message_for_another_route_is_refused(route: str) -> None:
    assert refusal(verifier(), route, Signer(OLD).encode(ROUTE, message())) == "forged"


@pytest.mark.parametrize(
    "change",
    [
        {"id": "r1-2"},
        {"at_ms": round(NOW_S * 1000) + 1},
        {"kind": "ask"},
        {"sender": "r2"},
        {"users": frozenset({"admin"})},
        {"exclude": frozenset({"c"})},
        {"expires_at_ms": 1},
        {"retry_age_ms": 1},
        {"payload": b'{"type":"y"}'},
        {"payload": b'"x"', "is_text": True},
    ],
    ids=str,
)
def test_message_is_refused_when_anything_of_it_was_changed(change: dict[str, object]) -> None:
    signed = Signer(OLD).encode(ROUTE, message())
    signature = signed[signed.index(b',"sig":"') : signed.index(b',"message":')]
    other = envelopes.encode(replace(message(), **change))  # type: ignore[arg-type]  # fields of an envelope
    moved = other.replace(b',"message":', signature + b',"message":', 1)

    assert refusal(verifier(), ROUTE, moved) == "forged"


@pytest.mark.parametrize("unsigned", [envelopes.encode(message()), b'{"type":"x"}', b'{"sig":"00","message":1}'])
def test_message_without_a_signature_is_refused_unless_that_is_allowed(unsigned: bytes) -> None:
    assert refusal(verifier(), ROUTE, unsigned) == "unsigned"
    assert verifier(accept_unsigned=True).decode(ROUTE, unsigned).kind is None


def test_signature_of_another_spelling_counts_as_none() -> None:
    signed = Signer(OLD).encode(ROUTE, message())
    spaced = signed.replace(b',"sig":', b', "sig":')
    short = signed.replace(b',"message":', b',"x":1,"message":')
    upper = signed.replace(signed[-100:-40], signed[-100:-40].upper())
    assert refusal(verifier(), ROUTE, spaced) == "unsigned"
    assert refusal(verifier(), ROUTE, short) == "unsigned"
    assert refusal(verifier(), ROUTE, upper) in ("unsigned", "forged")


@pytest.mark.parametrize("accept_unsigned", [False, True])
def test_control_message_without_a_signature_is_always_refused(accept_unsigned: bool) -> None:
    ask = envelopes.encode(Envelope(None, b"{}", sender="r1", kind="ask"))
    assert refusal(verifier(accept_unsigned=accept_unsigned), "antiphon:control", ask) == "unsigned"
    assert refusal(verifier(accept_unsigned=accept_unsigned), "chat", ask) == "unsigned"


def test_unsigned_message_cannot_take_the_place_of_a_signed_one() -> None:
    reader = verifier(accept_unsigned=True)
    poison = reader.decode(ROUTE, envelopes.encode(replace(message(), payload=b'"poison"')))
    assert poison.id != message().id
    assert poison.sender is None
    assert reader.decode(ROUTE, Signer(OLD).encode(ROUTE, message())) == message()


@pytest.mark.parametrize("payload", [b"", b"[]", b"no JSON", b'{"antiphon":1,"id":7,"message":1}', b"\xff"])
def test_malformed_payload_stays_malformed(payload: bytes) -> None:
    reader = verifier(accept_unsigned=True)
    with pytest.raises(EnvelopeError) as refused:
        reader.decode(ROUTE, payload)
    assert not isinstance(refused.value, UntrustedEnvelope)


def test_signed_envelope_of_another_version_is_reported_as_such() -> None:
    data = Signer(OLD).sign(ROUTE, b'{"antiphon":2,"id":"a","at":1,"message":1}')
    with pytest.raises(UnsupportedEnvelope):
        verifier().decode(ROUTE, data)


@pytest.mark.parametrize("data", [b'{"antiphon":1,"id":"a","message":1}', b'{"antiphon":1,"at":1,"message":1}'])
def test_signed_envelope_that_could_be_repeated_unseen_is_refused(data: bytes) -> None:
    with pytest.raises(EnvelopeError, match="id and the time"):
        verifier().decode(ROUTE, Signer(OLD).sign(ROUTE, data))


# -- repeats ----------------------------------------------------------------------------------------------------------


def test_repeat_is_refused_whenever_it_comes() -> None:
    clock = Clock()
    reader, data = verifier(clock=clock), Signer(OLD).encode(ROUTE, message())
    reader.decode(ROUTE, data)
    for later_s, why in [(0.0, "replayed"), (60.0, "replayed"), (119.0, "replayed"), (121.0, "stale"), (9e6, "stale")]:
        clock.now_s = NOW_S + later_s
        reader.decode(ROUTE, Signer(OLD).encode(ROUTE, message(f"other-{later_s}", at_ms=clock.ms)))
        assert refusal(reader, ROUTE, data) == why


def test_message_is_refused_when_it_is_older_than_two_minutes() -> None:
    data = Signer(OLD).encode(ROUTE, message())
    late, too_late, early, too_early = Clock(), Clock(), Clock(), Clock()
    late.now_s, too_late.now_s, early.now_s, too_early.now_s = NOW_S + 119, NOW_S + 121, NOW_S - 59, NOW_S - 61

    assert verifier(clock=late).decode(ROUTE, data) == message()
    assert refusal(verifier(clock=too_late), ROUTE, data) == "stale"
    assert verifier(clock=early).decode(ROUTE, data) == message()
    assert refusal(verifier(clock=too_early), ROUTE, data) == "stale"


def test_message_from_the_outbox_is_as_old_as_its_new_signature() -> None:
    clock = Clock()
    clock.now_s = NOW_S + 600
    resent = Signer(OLD).encode(ROUTE, replace(message(), retry_age_ms=599_000))
    reader = verifier(clock=clock)

    assert reader.decode(ROUTE, resent).retry_age_ms == 599_000
    assert refusal(reader, ROUTE, resent) == "replayed"
    assert refusal(reader, ROUTE, Signer(OLD).encode(ROUTE, message())) == "replayed"  # the first attempt, captured
    clock.now_s += 121
    assert refusal(verifier(clock=clock), ROUTE, resent) == "stale"


def test_repeat_is_refused_when_the_memory_had_no_room_for_its_id() -> None:
    clock = Clock()
    reader, signer = verifier(clock=clock, limit=10), Signer(OLD)
    captured = [signer.encode(ROUTE, message(f"r1-{number}", at_ms=clock.ms + number)) for number in range(100)]
    for data in captured:
        reader.decode(ROUTE, data)

    assert [refusal(reader, ROUTE, data) for data in captured] == ["stale"] * 90 + ["replayed"] * 10


def test_repeat_is_refused_when_messages_of_one_sender_came_in_another_order() -> None:
    clock = Clock()
    reader, signer = verifier(clock=clock, limit=2), Signer(OLD)
    later, earlier = (signer.encode(ROUTE, message(f"r1-{ahead}", at_ms=clock.ms + ahead)) for ahead in (1_000, 0))
    for data in (later, earlier):
        reader.decode(ROUTE, data)
    for number in range(4):
        reader.decode(ROUTE, signer.encode(ROUTE, message(f"o-{number}", sender="o", at_ms=clock.ms + number)))
    assert [refusal(reader, ROUTE, data) for data in (later, earlier)] == ["stale", "stale"]


def test_sender_whose_clock_is_behind_is_heard_when_another_s_is_ahead_and_the_memory_is_full() -> None:
    clock = Clock()
    reader, signer = verifier(clock=clock, limit=10), Signer(OLD)
    for number in range(50):
        ahead = message(f"a-{number}", sender="a", at_ms=clock.ms + 50_000)
        behind = message(f"b-{number}", sender="b", at_ms=clock.ms - 50_000)
        reader.decode(ROUTE, signer.encode(ROUTE, ahead))
        assert reader.decode(ROUTE, signer.encode(ROUTE, behind)) == behind
        clock.now_s += 0.01


def test_memory_is_bounded_and_forgets() -> None:
    clock = Clock()
    reader, signer = verifier(clock=clock, limit=100), Signer(OLD)
    for number in range(5_000):
        sender = f"s{number}"
        reader.decode(ROUTE, signer.encode(ROUTE, message(f"{sender}-1", sender=sender, at_ms=clock.ms)))
        clock.now_s += 1
        assert len(reader._ids) == len(reader._order) <= 100
        assert len(reader._forgotten) <= 1_024
    clock.now_s += 1_000
    for number in range(100):
        reader.decode(ROUTE, signer.encode(ROUTE, message(f"z-{number}", at_ms=clock.ms)))
    assert len(reader._ids) == 100


# -- keys -------------------------------------------------------------------------------------------------------------


def test_keys_are_changed_without_losing_a_message() -> None:
    steps = [(OLD,), (OLD, NEW), (NEW, OLD), (NEW,)]
    for mine, theirs in pairwise(steps):
        for sender, receiver in [(mine, theirs), (theirs, mine)]:
            assert verifier(*receiver).decode(ROUTE, Signer(sender).encode(ROUTE, message())) == message()
    assert refusal(verifier(NEW), ROUTE, Signer(OLD).encode(ROUTE, message())) == "forged"


@pytest.mark.parametrize(
    "keys", [[OLD, NEW], f"{OLD},{NEW}", f" {OLD} ,\n{NEW},", [OLD.encode(), NEW], (f"{OLD},{NEW}",), [OLD, NEW, OLD]]
)
def test_keys_may_be_given_in_several_ways(keys: str | list[str]) -> None:
    assert Signer(keys) == Signer([OLD, NEW])
    assert hash(Signer(keys)) == hash(Signer([OLD, NEW]))
    assert Signer(keys) != Signer([NEW, OLD])
    assert Signer(keys) != Signer([OLD, NEW], accept_unsigned=True)
    assert Signer(keys) != OLD


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ("", "there is no signing key"),
        ([], "there is no signing key"),
        (" , ,", "there is no signing key"),
        ("short-canary", "signing key 1 has 12 bytes, the least is 32"),
        ([OLD, "short-canary"], "signing key 2 has 12 bytes"),
        (b"canary", "signing key 1 has 6 bytes"),
        ("canary" * 10, "can be guessed"),
        ([OLD, 7], "is text or bytes, not int"),
        ([f"{number}-{OLD}" for number in range(9)], "9 signing keys are more than 8"),
    ],
)
def test_key_that_protects_nothing_is_refused_with_advice(keys: list[str], advice: str) -> None:
    with pytest.raises(InvalidSigningKey, match=advice) as refused:
        Signer(keys)
    assert "canary" not in str(refused.value)


def test_keys_appear_in_no_text() -> None:
    signer = Signer([OLD, NEW])
    assert repr(signer) == "<Signer with 2 keys>"
    assert repr(Signer(OLD)) == "<Signer with 1 key>"
    for text in (repr(signer), str(signer), repr(Verifier(signer))):
        assert OLD not in text
        assert NEW not in text


def test_refusal_survives_the_way_to_another_process() -> None:
    error = UntrustedEnvelope("forged", why="forged")
    arrived = pickle.loads(pickle.dumps(error))
    assert (str(arrived), arrived.why) == ("forged", "forged")


def test_example_in_the_docs_is_signed_as_they_say() -> None:
    text = Path(__file__).parents[2].joinpath("docs/wire-format.md").read_text(encoding="utf-8")
    key = re.search(r"with the key `([^`]+)`", text)
    example = re.search(r'^\{"antiphon".*"sig":.*$', text, re.M)
    assert key is not None
    assert example is not None
    clock = Clock()
    envelope = verifier(key[1], clock=clock).decode("chat/room:7", example[0].encode())
    assert Signer(key[1]).encode("chat/room:7", envelope) == example[0].encode()

"""The frames of clients and server: `protocol/` and the code say the same."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.codes import CloseCode, ErrorCode
from antiphon.wire import codec, protocol
from antiphon.wire.frames import Frame
from antiphon.wire.protocol import AppMessage, BadFrame, ClientFrame, Ping, Pong, Publish, Subscribe, Unsubscribe
from tests.unit.json_values import json_objects, json_values, modest, pure_codec
from tests.unit.vectors import PROTOCOL, cases, codes

LEVELS = 64
TEXT = (PROTOCOL / "PROTOCOL.md").read_text(encoding="utf-8")

KINDS: dict[str, type[ClientFrame]] = {
    "message": AppMessage,
    "ping": Ping,
    "pong": Pong,
    "publish": Publish,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
}


def names(part: str) -> list[str]:
    return [case["name"] for case in cases("client_frames", part)]


# -- from the client --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("client_frames", "good"), ids=names("good"))
def test_a_frame_is_read_as_the_vectors_say(case: dict[str, Any]) -> None:
    frame = protocol.read(case["frame"].encode(), levels=LEVELS)

    fields = {name: value for name, value in frame._asdict().items() if name == "message" or value is not None}
    expected = dict(case["read"])
    assert type(frame) is KINDS[expected.pop("type")]
    assert fields == expected


@pytest.mark.parametrize("case", cases("client_frames", "bad"), ids=names("bad"))
def test_a_bad_frame_is_refused_as_the_vectors_say(case: dict[str, Any]) -> None:
    payload = case["frame"].encode()
    with pytest.raises(BadFrame) as refused:
        protocol.read(payload, levels=LEVELS)

    assert (refused.value.code.value, refused.value.ref) == (case["error"], case["ref"])
    assert protocol.ref_of(payload, levels=LEVELS) == case["ref"]


def test_frames_are_read_the_same_without_the_fast_json_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "codec", pure_codec)
    for case in cases("client_frames", "good"):
        test_a_frame_is_read_as_the_vectors_say(case)
    for case in cases("client_frames", "bad"):
        test_a_bad_frame_is_refused_as_the_vectors_say(case)


@pytest.mark.parametrize("payload", [b"\xff", b'{"type":"ping\xed\xa0\x80"}', b'{"type":"p\xc0\x80"}'])
def test_a_frame_that_is_not_utf8_is_refused(payload: bytes) -> None:
    with pytest.raises(BadFrame, match="must be a JSON object in UTF-8"):
        protocol.read(payload, levels=LEVELS)


def test_a_refusal_repeats_nothing_of_the_frame() -> None:
    for case in cases("client_frames", "bad"):
        canary = case["frame"].replace('"ref"', '"CANARY":1,"ref"').replace('"subscribe"', '"CANARY"')
        with pytest.raises(BadFrame) as refused:
            protocol.read(canary.encode(), levels=LEVELS)
        assert "CANARY" not in str(refused.value)


@given(st.binary(max_size=60) | json_values.map(codec.encode))
@modest
def test_reading_returns_a_frame_or_refuses_whatever_comes(payload: bytes) -> None:
    refused: object = None
    frame: object = None
    try:
        frame = protocol.read(payload, levels=LEVELS)
    except BadFrame as bad:
        refused = bad.code
    assert isinstance(refused, ErrorCode) is not isinstance(frame, tuple(KINDS.values()))


@given(json_objects, st.integers(0, 2**53 - 1))
@modest
def test_a_ref_and_what_is_said_arrive_unchanged(message: dict[str, object], ref: int) -> None:
    payload = codec.encode({"message": message, "ref": ref, "topic": "a", "type": "publish"})
    assert protocol.read(payload, levels=128) == Publish("a", codec.decode(codec.encode(message)), ref)  # type: ignore[arg-type]  # an object stays one


# -- from the server --------------------------------------------------------------------------------------------------


def built(fields: dict[str, Any]) -> Frame:
    """The frame that this library makes of these fields."""
    fields = dict(fields)
    kind = fields.pop("type")
    match kind:
        case "welcome":
            assert fields.pop("protocol") == protocol.V1
            return protocol.welcome(**fields)
        case "message":
            message = fields.pop("message")
            frame = Frame.of_text(message) if isinstance(message, str) else Frame.json(codec.encode(message))
            frame.about = (fields.pop("id", None), fields.pop("topic", None))
            assert not fields
            return frame.v1
        case "error":
            return protocol.error(ErrorCode(fields.pop("code")), fields.pop("message"), **fields)
        case "unsubscribed":
            code = fields.pop("code", None)
            return protocol.unsubscribed(code=None if code is None else ErrorCode(code), **fields)
        case "ping" | "heartbeat":
            return {"ping": protocol.PING, "heartbeat": protocol.HEARTBEAT}[kind]
    builders = {
        "subscribed": protocol.subscribed,
        "published": protocol.published,
        "pong": protocol.pong,
        "status": protocol.status,
    }
    frame = builders[kind](**fields)  # type: ignore[operator]  # each takes the fields of its own frame
    assert isinstance(frame, Frame)
    return frame


@pytest.mark.parametrize("case", cases("server_frames", "exact"), ids=lambda case: case["name"])
def test_a_frame_of_the_server_is_written_as_the_vectors_say(case: dict[str, Any]) -> None:
    assert json.loads(case["frame"]) == case["fields"]
    frame = built(case["fields"])
    assert frame.text == case["frame"]
    assert frame.v1 is frame, "a frame of the library is what it is for everybody"


def test_every_frame_of_the_server_has_a_vector() -> None:
    in_vectors = {case["fields"]["type"] for case in cases("server_frames", "exact")}
    in_text = set(re.findall(r"^\| `(\w+)`", section("### From the server"), re.M))
    assert in_vectors == in_text | {"heartbeat"}


def test_every_frame_of_the_client_is_read_and_has_a_vector() -> None:
    in_vectors = {case["read"]["type"] for case in cases("client_frames", "good")}
    in_text = set(re.findall(r"^\| `(\w+)`", section("### From the client"), re.M))
    assert in_vectors == in_text == set(KINDS)


def test_vectors_for_clients_are_what_they_say() -> None:
    in_text = set(re.findall(r"^\| `(\w+)`", section("### From the server"), re.M))
    for case in cases("server_frames", "tolerant"):
        assert case["read_as"].items() <= json.loads(case["frame"]).items()
    for case in cases("server_frames", "ignored"):
        assert json.loads(case["frame"])["type"] not in in_text


@given(json_values)
@modest
def test_a_message_stays_as_it_was_encoded(message: object) -> None:
    payload = codec.encode(message)
    frame = Frame.json(payload)
    frame.about = ('a"b', "t")
    framed = frame.v1.payload
    assert framed.endswith(b'"message":' + payload + b"}")
    assert codec.decode(framed) == {"type": "message", "id": 'a"b', "topic": "t", "message": codec.decode(payload)}


# -- the handshake ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("offered", "speaks_v1", "chosen"),
    [
        ([], True, (None, None)),
        (["antiphon.v1"], True, ("antiphon.v1", None)),
        (["chat", "antiphon.v2", "antiphon.v1"], True, ("antiphon.v1", None)),
        (["antiphon.v1"], False, (None, None)),
        (["chat"], True, (None, None)),
        (["antiphon.v2", "antiphon.v3"], True, ("antiphon.v2", CloseCode.UNSUPPORTED_VERSION)),
        (["antiphon.v2"], False, (None, None)),
        (["antiphon.v2", "chat"], True, (None, None)),
        (["Antiphon.V1"], True, (None, None)),
    ],
)
def test_the_subprotocol_is_chosen_from_what_the_client_offers(
    offered: list[str], speaks_v1: bool, chosen: tuple[str | None, CloseCode | None]
) -> None:
    assert protocol.choose_subprotocol(offered, speaks_v1=speaks_v1) == chosen


# -- the codes --------------------------------------------------------------------------------------------------------


def section(heading: str) -> str:
    rank = heading.split(" ")[0]
    rest = TEXT[TEXT.index(f"\n{heading}\n") + len(heading) + 2 :]
    following = re.search(rf"^#{{1,{len(rank)}}} ", rest, re.M)
    return rest[: following.start()] if following else rest


def rows(heading: str) -> list[list[str]]:
    lines = [line for line in section(heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_close_codes_are_the_same_in_the_code_the_table_and_the_text() -> None:
    table = codes()["close"]
    assert [(row["number"], row["name"]) for row in table] == [(code.value, code.name) for code in CloseCode]
    assert [row["returns"] for row in table] == [code.client_returns for code in CloseCode]
    assert rows("## Close codes") == [
        [str(row["number"]), f"`{row['name']}`", row["meaning"], "yes" if row["returns"] else "no", row["action"]]
        for row in table
    ]


def test_error_codes_are_the_same_in_the_code_the_table_and_the_text() -> None:
    table = codes()["error"]
    assert [row["name"] for row in table] == [code.value for code in ErrorCode]
    assert [code.name.lower() for code in ErrorCode] == [code.value for code in ErrorCode]
    assert rows("## Error codes") == [[f"`{row['name']}`", row["meaning"], row["action"]] for row in table]


def test_ranges_of_close_codes_hold_for_every_code_in_them() -> None:
    for span in codes()["ranges"]:
        inside = [row for row in codes()["close"] if span["from"] <= row["number"] <= span["to"]]
        assert inside
        assert all(row["returns"] is span["returns"] for row in inside)


def test_examples_in_the_text_are_frames() -> None:
    client, server = set(KINDS), {case["fields"]["type"] for case in cases("server_frames", "exact")}
    examples = re.findall(r"^```json\n(.*?)\n```$", TEXT, re.M | re.S)
    assert len(examples) == 4
    for example in examples:
        assert codec.encode(codec.decode(example.encode())) == example.encode()
        assert json.loads(example)["type"] in client | server
    welcome = next(example for example in examples if '"welcome"' in example)
    assert welcome == next(
        case["frame"].replace('"a",', "")
        for case in cases("server_frames", "exact")
        if case["fields"]["type"] == "welcome"
    )

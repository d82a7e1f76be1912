from __future__ import annotations

import zlib
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Close, Opcode
from websockets.frames import Frame as ParsedFrame
from websockets.streams import StreamReader

from antiphon.errors import ConfigurationError, MessageNotSerializable
from antiphon.wire.frames import DEFLATE_WINDOW_BITS, Frame, close_frame
from tests.unit.json_values import modest

SIZES = [0, 1, 125, 126, 127, 65_535, 65_536, 70_000]
FAR_REPEAT = "".join(f"{number * 7919 % 10_007:04x}" for number in range(1_500)) * 2
"""What repeats only from further back than the smallest window reaches."""

texts = st.text(st.characters(codec="utf-8"), max_size=300)


def parsed(wire: bytes, extensions: Sequence[Extension] = ()) -> ParsedFrame:
    """Read one frame as a client does; nothing may be left over."""
    reader = StreamReader()
    reader.feed_data(wire)
    reader.feed_eof()
    reading = ParsedFrame.parse(reader.read_exact, mask=False, extensions=extensions)
    try:
        next(reading)
    except StopIteration as stop:
        frame = stop.value
        assert isinstance(frame, ParsedFrame)
        with pytest.raises(StopIteration) as end:
            next(reader.at_eof())
        assert end.value.value is True
        return frame
    raise AssertionError("the frame is not complete")


def client_deflate(*, window_bits: int, takeover: bool) -> PerMessageDeflate:
    return PerMessageDeflate(not takeover, not takeover, window_bits, 15)


@pytest.mark.parametrize("size", SIZES)
def test_wire_is_read_back_when_a_client_parses_it(size: int) -> None:
    wire = Frame.json(b"x" * size).wire
    assert len(wire) - size == (2 if size < 126 else 4 if size < 65_536 else 10), "the length in its shortest form"
    frame = parsed(wire)
    assert (frame.opcode, frame.fin, frame.rsv1, bytes(frame.data)) == (Opcode.TEXT, True, False, b"x" * size)


@given(texts)
@modest
def test_every_form_says_the_same_when_a_text_is_framed(text: str) -> None:
    frame = Frame.of_text(text)
    payload = text.encode()
    assert frame.payload == payload
    assert frame.size == len(payload)
    assert frame.text == Frame.json(payload).text == text
    assert Frame.json(payload).event == {"type": "websocket.send", "text": text}
    assert bytes(parsed(frame.wire).data) == payload
    assert bytes(parsed(frame.deflated, [client_deflate(window_bits=12, takeover=False)]).data) == payload


@given(st.lists(texts, min_size=1, max_size=5), st.integers(DEFLATE_WINDOW_BITS, 15), st.booleans())
@example(["abc" * 30_000, "", "abc" * 30_000], 12, True)
@modest
def test_deflated_is_inflated_when_the_clients_context_is_old(
    texts: list[str], window_bits: int, takeover: bool
) -> None:
    extension = client_deflate(window_bits=window_bits, takeover=takeover)
    for text in texts:
        frame = parsed(Frame.of_text(text).deflated, [extension])
        assert bytes(frame.data).decode() == text


def test_deflated_is_a_compressed_text_frame_when_looked_at() -> None:
    frame = Frame.of_text("again and " * 100)
    raw = frame.deflated
    assert raw[0] == 0b1100_0001
    assert len(raw) < 100
    assert zlib.decompressobj(wbits=-DEFLATE_WINDOW_BITS).decompress(raw[2:]).decode() == frame.text


def test_deflated_needs_no_larger_window_when_a_client_inflates_bit_by_bit() -> None:
    """zlib finds a distance beyond the window only when it is given no room for everything at once."""
    wire = Frame.of_text(FAR_REPEAT).deflated
    inflater = zlib.decompressobj(wbits=-DEFLATE_WINDOW_BITS)
    rest = wire[4:]
    text = b""
    while piece := inflater.decompress(rest, 100):
        text += piece
        rest = inflater.unconsumed_tail
    assert text.decode() == FAR_REPEAT


def test_forms_are_built_once_when_asked_for_twice() -> None:
    frame = Frame.json(b'{"a":1}')
    assert frame.wire is frame.wire
    assert frame.event is frame.event
    assert frame.deflated is frame.deflated
    assert frame.text is frame.text
    assert repr(frame) == "<Frame of 7 bytes>"


def test_text_frame_is_refused_when_it_holds_a_lone_surrogate() -> None:
    with pytest.raises(MessageNotSerializable, match="lone surrogate at 1"):
        Frame.of_text("a\ud800")


@pytest.mark.parametrize("code", [1000, 1001, 1011, 1012, 3000, 4001, 4999])
def test_close_frame_is_read_back_when_a_client_parses_it(code: int) -> None:
    frame = parsed(close_frame(code, "going away"))
    assert frame.opcode is Opcode.CLOSE
    assert Close.parse(frame.data) == Close(code, "going away")


@given(st.text(max_size=140))
@example("é" * 62)
@example("😀" * 31)
@example("\ud800")
@modest
def test_close_frame_is_valid_whatever_the_reason_is(reason: str) -> None:
    frame = parsed(close_frame(1012, reason))
    assert len(frame.data) <= 125
    sent = Close.parse(frame.data).reason
    clean = reason.encode("utf-8", "replace").decode()
    assert clean.startswith(sent)
    assert sent == clean or len(sent.encode()) > 119


@pytest.mark.parametrize("code", [-1, 0, 999, 1004, 1005, 1006, 1015, 5000, 70_000])
def test_close_frame_is_refused_when_the_code_may_not_be_sent(code: int) -> None:
    with pytest.raises(ConfigurationError, match="may not be sent"):
        close_frame(code, "")

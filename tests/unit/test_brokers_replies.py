"""Both parsers cut the same bytes into the same replies, however the bytes are cut."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.brokers._redis_replies import CompiledReplies, ErrorReply, PlainReplies, Replies, Reply, open_replies

replies = st.recursive(
    st.integers(min_value=-(2**63), max_value=2**63 - 1)
    | st.binary(max_size=200)
    | st.none()
    | st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=40).map(ErrorReply),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=8,
)

PARSERS = [pytest.param(CompiledReplies, id="hiredis"), pytest.param(PlainReplies, id="plain")]


def encode(reply: Reply) -> bytes:
    match reply:
        case None:
            return b"$-1\r\n"
        case int():
            return b":%d\r\n" % reply
        case bytes():
            return b"$%d\r\n%b\r\n" % (len(reply), reply)
        case ErrorReply():
            return b"-%b\r\n" % reply.encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(encode(part) for part in reply)


def feed_all(make: Callable[[], Replies], data: bytes, cuts: list[int]) -> list[Reply]:
    async def run() -> list[Reply]:
        parser = make()
        found: list[Reply] = []
        start = 0
        for end in [*sorted(min(cut, len(data)) for cut in cuts), len(data)]:
            if end > start:
                found += parser.feed(data[start:end])
            start = end
        return found

    return asyncio.run(run())


@pytest.mark.parametrize("make", PARSERS)
@given(sent=st.lists(replies, min_size=1, max_size=6), cuts=st.lists(st.integers(0, 600), max_size=6))
def test_replies_are_what_was_sent_wherever_the_bytes_are_cut(
    make: Callable[[], Replies], sent: list[Reply], cuts: list[int]
) -> None:
    received = feed_all(make, b"".join(encode(reply) for reply in sent), cuts)
    assert received == sent
    assert [type(reply) for reply in received] == [type(reply) for reply in sent]


@pytest.mark.parametrize("make", PARSERS)
async def test_everything_that_is_complete_comes_at_once(make: Callable[[], Replies]) -> None:
    parser = make()
    assert parser.feed(b"+OK\r\n:1\r\n-LOADING x\r\n$3\r\na") == [b"OK", 1, "LOADING x"]
    assert parser.feed(b"") == []
    assert parser.feed(b"bc\r\n") == [b"abc"]


@pytest.mark.parametrize("make", PARSERS)
@pytest.mark.parametrize("error", ["NOAUTH x", "LOADING x", "ERR max number of clients reached", "WRONGPASS x"])
async def test_errors_that_redis_py_raises_are_replies_too(make: Callable[[], Replies], error: str) -> None:
    (reply, after) = make().feed(f"-{error}\r\n:1\r\n".encode())
    assert reply == error
    assert isinstance(reply, ErrorReply)
    assert after == 1


@pytest.mark.parametrize("make", PARSERS)
async def test_bytes_that_are_no_resp_raise(make: Callable[[], Replies]) -> None:
    with pytest.raises(Exception, match="rotocol"):
        make().feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")


async def test_hiredis_is_taken_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_replies(), CompiledReplies)
    monkeypatch.setattr("antiphon.brokers._redis_replies.HIREDIS_AVAILABLE", False)
    assert isinstance(open_replies(), PlainReplies)

"""The library's uvicorn protocol: what a connect, an incoming message and an idle connection cost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.micro.counting import count
from benchmarks.micro.protocol import Wire, server, text

MANY = 64


async def test_connect_takes_few_instructions_and_calls() -> None:
    async with server() as made:
        with count() as counts:
            protocols = [made.begin(Wire()) for _ in range(MANY)]
            await made.settled()
        assert all(protocol.door.is_open for protocol in protocols)
        assert counts.instructions / MANY < 1950
        assert counts.calls / MANY < 125


@pytest.mark.parametrize(
    ("data", "messages", "instructions"),
    [
        pytest.param(text(b"x" * 200), 1, 330, id="one message"),
        pytest.param(text(b"x" * 20) * 8, 8, 240, id="eight messages in one read"),
        pytest.param(text(b"x", first=0x01) + text(b"y", first=0x80), 1, 800, id="a message in two fragments"),
    ],
)
async def test_incoming_message_takes_few_instructions(data: bytes, messages: int, instructions: int) -> None:
    async with server() as made:
        protocol = made.begin(Wire())
        await made.settled()
        with count() as counts:
            for _ in range(MANY):
                protocol.data_received(data)
        assert len(made.received) == MANY * messages
        assert counts.instructions / MANY / messages < instructions


async def test_idle_connection_has_no_parser_and_no_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = 0

    async with server() as made:
        loop = asyncio.get_running_loop()
        call_at: Callable[..., asyncio.TimerHandle] = loop.call_at

        def counting(*arguments: Any, **options: Any) -> asyncio.TimerHandle:
            nonlocal timers
            timers += 1
            return call_at(*arguments, **options)

        monkeypatch.setattr(loop, "call_at", counting)
        protocols = [made.begin(Wire()) for _ in range(MANY)]
        await made.settled()
        assert timers <= 1
        assert all(protocol._parser is None for protocol in protocols)
        assert len({protocol._common for protocol in protocols}) == 1

"""Handshakes that are refused with a status of their own: what the client gets, and what the server's log says."""

from __future__ import annotations

import logging

import pytest
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from antiphon import TooManyConnections, refuse
from tests.transports.servers import WAIT_S, WAYS, Way, serving

pytestmark = [pytest.mark.every_loop, pytest.mark.parametrize("way", WAYS)]


async def over_quota(websocket: WebSocket) -> None:
    await refuse(websocket, TooManyConnections(before_upgrade=True))


async def without_an_answer(websocket: WebSocket) -> None:
    """A mistake, which the server's log has to show."""


async def status_of(url: str) -> int:
    with pytest.raises(InvalidStatus) as refused:
        await connect(url, open_timeout=WAIT_S)
    return refused.value.response.status_code


async def test_client_gets_the_status_and_the_log_no_line_of_an_error(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(way, over_quota) as (_, url):
        assert [await status_of(url) for _ in range(3)] == [429] * 3
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_endpoint_that_answers_nothing_still_shows_in_the_log_after_refusals(
    way: Way, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(way, over_quota) as (_, url):
        assert await status_of(url) == 429
    async with serving(way, without_an_answer) as (_, url):
        assert await status_of(url) == 500
    [record] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert record.name == "uvicorn.error"
    assert "returned without" in record.getMessage()

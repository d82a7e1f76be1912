"""The site with a hall: a channel that everybody who is signed in may listen to. Served by the tests of accounts."""

# No `from __future__ import annotations`: FastAPI reads the annotations of these functions.

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, WebSocket

from antiphon import Identity
from encore.accounts import throttling
from encore.accounts.access import Staff
from encore.accounts.sockets import claimed_rightly, site_security
from encore.db import WriteSession
from encore.live import ServerMessage, announce, channel
from encore.main import app

__all__ = ["app"]

TICK_S = 0.005
throttling.ANSWER_S = 5.0  # a machine that tests may stand still for longer than the half second of the site

security = site_security(recheck_s=float(os.environ.get("HALL_RECHECK_S", "60")))
hall = channel("hall", security=security)
longest_lag_s = 0.0


class Said(ServerMessage):
    type: Literal["said"] = "said"
    text: str


async def _watch() -> None:
    """How long the event loop keeps somebody waiting who wants to go on."""
    global longest_lag_s
    while True:
        before = time.perf_counter()
        await asyncio.sleep(TICK_S)
        longest_lag_s = max(longest_lag_s, time.perf_counter() - before - TICK_S)


@asynccontextmanager
async def _watching(application: object) -> AsyncIterator[None]:
    task = asyncio.create_task(_watch())
    try:
        yield
    finally:
        task.cancel()


router = APIRouter(lifespan=_watching)


@router.websocket("/hall")
async def listen(websocket: WebSocket, identity: Annotated[Identity, Depends(claimed_rightly(security))]) -> None:
    await hall.serve(websocket, identity=identity, heartbeat="earlier")


@router.post("/api/hall/{text}")
async def say(text: str, speaker: Staff, session: WriteSession) -> dict[str, str]:
    announce(session, hall, Said(text=text))
    return {"said": text}


@router.get("/api/hall/lag")
async def lag() -> dict[str, float]:
    """The longest so far; the next answer begins anew."""
    global longest_lag_s
    seen_s, longest_lag_s = longest_lag_s, 0.0
    return {"longest_s": seen_s}


@router.get("/api/hall/crash")
async def crash() -> None:
    raise RuntimeError("secret-detail-of-the-hall")


app.include_router(router)

"""Stopping and starting the broker of the demonstration: `antiphon dev --broker-switch` listens for it."""

from __future__ import annotations

import asyncio
import json
import os
from typing import Literal

from encore.errors import NotFound, Unavailable

__all__ = ["Action", "State", "ask_broker"]

Action = Literal["status", "stop", "start", "freeze", "thaw"]
State = Literal["up", "killed", "frozen"]

VARIABLE = "ANTIPHON_DEV_CONTROL"
ANSWER_S = 15.0


async def ask_broker(action: Action) -> State:
    """Carry an order out, and return how the broker is then.

    Raises NotFound where nobody listens for orders, and Unavailable when it was not carried out.
    """
    path = os.environ.get(VARIABLE, "")
    if not path:
        raise NotFound("there is no broker switch here: `antiphon dev --broker-switch` offers one")
    try:
        async with asyncio.timeout(ANSWER_S):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"{action}\n".encode())
                answer = json.loads(await reader.readline())
            finally:
                writer.close()
    except (OSError, ValueError, TimeoutError) as error:
        raise Unavailable("the broker switch does not answer: does `antiphon dev` still run?") from error
    if "state" not in answer:
        raise Unavailable(str(answer.get("error", "the broker switch did not do it"))[:200])
    state: State = answer["state"]
    return state

"""`GET /metrics`."""

from __future__ import annotations

import asyncio
import os

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from antiphon.health.operators import Operators
from antiphon.metrics.exposition import CONTENT_TYPE, render

__all__ = ["TOKEN_VARIABLE", "metrics_endpoint"]

TOKEN_VARIABLE = "ANTIPHON_METRICS_TOKEN"


async def metrics_endpoint(request: Request) -> Response:
    """All metrics, for `Route("/metrics", antiphon.metrics_endpoint)`.

    Answers to this machine itself; when `ANTIPHON_METRICS_TOKEN` is set, to whoever sends `Authorization: Bearer
    TOKEN`, and to nobody else. Others get 401 or 403.
    """
    operators = Operators(os.environ.get(TOKEN_VARIABLE), setting=TOKEN_VARIABLE)
    peer = request.client.host if request.client is not None else None
    refusal = operators.refusal(peer=peer, headers=request.headers.items())
    if refusal is not None:
        status, text = refusal
        return JSONResponse({"error": text}, status, headers={"WWW-Authenticate": "Bearer"} if status == 401 else {})
    await asyncio.sleep(0)  # after what came in before: a loop that stood still has been looked at by then
    return Response(render(), media_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})

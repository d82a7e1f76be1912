"""What operators and orchestrators ask, and the documents about the site itself."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

import antiphon
from encore.db import database
from encore.errors import ErrorAnswer
from encore.operation import metrics, pages
from encore.operation.asyncapi import asyncapi
from encore.operation.operators import Insider, Operator, Reader
from encore.operation.schemas import Alive, DrainAnswer, Readiness, ReadyBroker
from encore.operation.status import ReplicaStatus, read_status

__all__ = ["router"]

DATABASE_S = 2.0
FRESH = {"Cache-Control": "no-store"}

router = APIRouter()


@router.get("/healthz")
@router.head("/healthz", include_in_schema=False)
async def liveness(response: Response) -> Alive:
    """Answers as long as the event loop does. A database or a bus that is away is no reason to kill a replica."""
    response.headers.update(FRESH)
    return Alive()


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", responses={503: {"model": Readiness, "description": "Send nobody here"}})
async def readiness(request: Request) -> Readiness:
    """Whether new visitors should be sent here: 503 while it starts or drains, and while the database is away.

    A bus that is away leaves it ready, since a replica serves its own visitors without one; `status` says `degraded`.
    """
    found, has_database = await asyncio.gather(antiphon.health_endpoint(request), _database_answers())
    health = _json(found)
    ready = found.status_code == 200 and has_database
    answer = Readiness(
        ready=ready,
        status=health["status"],
        draining=health["draining"],
        database="ok" if has_database else "unavailable",
        brokers=[ReadyBroker.model_validate(broker) for broker in health["brokers"]],
    )
    # As a response of its own: the status depends on what was found.
    return JSONResponse(answer.model_dump(), 200 if ready else 503, headers=FRESH)  # type: ignore[return-value]  # FastAPI takes it


@router.get("/status", dependencies=[Insider])
async def status(response: Response) -> ReplicaStatus:
    """This replica in numbers: sockets by channel, the bus, drops, slow clients. For staff and operators."""
    response.headers.update(FRESH)
    return await read_status()


@router.get(
    "/metrics",
    dependencies=[Operator],
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "For Prometheus"}},
)
async def prometheus(request: Request) -> Response:
    """Everything that is counted, as text for Prometheus. For operators."""
    found = await antiphon.metrics_endpoint(request)
    if found.status_code != 200:
        error = ErrorAnswer(code="forbidden", detail=str(_json(found)["error"]))
        return JSONResponse(error.model_dump(), found.status_code)
    body = bytes(found.body) + metrics.render(database()).encode()
    return Response(body, media_type=found.media_type, headers=FRESH)


@router.post(
    "/drain",
    dependencies=[Operator],
    response_model=DrainAnswer,
    responses={202: {"model": DrainAnswer, "description": "It has begun, and was not waited for"}},
)
async def drain(request: Request) -> Response:
    """Send this replica's clients away, spread over a window, before it is ended. It takes no new ones then.

    Answers when they are gone; with `?wait=0` at once. For operators.
    """
    return await antiphon.drain_endpoint(request)


@router.get(
    "/openapi.json",
    dependencies=[Reader],
    response_model=dict[str, Any],
    responses={404: {"model": ErrorAnswer, "description": "In production it is for admins and operators"}},
)
async def openapi_document(request: Request) -> Response:
    """The REST routes as an OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get(
    "/asyncapi.json",
    dependencies=[Reader],
    response_model=dict[str, Any],
    responses={404: {"model": ErrorAnswer, "description": "In production it is for admins and operators"}},
)
async def asyncapi_document() -> Response:
    """The sockets and all their messages as an AsyncAPI 3 document."""
    return JSONResponse(asyncapi())


async def _database_answers() -> bool:
    try:
        async with asyncio.timeout(DATABASE_S), database().reading() as session:
            await session.execute(text("SELECT 1"))
    except (OSError, SQLAlchemyError, TimeoutError):
        return False
    return True


def _json(response: Response) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(bytes(response.body))
    return found


router.include_router(pages.router)

"""The plain live page at `/`, and the pages that list all routes and sockets: static files, nothing inline."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse

from encore.errors import NotFound
from encore.operation.operators import Reader

__all__ = ["router"]

FOLDER = Path(__file__).parent / "page"
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}

router = APIRouter(include_in_schema=False)


def page(name: str) -> Response:
    """One of our files. Browsers ask each time whether it changed: replicas of two versions may run side by side."""
    path = FOLDER / name
    if path.parent != FOLDER or path.suffix not in TYPES or not path.is_file():
        raise NotFound("there is no such file")
    return FileResponse(path, media_type=TYPES[path.suffix], headers={"Cache-Control": "no-cache"})


@router.get("/")
@router.head("/")
async def live_page() -> Response:
    """The live page."""
    return page("index.html")


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """What it is made of."""
    return page(name)


@router.get("/favicon.ico")
async def icon(request: Request) -> Response:
    """The icon that browsers look for by themselves."""
    return page("icon.svg")


@router.get("/docs", dependencies=[Reader])
async def reference_page() -> Response:
    """All routes and sockets to read. In production for admins and operators alone."""
    return page("reference.html")

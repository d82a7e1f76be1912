"""Sends stored files: audio in the pieces that players ask for, covers, both with what caches need to know."""

from __future__ import annotations

import asyncio
import logging
from email.utils import formatdate
from pathlib import Path

from fastapi import Request
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.types import Receive, Scope, Send

from encore.catalogue.ranges import NotSatisfiable, is_known, wanted_bytes
from encore.catalogue.schemas import version_of
from encore.catalogue.storage import storage
from encore.errors import NotFound

__all__ = ["cache_headers", "send_stored"]

log = logging.getLogger("encore.catalogue")

ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    # A stranger's file, opened as a page of its own, runs nothing and belongs to nobody.
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class _Piece(FileResponse):
    """A file, or one range of it that was found to lie inside."""

    piece: tuple[int, int] | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(name, value) for name, value in scope["headers"] if name not in (b"range", b"if-range")]
        if self.piece is not None:
            headers.append((b"range", b"bytes=%d-%d" % self.piece))
        await super().__call__({**scope, "headers": headers}, receive, send)


async def send_stored(request: Request, name: str, *, media_type: str) -> Response:
    """The answer to GET or HEAD for a file of the storage: 200, 206, 304 or 416. Raises NotFound if it is not there."""
    path = storage().path(name)
    try:
        stat = await asyncio.to_thread(path.stat)
    except FileNotFoundError:
        log.error("the storage has no file %s, which the database names", name)
        raise NotFound("this file is gone: upload it again", code="file_missing") from None
    modified = formatdate(stat.st_mtime, usegmt=True)
    headers = cache_headers(request, version_of(name)) | ALWAYS
    if is_known(request.headers, etag=headers["ETag"]):
        return Response(status_code=304, headers=headers)
    try:
        piece = wanted_bytes(request.headers, size=stat.st_size, etag=headers["ETag"], modified=modified)
    except NotSatisfiable:
        return _refusal(stat.st_size, headers)
    answer = _Piece(Path(path), media_type=media_type, headers=headers, stat_result=stat)
    answer.piece = piece
    return answer


def cache_headers(request: Request, version: str) -> dict[str, str]:
    """For ever when the address names this version by `?v=`; else to be asked for each time."""
    named = request.query_params.get("v") == version
    policy = "public, max-age=31536000, immutable" if named else "no-cache"
    return {"ETag": f'"{version}"', "Cache-Control": policy}


def _refusal(size: int, headers: dict[str, str]) -> Response:
    body = {"code": "range_not_satisfiable", "detail": f"the file has {size} bytes; ask for one range of them"}
    return JSONResponse(body, status_code=416, headers=ALWAYS | {"Content-Range": f"bytes */{size}"})

"""An upload from its first byte to the files in the storage; what fails leaves nothing behind."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from fastapi import Request

from encore.catalogue.faults import Unprocessable, UnsupportedMedia
from encore.catalogue.images import COVER_BYTES, read_picture
from encore.catalogue.inspection import Inspection, inspect_audio
from encore.catalogue.multipart import Upload, read_bounded, receive_upload
from encore.catalogue.storage import storage
from encore.errors import BadRequest, TooManyRequests, Unavailable
from encore.settings import read_settings

__all__ = ["Received", "received_audio", "received_cover"]

log = logging.getLogger("encore.catalogue")

AT_ONCE = 8
"""Uploads that a replica takes at the same time; each may decode, in a process of its own."""
AT_ONCE_PER_USER = 3
RECEIVE_S = 1800.0
RECEIVE_COVER_S = 60.0

_running: collections.Counter[int] = collections.Counter()


@dataclass(slots=True)
class Received:
    """Files that are in the storage already, and named by no row yet."""

    audio_file: str = ""
    audio_bytes: int = 0
    audio_sha256: str = ""
    cover_file: str | None = None
    inspection: Inspection | None = None
    fields: dict[str, str] = field(default_factory=dict)
    is_named: bool = False
    """Set it once a row names the files and is about to be committed: whatever happens then, they stay."""


@contextlib.asynccontextmanager
async def received_audio(request: Request, *, user_id: int) -> AsyncIterator[Received]:
    """Take an upload in, look at it, and put its files into the storage, for as long as the block does not fail.

    Raises TooLarge (413), UnsupportedMedia (415), Unprocessable (422), BadRequest (400); TooManyRequests (429) beyond 3
    uploads of a person at the same time; Unavailable (503) beyond 8 of a replica, and when the storage cannot be used.
    """
    with _slot(user_id), _working_storage():
        await asyncio.to_thread(storage().sweep)
        path = await asyncio.to_thread(storage().incoming)
        received = Received()
        try:
            try:
                async with asyncio.timeout(RECEIVE_S):
                    upload = await receive_upload(request, path, limit_bytes=read_settings().upload_bytes)
            except TimeoutError:
                raise BadRequest(
                    f"the upload took longer than {RECEIVE_S / 60:g} minutes", code="upload_too_slow"
                ) from None
            await _keep(upload, received)
            yield received
        except BaseException:
            await _undo(received)
            raise
        finally:
            await asyncio.shield(asyncio.to_thread(path.unlink, missing_ok=True))


@contextlib.asynccontextmanager
async def received_cover(request: Request, *, user_id: int) -> AsyncIterator[Received]:
    """Take a picture in, as the request's body, and put it into the storage for as long as the block does not fail.

    Raises TooLarge (413), UnsupportedMedia (415), Unprocessable (422), BadRequest (400) for one that takes longer than
    a minute, and what `received_audio` raises beyond its uploads at the same time and for the storage.
    """
    received = Received()
    with _slot(user_id), _working_storage():
        content = bytearray()
        try:
            async with asyncio.timeout(RECEIVE_COVER_S):
                async for piece in read_bounded(request, limit_bytes=COVER_BYTES):
                    content += piece
        except TimeoutError:
            raise BadRequest("the cover took longer than a minute", code="upload_too_slow") from None
        picture = read_picture(bytes(content))
        received.cover_file = await asyncio.to_thread(storage().keep_bytes, bytes(content), suffix=picture.suffix)
    try:
        yield received
    except BaseException:
        await _undo(received)
        raise


async def _keep(upload: Upload, received: Received) -> None:
    """Look at everything first, then move it to its place."""
    cover = upload.cover
    picture = read_picture(cover) if cover else None
    inspection = await inspect_audio(upload.path, suffix=upload.suffix)
    if picture is None and inspection.cover:
        with contextlib.suppress(UnsupportedMedia, Unprocessable):  # the tags may hold anything; nobody chose it
            picture, cover = read_picture(inspection.cover), inspection.cover
    received.inspection = inspection
    received.fields = upload.fields
    received.audio_bytes = upload.audio_bytes
    received.audio_sha256 = upload.audio_sha256
    if picture is not None:
        received.cover_file = await asyncio.to_thread(storage().keep_bytes, cover, suffix=picture.suffix)
    received.audio_file = await asyncio.to_thread(storage().keep, upload.path, suffix=upload.suffix)


async def _undo(received: Received) -> None:
    if not received.is_named:
        names = (received.audio_file or None, received.cover_file)
        await asyncio.shield(asyncio.to_thread(storage().remove, names))


@contextlib.contextmanager
def _working_storage() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        log.error("the storage %s cannot be used: %s", read_settings().storage, error)
        raise Unavailable("files cannot be stored at the moment: try again later", code="storage") from error


@contextlib.contextmanager
def _slot(user_id: int) -> Iterator[None]:
    if _running[user_id] >= AT_ONCE_PER_USER:
        raise TooManyRequests(
            f"{AT_ONCE_PER_USER} of your uploads are running: wait for one to end",
            code="too_many_uploads",
            retry_after_s=10,
        )
    if _running.total() >= AT_ONCE:
        raise Unavailable("too many uploads are running: try again in a little while", code="busy", retry_after_s=30)
    _running[user_id] += 1
    try:
        yield
    finally:
        _running[user_id] -= 1
        if not _running[user_id]:
            del _running[user_id]

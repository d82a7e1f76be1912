"""Takes an upload apart while it arrives: the audio goes to a file, piece by piece, and everything has a limit.

The parsers of the frameworks take the whole body first and ask questions later; here the body is read only after the
visitor was found to be allowed to upload, and reading ends with the first byte too much.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from encore.catalogue.faults import Unprocessable, UnsupportedMedia
from encore.catalogue.images import COVER_BYTES
from encore.catalogue.inspection import HEAD_BYTES, audio_suffix
from encore.errors import BadRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

__all__ = ["FORM_BYTES", "Upload", "read_bounded", "receive_upload"]

PARTS = 16
"""More than the form has fields, so that clients may send some of their own."""
FIELD_BYTES = 32 * 1024
FORM_BYTES = COVER_BYTES + 1024**2
"""What may come beside the audio."""
PIECE_BYTES = 1024**2
"""Collected before a thread is asked to write them."""


@dataclass(slots=True)
class Upload:
    """What has arrived."""

    path: Path
    """The audio, complete when `receive_upload` returns."""
    suffix: str = ""
    """The kind of the audio by its first bytes; empty if none came."""
    audio_bytes: int = 0
    audio_sha256: str = ""
    cover: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)


async def receive_upload(request: Request, path: Path, *, limit_bytes: int) -> Upload:
    """Read the form: its file `audio` into `path`, its file `cover` into memory, the rest as texts.

    Raises TooLarge (413) beyond `limit_bytes` of audio or the limits of this module, UnsupportedMedia (415) as soon as
    the audio begins like none, BadRequest (400) for a body that is no form or ends early. Whoever calls it deletes the
    file then.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedMedia("send a form: multipart/form-data with the file `audio`", code="not_a_form")
    upload = Upload(path)
    with await asyncio.to_thread(path.open, "xb") as file:
        receiver = _Receiver(upload, file, limit_bytes=limit_bytes)
        try:
            parser = MultipartParser(boundary, receiver.callbacks())
            async for piece in read_bounded(request, limit_bytes=limit_bytes + FORM_BYTES):
                for start in range(0, len(piece), PIECE_BYTES):
                    parser.write(piece[start : start + PIECE_BYTES])
                    await receiver.write()
        except FormParserError as error:
            raise BadRequest(f"the form is broken: {error}", code="bad_form") from error
        await receiver.finish()
    return upload


async def read_bounded(request: Request, *, limit_bytes: int) -> AsyncIterator[bytes]:
    """The body in pieces. Raises TooLarge (413) beyond the limit, at once if its length was announced."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced[:20]) > limit_bytes:
        raise TooLarge(f"at most {limit_bytes / 1024**2:g} MiB are taken")
    received = 0
    try:
        async for piece in request.stream():
            received += len(piece)
            if received > limit_bytes:
                raise TooLarge(f"at most {limit_bytes / 1024**2:g} MiB are taken")
            yield piece
    except ClientDisconnect:
        raise BadRequest("the upload ended early", code="upload_aborted") from None


class _Receiver:
    """Follows the parser from part to part. What it collects in memory is written before the next piece is parsed."""

    def __init__(self, upload: Upload, file: BinaryIO, *, limit_bytes: int) -> None:
        self._upload = upload
        self._file = file
        self._limit_bytes = limit_bytes
        self._digest = sha256()
        self._unwritten = bytearray()
        self._head = bytearray()
        self._parts = 0
        self._names: set[str] = set()
        self._complete = False
        self._header = bytearray()
        self._value = bytearray()
        self._disposition = b""
        self._name = ""
        self._text = bytearray()

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._on_part_begin,
            "on_header_begin": self._on_header_begin,
            "on_header_field": lambda data, start, end: self._header.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }

    async def write(self) -> None:
        """Write what came; a slow disk slows the client down."""
        if len(self._unwritten) >= PIECE_BYTES:
            await self._flush()

    async def finish(self) -> None:
        if not self._complete:
            raise BadRequest("the form ends before its last boundary", code="bad_form")
        if not self._upload.audio_bytes:
            raise Unprocessable("the form has no file `audio`", code="audio_missing")
        if not self._upload.suffix:
            audio_suffix(bytes(self._head))
            raise Unprocessable("the audio is not taken: it is too short to be any", code="audio_broken")
        await self._flush()
        self._upload.audio_sha256 = self._digest.hexdigest()

    async def _flush(self) -> None:
        content, self._unwritten = self._unwritten, bytearray()
        await asyncio.to_thread(self._write, content)

    def _write(self, content: bytearray) -> None:
        self._digest.update(content)
        self._file.write(content)

    def _on_part_begin(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise TooLarge(f"a form of more than {PARTS} parts is not taken", code="too_many_parts")
        self._disposition = b""
        self._text = bytearray()

    def _on_header_begin(self) -> None:
        self._header = bytearray()
        self._value = bytearray()

    def _on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = bytes(self._value)

    def _on_headers_finished(self) -> None:
        # The file's name is in here too. It is not even looked at.
        _, options = parse_options_header(self._disposition)
        self._name = options.get(b"name", b"").decode("utf-8", "replace")
        if not self._name or self._name in self._names:
            raise BadRequest("each part of the form needs a name of its own", code="bad_form")
        self._names.add(self._name)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._name == "audio":
            self._on_audio(data[start:end])
            return
        limit = COVER_BYTES if self._name == "cover" else FIELD_BYTES
        if len(self._text) + end - start > limit:
            raise TooLarge(f"{self._name[:40]!r} is larger than {limit // 1024} KiB")
        self._text += data[start:end]

    def _on_audio(self, data: bytes) -> None:
        upload = self._upload
        upload.audio_bytes += len(data)
        if upload.audio_bytes > self._limit_bytes:
            raise TooLarge(f"audio of more than {self._limit_bytes / 1024**2:g} MiB is not taken")
        if not upload.suffix:
            self._head += data[:HEAD_BYTES]
            if len(self._head) >= HEAD_BYTES:
                upload.suffix = audio_suffix(bytes(self._head))
        self._unwritten += data

    def _on_part_end(self) -> None:
        if self._name == "audio":
            return
        if self._name == "cover":
            self._upload.cover = bytes(self._text)
            return
        try:
            self._upload.fields[self._name] = self._text.decode()
        except UnicodeDecodeError:
            raise Unprocessable(f"{self._name[:40]!r} is no UTF-8", code="invalid") from None

    def _on_end(self) -> None:
        self._complete = True

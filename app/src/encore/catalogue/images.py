"""What a picture is, by its first bytes: JPEG, PNG and WebP are taken as covers, and nothing else, least of all SVG."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from encore.catalogue.faults import Unprocessable, UnsupportedMedia

__all__ = ["COVER_BYTES", "Picture", "read_picture"]

COVER_BYTES = 5 * 1024**2
SIDE_PX = 4096
"""A picture of more pixels a side is small as a file and large in every visitor's memory."""

SEGMENTS = 1_000
"""Of a JPEG, before the one with its size; cameras and editors write some dozens."""

TYPES = {"jpg": "image/jpeg", "png": "image/png", "webp": "image/webp"}


@dataclass(frozen=True, slots=True)
class Picture:
    """What a picture's head says."""

    suffix: str
    width_px: int
    height_px: int

    @property
    def media_type(self) -> str:
        return TYPES[self.suffix]


def read_picture(content: bytes) -> Picture:
    """Look at the head of a picture. Raises UnsupportedMedia (415), and Unprocessable (422) if it is broken."""
    try:
        if content.startswith(b"\x89PNG\r\n\x1a\n"):
            picture = _png(content)
        elif content.startswith(b"\xff\xd8\xff"):
            picture = _jpeg(content)
        elif content.startswith(b"RIFF") and content[8:12] == b"WEBP":
            picture = _webp(content)
        else:
            raise UnsupportedMedia("a cover must be a JPEG, PNG or WebP picture", code="cover_type")
    except (struct.error, IndexError):
        raise Unprocessable("the cover is broken: its head is incomplete", code="cover_broken") from None
    if not (1 <= picture.width_px <= SIDE_PX and 1 <= picture.height_px <= SIDE_PX):
        raise Unprocessable(
            f"the cover has {picture.width_px} × {picture.height_px} pixels: at most {SIDE_PX} a side are taken",
            code="cover_size",
        )
    return picture


def _png(content: bytes) -> Picture:
    length, kind, width, height = struct.unpack_from(">I4sII", content, 8)
    if kind != b"IHDR" or length != 13:
        raise Unprocessable("the cover is broken: it has no head", code="cover_broken")
    return Picture("png", width, height)


def _jpeg(content: bytes) -> Picture:
    """Goes from segment to segment until the one that holds the size; not far: this keeps everybody else waiting."""
    at = 2
    for _ in range(SEGMENTS):
        if content[at] != 0xFF:
            break
        kind = content[at + 1]
        if kind == 0xFF:  # padding
            at += 1
            continue
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack_from(">HH", content, at + 5)
            return Picture("jpg", width, height)
        if kind in (0xD9, 0xDA):
            break
        (length,) = struct.unpack_from(">H", content, at + 2)
        at += 2 + max(2, length)
    raise Unprocessable("the cover is broken: it does not say how large it is", code="cover_broken")


def _webp(content: bytes) -> Picture:
    kind = content[12:16]
    if kind == b"VP8X":
        width = 1 + int.from_bytes(content[24:27], "little")
        height = 1 + int.from_bytes(content[27:30], "little")
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        raise Unprocessable("the cover is broken: it is no WebP that browsers know", code="cover_broken")
    if len(content) < 30:
        raise Unprocessable("the cover is broken: its head is incomplete", code="cover_broken")
    return Picture("webp", width, height)

"""Sounds and pictures to upload."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import soundfile

__all__ = ["picture", "sound", "tagged"]


def sound(container: str = "FLAC", *, seconds: float = 1.0, rate: int = 8000, **options: Any) -> bytes:
    """A tone that swells, as a file."""
    times = np.arange(int(seconds * rate)) / rate
    wave = np.sin(2 * np.pi * 220 * times) * times / seconds
    file = io.BytesIO()
    soundfile.write(file, wave, rate, format=container, **options)
    return file.getvalue()


def tagged(audio: bytes, *, title: str, artist: str = "", cover: bytes = b"") -> bytes:
    """The same MP3 with ID3 tags in front."""

    def frame(name: bytes, content: bytes) -> bytes:
        return name + struct.pack(">I", len(content)) + b"\0\0" + content

    frames = frame(b"TIT2", b"\x01" + title.encode("utf-16"))
    if artist:
        frames += frame(b"TPE1", b"\x01" + artist.encode("utf-16"))
    if cover:
        frames += frame(b"APIC", b"\x00image/png\x00\x03\x00" + cover)
    size = bytes(len(frames) >> shift & 0x7F for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + frames + audio


def picture(width: int = 2, height: int = 2) -> bytes:
    """A grey PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(b"\0" + bytes(width)) if width > 64 else zlib.compress((b"\0" + bytes(width)) * height)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")

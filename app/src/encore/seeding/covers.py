"""Covers for the demonstration: hills under a sky, as PNG, in colours of their own for each album."""

from __future__ import annotations

import struct
import zlib

import numpy as np

__all__ = ["paint_cover"]

SIDE_PX = 480

Colour = tuple[int, int, int]


def paint_cover(*, seed: int, sky: Colour, ground: Colour, light: Colour) -> bytes:
    """A square picture. The same arguments give the same picture."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[0:SIDE_PX, 0:SIDE_PX] / SIDE_PX
    picture = _blend(np.array(sky), np.array(light), (down**1.6)[..., None])
    x, y = 0.25 + 0.5 * random.random(), 0.25 + 0.15 * random.random()
    distance = np.hypot(across - x, down - y)
    picture = _blend(picture, np.array(light), np.clip(1.15 - distance / 0.09, 0, 1)[..., None])
    for hill in range(4):
        depth = (hill + 1) / 4
        swing, shift = 3 + 4 * random.random(), 6 * random.random()
        line = 0.45 + 0.13 * hill + 0.06 * np.sin(across * swing + shift) + 0.02 * np.sin(across * swing * 3 + shift)
        colour = _blend(np.array(light), np.array(ground), 0.35 + 0.65 * depth)
        picture = _blend(picture, colour, np.clip((down - line) * 160, 0, 1)[..., None])
    return _png(np.clip(picture, 0, 255).astype(np.uint8))


def _blend(one: np.ndarray, other: np.ndarray, share: np.ndarray | float) -> np.ndarray:
    return np.asarray(one * (1 - share) + other * share)


def _png(picture: np.ndarray) -> bytes:
    height, width, _ = picture.shape
    # Each row as the difference to the one above: smooth pictures become small.
    above = np.vstack([np.zeros((1, width, 3), dtype=np.uint8), picture[:-1]])
    rows = np.full((height, 1 + width * 3), 2, dtype=np.uint8)
    rows[:, 1:] = (picture - above).reshape(height, width * 3)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 6)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

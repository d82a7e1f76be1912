"""Which bytes of a file a player asks for (RFC 9110, section 14)."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["NotSatisfiable", "wanted_bytes", "is_known"]

SPEC = re.compile(r"(\d{0,19})-(\d{0,19})", re.ASCII)
RANGES = 8
"""A list of more is an attack: no player asks for them."""


class NotSatisfiable(Exception):
    """Nothing of the file is in the range that was asked for: 416."""


def wanted_bytes(headers: Mapping[str, str], *, size: int, etag: str, modified: str) -> tuple[int, int] | None:
    """First and last byte that `Range:` asks for; None means the whole file. Raises NotSatisfiable.

    The whole file is also the answer to a header that makes no sense, to one for another version of the file
    (`If-Range:`), and to a list of a few ranges, as the standard allows: no player needs those.
    """
    header = headers.get("range")
    if header is None or headers.get("if-range", etag) not in (etag, modified):
        return None
    unit, equals, value = header.partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    specs = [spec.strip() for spec in value[:1000].split(",")]
    if len(specs) > RANGES:
        raise NotSatisfiable
    if len(specs) > 1:
        return None
    match = SPEC.fullmatch(specs[0])
    if match is None or match[0] == "-":
        return None
    first, last = match.groups()
    if not first:
        return _suffix(int(last), size)
    if last and int(last) < int(first):
        return None
    if int(first) >= size:
        raise NotSatisfiable
    return int(first), min(int(last), size - 1) if last else size - 1


def is_known(headers: Mapping[str, str], *, etag: str) -> bool:
    """Whether the client has this version already (`If-None-Match:`): 304."""
    header = headers.get("if-none-match")
    if header is None:
        return False
    known = {tag.strip().removeprefix("W/") for tag in header[:4000].split(",")}
    return etag in known or "*" in known


def _suffix(length: int, size: int) -> tuple[int, int]:
    if not length or not size:
        raise NotSatisfiable
    return max(0, size - length), size - 1

"""What may be wrong with a file that somebody sends."""

from __future__ import annotations

from encore.errors import SiteError

__all__ = ["Unprocessable", "UnsupportedMedia"]


class UnsupportedMedia(SiteError):
    """The file is of a kind that is not taken, whatever its name says."""

    status = 415
    code = "unsupported_media"


class Unprocessable(SiteError):
    """The request is well-formed, and what it holds cannot be used."""

    status = 422
    code = "invalid"

"""What many routes answer alike. Every answer of the API is JSON."""

from __future__ import annotations

from pydantic import BaseModel

__all__ = ["Gone"]


class Gone(BaseModel):
    """It was there, and is no more."""

    deleted: bool = True

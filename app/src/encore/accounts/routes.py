"""The routes of accounts."""

from __future__ import annotations

from fastapi import APIRouter

from encore.accounts.access import CurrentUser
from encore.accounts.schemas import Me

__all__ = ["router"]

router = APIRouter(prefix="/api/auth", tags=["accounts"])


@router.get("/me")
async def me(user: CurrentUser) -> Me:
    """Who is signed in."""
    return Me.of(user)

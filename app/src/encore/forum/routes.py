"""The routes of the forum, and its sockets."""

from __future__ import annotations

from fastapi import APIRouter

from encore.forum.message_routes import router as messages
from encore.forum.moderation_routes import router as moderation
from encore.forum.notification_routes import router as notifications
from encore.forum.sockets import router as sockets
from encore.forum.thread_routes import router as threads

__all__ = ["router"]

router = APIRouter()
for part in (threads, messages, moderation):
    router.include_router(part, prefix="/api/forum")
router.include_router(notifications)
router.include_router(sockets)

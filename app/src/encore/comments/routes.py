"""The routes of comments: REST, and the socket of a track."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Path, Query, WebSocket

from antiphon import Connection
from encore.accounts.access import CurrentUser
from encore.answers import Gone
from encore.comments import service
from encore.comments.bodies import EDITED_BODY, EditedBody
from encore.comments.channel import SignedIn, manager, topic_of, typing_notes
from encore.comments.messages import Connected, Typing, UserTyping
from encore.comments.schemas import Closing, CommentData, Content
from encore.comments.sockets import existing_track
from encore.db import ReadSession, WriteSession
from encore.errors import ErrorAnswer
from encore.live import read_message, tell, telling_problems
from encore.pagination import Cursor, Limit, Page, cut

__all__ = ["router"]

router = APIRouter(tags=["comments"])

Number = Annotated[int, Path(ge=1, le=2**63 - 1)]
Seconds = Annotated[float, Query(ge=0, le=1e6, allow_inf_nan=False)]
Answers = dict[int | str, dict[str, Any]]
NO_TRACK: Answers = {404: {"model": ErrorAnswer, "description": "There is no such track"}}
NO_COMMENT: Answers = {
    403: {"model": ErrorAnswer, "description": "It is somebody else's"},
    404: {"model": ErrorAnswer, "description": "There is no such comment"},
}
REFUSED: Answers = {
    400: {"model": ErrorAnswer, "description": "The track has no such moment"},
    409: {"model": ErrorAnswer, "description": "Comments are closed"},
}


@router.get("/api/tracks/{track_id}/comments", responses=NO_TRACK)
async def list_comments(
    session: ReadSession,
    track_id: Number,
    order: Annotated[
        Literal["timestamp", "newest"], Query(description="As they come in the track, or by age")
    ] = "timestamp",
    from_s: Seconds = 0.0,
    to_s: Seconds | None = None,
    limit: Limit = 100,
    cursor: Cursor = None,
) -> Page[CommentData]:
    """The comments on a track, or on a part of it."""
    rows = await service.comments_page(
        session, track_id, order=order, from_s=from_s, to_s=to_s, limit=limit, cursor=cursor
    )
    by_time = order == "timestamp"
    page, behind = cut(rows, limit=limit, key=lambda row: (row[0].at_s, row[0].id) if by_time else (row[0].id,))
    items = [CommentData.of(comment, username=username, display_name=shown) for comment, username, shown in page]
    return Page(items=items, next_cursor=behind)


@router.post("/api/tracks/{track_id}/comments", status_code=201, responses={**NO_TRACK, **REFUSED})
async def write_comment(
    session: WriteSession,
    user: CurrentUser,
    track_id: Number,
    content: Annotated[Content, Form()],
    timestamp: Annotated[float, Form(ge=0, le=1e6, allow_inf_nan=False, description="Seconds into the track")],
    parent_id: Annotated[int | None, Form(ge=1, le=2**63 - 1, description="The comment that it replies to")] = None,
) -> CommentData:
    """Comment on a moment of a track."""
    return await service.create(session, user, track_id=track_id, content=content, at_s=timestamp, parent_id=parent_id)


@router.put("/api/comments/{comment_id}", responses=NO_COMMENT, openapi_extra=EDITED_BODY)
async def edit_comment(session: WriteSession, user: CurrentUser, comment_id: Number, edited: EditedBody) -> CommentData:
    """Change one's own comment."""
    return await service.edit(session, user, comment_id=comment_id, content=edited.content)


@router.delete("/api/comments/{comment_id}", responses=NO_COMMENT)
async def delete_comment(session: WriteSession, user: CurrentUser, comment_id: Number) -> Gone:
    """Delete a comment; its replies stay."""
    await service.remove(session, user, comment_id=comment_id)
    return Gone()


@router.put("/api/tracks/{track_id}/comments-closed", responses=NO_TRACK)
async def close_comments(session: WriteSession, user: CurrentUser, track_id: Number, closing: Closing) -> Closing:
    """Close a track's comments, or open them again."""
    await service.close(session, user, track_id=track_id, closed=closing.closed)
    return closing


@router.websocket("/api/ws/track/{track_id}")
@router.websocket("/ws/comments/{track_id}")
async def track_socket(websocket: WebSocket, identity: SignedIn, track_id: str) -> None:
    """The comments on one track as they are made, and who types."""
    number = await existing_track(websocket, track_id)
    user_id, username = identity.user_id or "", str(identity.claims.get("username", ""))

    async def greet(connection: Connection) -> None:
        await tell(manager, connection, Connected(track_id=number))

    async def answer(connection: Connection, message: object) -> None:
        async with telling_problems(manager, connection):
            said = read_message(message, Typing)
            if typing_notes.is_news(user_id, number, is_typing=said.is_typing):
                news = UserTyping(track_id=number, user_id=int(user_id), username=username, is_typing=said.is_typing)
                await manager.broadcast(
                    news.model_dump(mode="json"),
                    topic=topic_of(number),
                    exclude=connection,
                    ephemeral=True,
                    slow="drop_oldest",
                )

    await manager.serve(
        websocket,
        identity=identity,
        topics=[topic_of(number)],
        on_connect=greet,
        on_message=answer,
        heartbeat="earlier",
    )

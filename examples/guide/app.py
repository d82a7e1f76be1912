"""Five managers in one file: broadcasts, comments on tracks, a forum, and book requests with their admin side.

    uvicorn app:app --port 8001                                           one replica
    REDIS_URL=redis://localhost:6379/0 uvicorn app:app --port 8001        and again with 8002 and 8003: three

The user is `?user_id=` and the admin side is `?role=creator`: an example's stand-ins for a login. Never believe them
in an application of your own.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import time
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, FastAPI, HTTPException, Query, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from websocket_manager import WebSocketManager

import antiphon
from antiphon import CloseCode, ConfigurationError, NotConnected, Receipt

logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
# The page asks for /stats every three seconds.
logging.getLogger("uvicorn.access").addFilter(lambda line: "/stats" not in line.getMessage())

# --- The managers: each on a Redis channel of its own, made at import time, before there is an event loop ---

broadcasts = WebSocketManager(channel="broadcasts")
track_comments = WebSocketManager(channel="track_comments")
forum = WebSocketManager(channel="forum")
book_requests = WebSocketManager(channel="book_requests")
book_requests_admin = WebSocketManager(channel="book_requests_admin")

# --- What clients send, and what is kept of it ---

# Of a track or a thread, and a part of a topic's name. Numbers are welcome.
PlaceId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]{1,100}$", coerce_numbers_to_str=True)]
Title = Annotated[str, Field(min_length=1, max_length=200)]
Content = Annotated[str, Field(min_length=1, max_length=5000)]
Status = Literal["pending", "approved", "in_progress", "fulfilled", "rejected"]


class Body(BaseModel):
    model_config = ConfigDict(str_strip_whitespace=True)


class NewBroadcast(Body):
    title: Title
    content: Content


class NewComment(Body):
    track_id: PlaceId
    content: Content
    timestamp: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # seconds into the track


class EditedComment(Body):
    content: Content


class NewPost(Body):
    thread_id: PlaceId
    content: Content


class NewBookRequest(Body):
    title: Title


class NewStatus(Body):
    status: Status


class Comment(NewComment):
    id: str
    user_id: str
    created_at: str
    edited_at: str | None = None


class BookRequest(NewBookRequest):
    id: str
    user: str
    status: Status
    created_at: str


Record = TypeVar("Record", bound=BaseModel)


class Records(Generic[Record]):
    """Records by id: in memory, and for a day in Redis, where the other replicas find them. Yours has a database.

    Nothing here fails when Redis is away: this replica goes on with what it knows, and `share` hands it over later.
    """

    def __init__(self, model: type[Record], redis: Redis | None) -> None:
        self._model = model
        self._redis = redis
        self._here: dict[str, Record | None] = {}  # None: deleted
        self._unshared: set[str] = set()
        self._away_until = 0.0

    async def get(self, id: str) -> Record | None:
        if self._redis is not None and id not in self._unshared and time.monotonic() >= self._away_until:
            try:
                stored = await self._redis.get(f"guide:{self._model.__name__}:{id}")
            except (RedisError, OSError):
                self._away_until = time.monotonic() + 1.0
            else:
                if isinstance(stored, bytes) and id not in self._unshared:
                    self._here[id] = self._model.model_validate_json(stored) if stored else None
        return self._here.get(id)

    async def put(self, id: str, record: Record | None) -> None:
        self._here[id] = record
        if self._redis is not None:
            self._unshared.add(id)
            await self._share(id)

    async def share(self) -> None:
        """Give Redis what it does not have yet."""
        for id in tuple(self._unshared):
            await self._share(id)

    async def _share(self, id: str) -> None:
        if self._redis is None or time.monotonic() < self._away_until:
            return
        record = self._here[id]
        try:
            stored = record.model_dump_json() if record is not None else ""
            await self._redis.set(f"guide:{self._model.__name__}:{id}", stored, ex=86_400)
        except (RedisError, OSError):
            self._away_until = time.monotonic() + 1.0
        else:
            if self._here[id] is record:  # not changed again meanwhile
                self._unshared.discard(id)


redis: Redis | None = None
if redis_url := os.environ.get("ANTIPHON_BROKER_URL") or os.environ.get("REDIS_URL"):
    # One short try: a request goes on without Redis rather than wait for it.
    redis = Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0), socket_timeout=0.5, socket_connect_timeout=0.5)
comments = Records(Comment, redis)
requests = Records(BookRequest, redis)

# --- The application ---


@contextlib.asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async def keep_sharing() -> None:
        while True:
            await asyncio.sleep(1.0)
            await comments.share()
            await requests.share()

    async with antiphon.lifespan(app):
        sharing = asyncio.create_task(keep_sharing())
        yield
        sharing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await sharing
        if redis is not None:
            await redis.aclose()


app = FastAPI(title="Antiphon's guide", lifespan=lifespan)
antiphon.install(app)  # the quick way to the sockets with a plain `uvicorn app:app`
# The two panes of the page talk to different ports of this machine.
ports_of_this_machine = r"http://(localhost|127\.0\.0\.1)(:\d+)?"
app.add_middleware(CORSMiddleware, allow_origin_regex=ports_of_this_machine, allow_methods=["*"], allow_headers=["*"])


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
    # Without the input itself, which may be what JSON cannot carry: NaN, or half of a surrogate pair.
    return JSONResponse({"detail": [{key: e[key] for key in ("loc", "msg", "type")} for e in error.errors()]}, 422)


User = Annotated[str, Query(min_length=1, max_length=128)]


def creators_only(role: str = "") -> None:
    if role != "creator":
        raise HTTPException(403, "only creators may do this: ?role=creator")


def stamp() -> dict[str, str]:
    return {"id": uuid.uuid4().hex, "created_at": datetime.now(UTC).isoformat(timespec="milliseconds")}


def answer(record: dict[str, object], receipt: Receipt) -> dict[str, object]:
    """What was made, and how far the news of it went: `cluster`, or `local` while Redis is away."""
    delivery = {"scope": receipt.scope, "replicas": receipt.replicas, "queued": receipt.queued}
    return {**record, "delivery": delivery}


# --- WebSockets ---


async def talk(manager: WebSocketManager, websocket: WebSocket, message: str, **place: str) -> None:
    """One client's conversation: `connected`, then what the manager sends; its `ping` is answered by `pong`.

    In a `place` (track="7") it hears what is published there, and what is published for the whole channel.
    """
    user_id = websocket.query_params.get("user_id") or None
    try:
        await manager.connect(websocket, user_id, topics=[f"{kind}:{id}" for kind, id in place.items()])
    except ConfigurationError:
        return await refuse(websocket, CloseCode.BAD_REQUEST, "this id has characters that no id here has")
    try:
        hello = {"type": "connected", "message": message, **{f"{kind}_id": id for kind, id in place.items()}}
        await manager.send_personal_message(hello, websocket)
        while (event := await websocket.receive())["type"] == "websocket.receive":
            if is_ping(event.get("text")):
                await manager.send_personal_message({"type": "pong"}, websocket)
    except NotConnected:
        pass  # the manager has let go of it: too slow, or a shutdown
    finally:
        manager.disconnect(websocket)


def is_ping(text: str | None) -> bool:
    try:
        message = json.loads(text or "")
    except (ValueError, RecursionError):
        return False
    return isinstance(message, dict) and message.get("type") == "ping"


async def refuse(websocket: WebSocket, code: CloseCode, reason: str) -> None:
    await websocket.accept()  # a browser sees the code of a close, and nothing of an HTTP refusal
    await websocket.close(code, reason)


@app.websocket("/ws/broadcasts")
async def broadcasts_socket(websocket: WebSocket) -> None:
    await talk(broadcasts, websocket, "Connected to broadcast live updates")


@app.websocket("/ws/comments/{track_id}")
async def comments_socket(websocket: WebSocket, track_id: str) -> None:
    await talk(track_comments, websocket, "Connected to comment updates", track=track_id)


@app.websocket("/ws/forum/{thread_id}")
async def forum_socket(websocket: WebSocket, thread_id: str) -> None:
    await talk(forum, websocket, "Connected to thread updates", thread=thread_id)


@app.websocket("/ws/book-requests")
async def book_requests_socket(websocket: WebSocket) -> None:
    if not websocket.query_params.get("user_id"):
        return await refuse(websocket, CloseCode.NOT_SIGNED_IN, "say who you are: ?user_id=")
    await talk(book_requests, websocket, "Connected to book request updates")


@app.websocket("/ws/book-requests/admin")
async def book_requests_admin_socket(websocket: WebSocket) -> None:
    if websocket.query_params.get("role") != "creator":
        return await refuse(websocket, CloseCode.FORBIDDEN, "only creators may listen here: ?role=creator")
    await talk(book_requests_admin, websocket, "Connected to book request administration")


# --- REST ---


@app.post("/api/broadcasts", status_code=201)
async def create_broadcast(new: NewBroadcast, user_id: User) -> dict[str, object]:
    data = {**stamp(), "user_id": user_id, **new.model_dump()}
    return answer(data, await broadcasts.broadcast({"type": "new_broadcast", "data": data}))


@app.post("/api/comments", status_code=201)
async def create_comment(new: NewComment, user_id: User) -> dict[str, object]:
    comment = Comment.model_validate({**stamp(), "user_id": user_id, **new.model_dump()})
    await comments.put(comment.id, comment)
    return await tell_track(comment.track_id, "new_comment", comment.model_dump())


@app.put("/api/comments/{id}")
async def edit_comment(id: str, edit: EditedComment, user_id: User) -> dict[str, object]:
    comment = await own_comment(id, user_id)
    comment = comment.model_copy(update={"content": edit.content, "edited_at": stamp()["created_at"]})
    await comments.put(id, comment)
    return await tell_track(comment.track_id, "comment_updated", comment.model_dump())


@app.delete("/api/comments/{id}")
async def delete_comment(id: str, user_id: User) -> dict[str, object]:
    comment = await own_comment(id, user_id)
    await comments.put(id, None)
    return await tell_track(comment.track_id, "comment_deleted", {"id": id, "track_id": comment.track_id})


async def own_comment(id: str, user_id: str) -> Comment:
    comment = await comments.get(id)
    if comment is None:
        raise HTTPException(404, "there is no such comment")
    if comment.user_id != user_id:
        raise HTTPException(403, "only its author may change a comment")
    return comment


async def tell_track(track_id: str, type: str, data: dict[str, object]) -> dict[str, object]:
    message = {"type": type, "track_id": track_id, "data": data}
    return answer(data, await track_comments.broadcast(message, topic=f"track:{track_id}"))


@app.post("/api/forum/posts", status_code=201)
async def create_post(new: NewPost, user_id: User) -> dict[str, object]:
    data = {**stamp(), "user_id": user_id, **new.model_dump()}
    message = {"type": "new_post", "thread_id": new.thread_id, "data": data}
    return answer(data, await forum.broadcast(message, topic=f"thread:{new.thread_id}"))


@app.post("/api/book-requests", status_code=201)
async def create_book_request(new: NewBookRequest, user_id: User) -> dict[str, object]:
    request = BookRequest(**stamp(), user=user_id, title=new.title, status="pending")
    await requests.put(request.id, request)
    created = {"type": "request_created", "data": request.model_dump(include={"id", "title", "status"})}
    receipt = await book_requests.send_to_user(user_id, created)
    news = {"type": "new_request", "data": request.model_dump(include={"id", "title", "user", "created_at"})}
    await book_requests_admin.broadcast(news)
    return answer(request.model_dump(), receipt)


@app.put("/api/book-requests/{id}/status", dependencies=[Depends(creators_only)])
async def change_status(id: str, new: NewStatus) -> dict[str, object]:
    request = await requests.get(id)
    if request is None:
        raise HTTPException(404, "there is no such book request")
    request = request.model_copy(update={"status": new.status})
    await requests.put(id, request)
    data = {"id": id, "status": new.status}
    told = {**data, "message": f"Your request '{request.title}' is now {new.status}"}
    receipt = await book_requests.send_to_user(request.user, {"type": "status_updated", "data": told})
    await book_requests_admin.broadcast({"type": "request_updated", "data": data})
    return answer(request.model_dump(), receipt)


@app.get("/stats")
async def stats() -> dict[str, object]:
    """By manager: the state of its link, the sockets and users of this replica, and those of all replicas together."""
    managers = (broadcasts, track_comments, forum, book_requests, book_requests_admin)
    counts = await asyncio.gather(*(manager.cluster_counts() for manager in managers))
    return {
        "pid": os.getpid(),
        "replicas": [url for url in os.environ.get("ANTIPHON_DEV_REPLICAS", "").split(",") if url],
        "managers": {
            manager.channel: {
                "state": manager.state,
                "connections": manager.get_connection_count(),
                "users": manager.get_user_count(),
                "cluster": dataclasses.asdict(count),
            }
            for manager, count in zip(managers, counts, strict=True)
        },
    }


@app.get("/", include_in_schema=False)
async def page() -> FileResponse:
    return FileResponse(Path(__file__).with_name("page.html"))

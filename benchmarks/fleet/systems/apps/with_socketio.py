"""python-socketio as an ASGI application."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc"
# The peers are not in the environment of the checks; some have no types.

from urllib.parse import parse_qs

import socketio

server = socketio.AsyncServer(async_mode="asgi")
app = socketio.ASGIApp(server)
rooms: set[str] = set()


@server.event
async def connect(sid: str, environ: dict[str, str]) -> None:
    """A client that names a topic joins the room of that name."""
    topic = parse_qs(environ.get("QUERY_STRING", "")).get("topic")
    if topic:
        rooms.add(topic[0])
        await server.enter_room(sid, topic[0])


@server.on("message")
async def message(sid: str, data: object) -> None:
    """What one client sends goes to all, or to every room when there are some."""
    if not rooms:
        await server.emit("message", data)
        return
    for room in rooms:
        await server.emit("message", data, room=room)

"""The AsyncAPI 3 document of all sockets, made from the message classes of the features."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

from pydantic.json_schema import models_json_schema

import encore
from encore.live import ClientMessage, Heartbeat, Ping, Pong, Problem, ServerMessage

__all__ = ["SOCKETS", "SocketOf", "asyncapi", "messages_of"]

Message = type[ServerMessage] | type[ClientMessage]

GENERAL_SERVER: tuple[type[ServerMessage], ...] = (Pong, Heartbeat, Problem)
GENERAL_CLIENT: tuple[type[ClientMessage], ...] = (Ping,)
PARAMETERS = {"track_id": "The track to watch", "thread_id": "The thread to watch"}
DESCRIPTION = """What the server and its clients say to each other over WebSockets, as JSON text frames.

Sign in by the session's cookie, or by `?ticket=` with one of `POST /api/auth/ws-ticket`. `?user_id=` is accepted, never
believed: it has to be the one who is signed in. A client sends `ping` every 25 s. Close codes 4500 to 4599 mean: do not
come back as you are; all others: connect again, with growing pauses."""


@dataclass(frozen=True, kw_only=True)
class SocketOf:
    """A socket of a feature. `server` and `client` are the types of message on it; None: all of the feature."""

    name: str
    feature: str
    title: str
    addresses: tuple[str, ...]
    """The first one is the one to use; the others are for earlier clients, or shorter."""
    server: frozenset[str] | None = None
    client: frozenset[str] | None = None


BY_THREAD = frozenset(
    {
        "message_deleted",
        "message_edited",
        "message_liked",
        "message_unliked",
        "new_message",
        "new_sub_thread_created",
        "thread_updated",
        "user_typing",
    }
)
TO_EVERYONE = frozenset(
    {"everyone_mention_disabled", "everyone_mention_enabled", "new_thread_created", "thread_deleted"}
)
TO_ONE = frozenset({"forum_notification", "forum_notification_count"})
GREETING = frozenset({"connected", "deprecated"})

SOCKETS = (
    SocketOf(
        name="broadcasts",
        feature="broadcasts",
        title="Announcements",
        addresses=("/api/creator/broadcast/ws", "/ws/broadcasts"),
    ),
    SocketOf(
        name="trackComments",
        feature="comments",
        title="Comments on a track",
        addresses=("/api/ws/track/{track_id}", "/ws/comments/{track_id}"),
    ),
    SocketOf(name="forum", feature="forum", title="The forum, all of it", addresses=("/api/forum/ws/v2",)),
    SocketOf(
        name="forumThread",
        feature="forum",
        title="One thread, for clients of the earlier protocol",
        addresses=("/api/forum/ws/thread/{thread_id}", "/ws/forum/{thread_id}"),
        server=BY_THREAD | GREETING | {"thread_deleted"},
        client=frozenset({"typing"}),
    ),
    SocketOf(
        name="forumGlobal",
        feature="forum",
        title="What concerns everybody, for clients of the earlier protocol",
        addresses=("/api/forum/ws/global",),
        server=TO_EVERYONE | TO_ONE | GREETING,
        client=frozenset(),
    ),
    SocketOf(
        name="bookRequests",
        feature="book_requests",
        title="One's own book requests",
        addresses=("/ws/book-requests", "/api/ws/book-requests"),
        server=frozenset({"request_created", "status_updated"}),
    ),
    SocketOf(
        name="bookRequestsAdmin",
        feature="book_requests",
        title="All book requests, for creators and admins",
        addresses=("/ws/book-requests/admin", "/api/ws/book-requests/admin"),
        server=frozenset({"new_request", "request_updated"}),
    ),
)


def messages_of(feature: str) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    """What a feature's server side says, and what its clients say; with what is said on every socket.

    A feature with sockets for several kinds of people may name what is for one of them apart, as `ADMIN_FROM_SERVER`.
    """
    found = vars(import_module(f"encore.{feature}.messages"))
    server = [message for name, said in found.items() if name.endswith("FROM_SERVER") for message in said]
    return (
        tuple(dict.fromkeys((*server, *GENERAL_SERVER))),
        tuple(dict.fromkeys((*found["FROM_CLIENT"], *GENERAL_CLIENT))),
    )


@cache
def asyncapi() -> dict[str, Any]:
    """The document."""
    every: dict[Message, None] = {}
    for feature in dict.fromkeys(socket.feature for socket in SOCKETS):
        for said in messages_of(feature):
            every.update(dict.fromkeys(said))
    found, definitions = models_json_schema(
        [(message, "serialization" if issubclass(message, ServerMessage) else "validation") for message in every],
        ref_template="#/components/schemas/{model}",
    )
    references = {model: schema["$ref"] for (model, _), schema in found.items()}
    for message, reference in references.items():
        _require(definitions["$defs"][reference.rpartition("/")[2]], is_whole=issubclass(message, ServerMessage))
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for socket in SOCKETS:
        for number, address in enumerate(socket.addresses):
            name = socket.name if number == 0 else f"{socket.name}Alias{'' if number == 1 else number}"
            channels[name] = _channel(socket, address, is_alias=number > 0)
            operations |= _operations(socket, name)
    document = {
        "asyncapi": "3.0.0",
        "info": {"title": "Encore, live", "version": encore.__version__, "description": DESCRIPTION},
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {_key(message): _message(message, references[message]) for message in every},
            "schemas": definitions["$defs"],
        },
    }
    return _plainly_named(document)


def _plainly_named(document: dict[str, Any]) -> dict[str, Any]:
    """Of classes that share a name, pydantic names the modules: `BroadcastsConnected` says as much, and is a name."""
    text = json.dumps(document)
    for long in {name for name in document["components"]["schemas"] if "__" in name}:
        _, feature, *_, name = long.split("__")
        text = text.replace(f'/{long}"', f'/{_title(feature)}{name}"').replace(
            f'"{long}":', f'"{_title(feature)}{name}":'
        )
    named: dict[str, Any] = json.loads(text)
    return named


def _title(feature: str) -> str:
    return "".join(word.capitalize() for word in feature.split("_"))


def _require(schema: dict[str, Any], *, is_whole: bool) -> None:
    """The server leaves no field out, whatever has a default; clients at least have to say the type."""
    schema["required"] = sorted(schema["properties"] if is_whole else {"type", *schema.get("required", ())})


def _key(message: Message) -> str:
    """A feature's own messages carry its name; those of every socket do not."""
    feature = message.__module__.split(".")[1]
    return message.__name__ if feature == "live" else f"{feature}.{message.__name__}"


def _type_of(message: Message) -> str:
    return str(message.model_fields["type"].default)


def _said(socket: SocketOf) -> tuple[list[Message], list[Message]]:
    server, client = messages_of(socket.feature)
    return (
        _chosen(server, socket.server, always=GENERAL_SERVER),
        _chosen(client, socket.client, always=GENERAL_CLIENT),
    )


def _chosen(messages: Iterable[Message], types: frozenset[str] | None, *, always: tuple[Message, ...]) -> list[Message]:
    return [message for message in messages if types is None or message in always or _type_of(message) in types]


def _channel(socket: SocketOf, address: str, *, is_alias: bool) -> dict[str, Any]:
    server, client = _said(socket)
    channel: dict[str, Any] = {
        "address": address,
        "title": socket.title,
        "description": f"The same as {socket.addresses[0]}." if is_alias else f"{socket.title}.",
        "messages": {_key(message): {"$ref": f"#/components/messages/{_key(message)}"} for message in server + client},
        "tags": [{"name": socket.feature}],
        "bindings": {
            "ws": {
                "method": "GET",
                "query": {
                    "type": "object",
                    "properties": {
                        "ticket": {"type": "string", "description": "A single-use sign-in of 30 s"},
                        "user_id": {"type": "string", "description": "Of earlier clients; never believed"},
                    },
                },
            }
        },
    }
    names = re.findall(r"{(\w+)}", address)
    if names:
        channel["parameters"] = {name: {"description": PARAMETERS[name]} for name in names}
    return channel


def _operations(socket: SocketOf, channel: str) -> dict[str, Any]:
    """Seen from the server, as AsyncAPI has it: what it sends, and what it receives."""
    server, client = _said(socket)
    return {
        f"{channel}.{action}": {
            "action": action,
            "channel": {"$ref": f"#/channels/{channel}"},
            "summary": f"{socket.title}: what the {'server' if action == 'send' else 'client'} says",
            "messages": [{"$ref": f"#/channels/{channel}/messages/{_key(message)}"} for message in messages],
        }
        for action, messages in (("send", server), ("receive", client))
    }


def _message(message: Message, reference: str) -> dict[str, Any]:
    said = {"name": _type_of(message), "title": message.__name__, "payload": {"$ref": reference}}
    inherited = {ServerMessage.__doc__, ClientMessage.__doc__}
    if message.__doc__ and message.__doc__ not in inherited:
        said["summary"] = message.__doc__.strip().split("\n")[0]
    return said

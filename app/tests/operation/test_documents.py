"""The documents about the site are whole: OpenAPI for the routes, AsyncAPI for the sockets."""

from __future__ import annotations

import inspect
import json
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import jsonschema_rs
import pytest
from fastapi.routing import APIWebSocketRoute
from pydantic import BaseModel
from typer.testing import CliRunner

import encore
from encore.cli import main
from encore.live import ClientMessage, ServerMessage
from encore.main import app
from encore.operation.asyncapi import SOCKETS, asyncapi, messages_of
from encore.operation.demo import router as demo
from encore.operation.openapi import TAGS

FEATURES = ("accounts", "catalogue", "broadcasts", "comments", "forum", "book_requests", "operation")
ERRORS = ("401", "403", "422", "429", "503")
READABLE = re.compile(r"[a-z]+(_[a-z0-9]+)+")
Operation = tuple[str, dict[str, Any]]


def operations() -> list[Operation]:
    """Every route as the document has it, with a name for failures."""
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in app.openapi()["paths"].items()
        for method, operation in methods.items()
    ]


def lacking(what: Any) -> list[str]:
    """The routes of which `what(operation)` is not true."""
    return [name for name, operation in operations() if not what(operation)]


# -- OpenAPI ----------------------------------------------------------------------------------------------------------


def test_every_feature_has_routes_and_every_route_the_tag_of_its_feature() -> None:
    tags = Counter(operation["tags"][0] for _, operation in operations())
    assert set(tags) == set(FEATURES)
    assert lacking(lambda operation: len(operation["tags"]) == 1) == []
    assert {tag["name"] for tag in TAGS} == set(FEATURES)


def test_every_route_has_an_id_of_its_own_that_people_can_read() -> None:
    ids = Counter(operation["operationId"] for _, operation in operations())
    assert [name for name, count in ids.items() if count > 1] == []
    assert [name for name in ids if not READABLE.fullmatch(name)] == []


def test_every_route_has_a_description() -> None:
    assert lacking(lambda operation: operation.get("description", "").endswith(".")) == []


def test_every_answer_has_a_model() -> None:
    found = []
    for name, operation in operations():
        for status, answer in operation["responses"].items():
            schemas = [content.get("schema") for content in answer.get("content", {}).values()]
            empty = status in ("204", "206", "304", "416")
            if not empty and (not schemas or any(not schema for schema in schemas)):
                found.append(f"{name}: {status}")
    assert found == []


def test_every_route_names_the_errors_that_any_route_may_give() -> None:
    assert lacking(lambda operation: all(status in operation["responses"] for status in ERRORS)) == []
    reference = {"$ref": "#/components/schemas/ErrorAnswer"}
    wrong = [
        f"{name}: {status}"
        for name, operation in operations()
        for status, answer in operation["responses"].items()
        if status >= "400" and answer.get("content", {}).get("application/json", {}).get("schema") != reference
    ]
    assert sorted(wrong) == ["GET /readyz: 503"]


def test_every_text_that_comes_in_has_a_bound() -> None:
    document = app.openapi()
    taken = {
        reference
        for _, operation in operations()
        for content in operation.get("requestBody", {}).get("content", {}).values()
        for reference in references(content)
    }
    unbounded = [
        f"{reference}.{name}"
        for reference in sorted(taken)
        for name, field in resolve(document, reference).get("properties", {}).items()
        if is_unbounded(field)
    ]
    unbounded += [
        f"{name}: {parameter['name']}"
        for name, operation in operations()
        for parameter in operation.get("parameters", [])
        if is_unbounded(parameter["schema"])
    ]
    assert unbounded == []


def is_unbounded(schema: dict[str, Any]) -> bool:
    if any(is_unbounded(choice) for choice in (*schema.get("anyOf", ()), *schema.get("allOf", ()))):
        return True
    if schema.get("type") != "string":
        return False
    bounds = ("maxLength", "enum", "const", "contentMediaType", "contentEncoding")
    known = schema.get("format") in ("date-time", "date", "binary", "uuid")
    return not known and not any(bound in schema for bound in bounds)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def resolve(document: dict[str, Any], reference: str) -> dict[str, Any]:
    found: Any = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part.replace("~1", "/")]
    assert isinstance(found, dict)
    return found


def test_every_reference_leads_somewhere() -> None:
    document = app.openapi()
    for reference in set(references(document)):
        assert resolve(document, reference)


def test_every_route_says_how_to_sign_in_for_it() -> None:
    schemes = app.openapi()["components"]["securitySchemes"]
    assert set(schemes) == {"session", "operator"}
    assert lacking(lambda operation: all(set(one) <= set(schemes) for one in operation["security"])) == []
    security = {operation["operationId"]: operation["security"] for _, operation in operations()}
    assert security["accounts_login"] == []
    assert security["accounts_me"] == [{"session": []}]
    assert security["forum_list_threads"] == [{"session": []}, {}]
    assert security["operation_drain"] == [{"operator": []}]
    assert security["operation_status"] == [{"session": []}, {"operator": []}]


def test_every_shape_has_a_name_of_its_own() -> None:
    # Two classes of one name get their modules' names, which are no names for clients.
    assert [name for name in app.openapi()["components"]["schemas"] if "__" in name] == []
    assert [name for name in asyncapi()["components"]["schemas"] if "__" in name] == []


def test_the_demonstrations_routes_are_documented_like_all_others() -> None:
    for route in demo.routes:
        assert inspect.getdoc(route.endpoint)  # type: ignore[attr-defined]  # all of them are routes of functions
        assert route.response_model is not None  # type: ignore[attr-defined]


# -- AsyncAPI ---------------------------------------------------------------------------------------------------------


def websocket_addresses() -> set[str]:
    return {
        context.original_route.path
        for route in app.routes
        for context in getattr(route, "effective_route_contexts", list)()
        if isinstance(context.original_route, APIWebSocketRoute)
    }


def test_every_socket_of_the_site_is_in_the_document_and_no_other() -> None:
    documented = [address for socket in SOCKETS for address in socket.addresses]
    assert len(documented) == len(set(documented))
    assert set(documented) == websocket_addresses()
    assert {channel["address"] for channel in asyncapi()["channels"].values()} == set(documented)


def test_the_addresses_are_those_of_the_specification() -> None:
    assert websocket_addresses() >= {
        "/api/creator/broadcast/ws",
        "/ws/broadcasts",
        "/api/ws/track/{track_id}",
        "/ws/comments/{track_id}",
        "/api/forum/ws/v2",
        "/api/forum/ws/thread/{thread_id}",
        "/ws/forum/{thread_id}",
        "/api/forum/ws/global",
        "/ws/book-requests",
        "/api/ws/book-requests",
        "/ws/book-requests/admin",
        "/api/ws/book-requests/admin",
    }


def test_the_document_has_the_structure_of_asyncapi_3() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert set(document) <= {"asyncapi", "id", "info", "defaultContentType", "channels", "operations", "components"}
    assert {"title", "version"} <= set(document["info"])
    key = re.compile(r"[A-Za-z0-9._-]+")
    for name, channel in document["channels"].items():
        assert key.fullmatch(name)
        assert channel["address"].startswith("/")
        assert set(channel.get("parameters", {})) == set(re.findall(r"{(\w+)}", channel["address"]))
        assert set(channel["bindings"]) == {"ws"}
        for message, reference in channel["messages"].items():
            assert reference == {"$ref": f"#/components/messages/{message}"}
    for name, operation in document["operations"].items():
        assert key.fullmatch(name)
        assert operation["action"] in ("send", "receive")
        channel_of = operation["channel"]["$ref"]
        # An operation names messages of its channel, and not those of the components.
        assert all(message["$ref"].startswith(f"{channel_of}/messages/") for message in operation["messages"])
    for reference in set(references(document)):
        assert resolve(document, reference)
    used = {name for channel in document["channels"].values() for name in channel["messages"]}
    assert used == set(document["components"]["messages"])


def test_every_payload_is_a_schema_with_the_type_as_a_constant() -> None:
    document = asyncapi()
    for name, message in document["components"]["messages"].items():
        assert re.fullmatch(r"([a-z_]+\.)?[A-Z]\w+", name)
        schema = resolve(document, message["payload"]["$ref"])
        assert schema["properties"]["type"]["const"] == message["name"]
        assert "type" in schema["required"]
        jsonschema_rs.validator_for({**schema, "components": document["components"]})


def classes_of(feature: str) -> set[type[BaseModel]]:
    """Every message class that a feature's modules define."""
    package = import_module(f"encore.{feature}")
    modules = [import_module(f"{package.__name__}.{found.name}") for found in pkgutil.iter_modules(package.__path__)]
    return {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, ServerMessage | ClientMessage)
        and value.__module__ == module.__name__
        and "type" in value.__annotations__
    }


@pytest.mark.parametrize("feature", ["broadcasts", "comments", "forum", "book_requests"])
def test_every_message_class_is_in_the_document(feature: str) -> None:
    server, client = messages_of(feature)
    defined = classes_of(feature)
    assert defined
    assert defined <= {*server, *client}
    titles = {message["title"] for name, message in asyncapi()["components"]["messages"].items()}
    assert {one.__name__ for one in defined} <= titles


def test_the_messages_of_every_socket_of_the_specification_are_there() -> None:
    document = asyncapi()
    said = {
        channel["address"]: {document["components"]["messages"][name]["name"] for name in channel["messages"]}
        for channel in document["channels"].values()
    }
    everywhere = {"ping", "pong", "heartbeat", "error"}
    assert all(types >= everywhere for types in said.values())
    assert said["/ws/broadcasts"] >= {
        "connected",
        "new_broadcast",
        "active_broadcast",
        "broadcast_cleared",
        "acknowledge_broadcast",
        "get_active_broadcast",
    }
    assert said["/ws/comments/{track_id}"] >= {
        "connected",
        "new_comment",
        "comment_edited",
        "comment_deleted",
        "user_typing",
        "mention",
        "typing",
    }
    by_thread = {
        "new_message",
        "thread_updated",
        "message_edited",
        "message_deleted",
        "message_liked",
        "message_unliked",
        "user_typing",
        "new_sub_thread_created",
        "typing",
    }
    to_all = {"new_thread_created", "thread_deleted", "everyone_mention_disabled", "everyone_mention_enabled"}
    to_one = {"forum_notification", "forum_notification_count"}
    assert said["/ws/forum/{thread_id}"] >= by_thread | {"connected", "deprecated"}
    assert said["/api/forum/ws/global"] >= to_all | to_one | {"connected", "deprecated"}
    asked = {"subscribe", "unsubscribe", "subscribed", "unsubscribed"}
    assert said["/api/forum/ws/v2"] >= by_thread | to_all | to_one | asked
    assert said["/ws/book-requests"] >= {"request_created", "status_updated"}
    assert said["/ws/book-requests/admin"] >= {"new_request", "request_updated"}


@pytest.mark.parametrize(("command", "key"), [("openapi", "openapi"), ("asyncapi", "asyncapi")])
def test_a_command_prints_the_document(environment: pytest.MonkeyPatch, command: str, key: str) -> None:
    result = CliRunner().invoke(main, [command])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document[key].startswith("3.")
    assert document["info"]["version"] == encore.__version__

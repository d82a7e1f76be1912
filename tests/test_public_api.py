"""What others rely on letter for letter: the public names, their signatures, and what an import brings with it."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import antiphon
from antiphon import AntiphonError, Publisher, SyncPublisher, WebSocketManager, errors

ROOT = Path(__file__).parents[1]

MANAGER = {
    "connect": ["websocket", "user_id", "*topics", "*accept", "*subprotocol"],
    "disconnect": ["websocket"],
    "serve": ["websocket", "user_id", "*topics", "*on_message", "*on_close"],
    "subscribe": ["websocket", "topic"],
    "unsubscribe": ["websocket", "topic"],
    "broadcast": [
        "message", "target_user_ids", "*topic", "*exclude", "*outage", "*expires_s", "*ephemeral",
    ],
    "send_to_user": ["user_id", "message"],
    "send_personal_message": ["message", "websocket"],
    "set_message_filter": ["message_filter"],
    "get_connection_count": [],
    "get_user_count": [],
    "is_user_connected": ["user_id"],
    "cluster_counts": [],
    "is_user_connected_anywhere": ["user_id"],
    "stats": [],
    "start": [],
    "stop": [],
    "close": [],
}  # fmt: skip
"""The parameters that callers use; more may be added, keyword-only and with a default."""

SYNCHRONOUS = {
    "disconnect",
    "unsubscribe",
    "set_message_filter",
    "get_connection_count",
    "get_user_count",
    "is_user_connected",
    "stats",
}


def public_names() -> list[str]:
    return [name for name in antiphon.__all__ if name != "__version__"]


def members(owner: type) -> Iterator[tuple[str, object]]:
    """The public functions and properties that a class of ours defines."""
    for name, member in vars(owner).items():
        if not name.startswith("_") and (callable(member) or isinstance(member, property | classmethod | staticmethod)):
            yield name, member


def functions() -> Iterator[tuple[str, object]]:
    for name in public_names():
        thing = getattr(antiphon, name)
        yield name, thing
        if inspect.isclass(thing) and thing.__module__.startswith("antiphon"):
            yield from ((f"{name}.{member_name}", member) for member_name, member in members(thing))


# -- names ------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_once() -> None:
    assert len(set(antiphon.__all__)) == len(antiphon.__all__)
    assert [name for name in antiphon.__all__ if not hasattr(antiphon, name)] == []


def test_nothing_else_looks_public() -> None:
    modules = {info.name for info in pkgutil.iter_modules(antiphon.__path__)}
    others = {name for name in vars(antiphon) if not name.startswith("_")} - set(antiphon.__all__) - modules
    assert others <= {"annotations"}


def test_every_error_is_exported_and_has_the_same_root() -> None:
    for name in errors.__all__:
        error = getattr(errors, name)
        assert issubclass(error, AntiphonError)
        assert getattr(antiphon, name) is error


def test_version_is_that_of_the_project() -> None:
    import tomllib

    with open(ROOT / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["version"] == antiphon.__version__


def test_types_are_shipped() -> None:
    assert (Path(antiphon.__file__).parent / "py.typed").exists()


@pytest.mark.parametrize("name", [name for name, _ in functions()])
def test_public_name_has_a_docstring(name: str) -> None:
    thing = dict(functions())[name]
    inherited = inspect.isclass(thing) and thing.__doc__ in {parent.__doc__ for parent in thing.__mro__[1:]}
    assert inspect.getdoc(thing), name
    assert not inherited, f"{name} has the docstring of its parent"


@pytest.mark.parametrize("name", [name for name, _ in functions()])
def test_public_signature_has_no_any(name: str) -> None:
    thing = dict(functions())[name]
    if isinstance(thing, property):
        thing = thing.fget
    elif isinstance(thing, classmethod | staticmethod):
        thing = thing.__func__
    if inspect.isclass(thing):
        thing = vars(thing).get("__init__")
    annotations = getattr(thing, "__annotations__", {})
    assert not [where for where, kind in annotations.items() if "Any" in str(kind).replace(".", " ").split()], (
        annotations
    )


# -- signatures -------------------------------------------------------------------------------------------------------


def parameters(function: object) -> list[str]:
    assert callable(function)
    found = list(inspect.signature(function).parameters.values())[1:]
    return [f"*{one.name}" if one.kind is one.KEYWORD_ONLY else one.name for one in found]


@pytest.mark.parametrize("name", MANAGER)
def test_manager_takes_what_callers_give(name: str) -> None:
    taken, wanted = parameters(getattr(WebSocketManager, name)), MANAGER[name]
    positional = [one for one in taken if not one.startswith("*")]
    assert positional == [one for one in wanted if not one.startswith("*")]
    assert set(wanted) <= set(taken)


@pytest.mark.parametrize("name", MANAGER)
def test_manager_is_awaited_where_callers_await_it(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(WebSocketManager, name)) is (name not in SYNCHRONOUS)


def test_manager_is_constructed_by_channel_without_an_event_loop() -> None:
    manager = WebSocketManager(channel="broadcasts")
    assert manager.get_connection_count() == 0
    assert manager.get_user_count() == 0
    assert manager.is_user_connected("42") is False


@pytest.mark.parametrize("kind", [Publisher, SyncPublisher])
def test_publishers_take_the_same(kind: type) -> None:
    taken = parameters(vars(kind)["publish"])
    assert taken[:2] == ["channel", "message"]
    assert {"*topic", "*target_user_ids"} <= set(taken)
    assert inspect.iscoroutinefunction(vars(kind)["publish"]) is (kind is Publisher)


# -- imports ----------------------------------------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after a statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    environment = {name: value for name, value in os.environ.items() if not name.endswith(("BROKER_URL", "REDIS_URL"))}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_import_brings_no_server_and_no_framework() -> None:
    loaded = loaded_by("import antiphon; antiphon.WebSocketManager(channel='x')")
    assert "starlette" in loaded
    assert loaded.isdisjoint({"fastapi", "redis", "uvicorn", "websockets", "typer", "rich", "pytest", "hypothesis"})


MODULES = sorted(info.name for info in pkgutil.walk_packages(antiphon.__path__, "antiphon."))


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_every_module_can_be_imported_and_says_what_it_is_for(name: str) -> None:
    assert importlib.import_module(name).__doc__, f"{name} has no docstring"

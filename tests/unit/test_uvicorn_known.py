"""The library's protocol class knows every attribute of the uvicorn that is installed, or says so at once."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest
import uvicorn
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState

from antiphon.errors import ConfigurationError
from antiphon.transports.uvicorn import AntiphonProtocol
from antiphon.transports.uvicorn_known import BASE_ATTRIBUTES, attributes_set_by, check_uvicorn

NEVER_READ = {
    "app",  # run_asgi is the library's own
    "handshake_initiated",  # set before it is read
    "last_ping_rtt",  # one timer pings all connections: start_keepalive, stop_keepalive and _answered are its own
    "ping_interval",
    "ping_sent_at",
    "ping_timer",
    "pong_timer",
}
"""What uvicorn's constructor sets, and nothing asks for before it is set."""


async def app(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("nobody calls it")


def made(kind: type[WebSocketsSansIOProtocol]) -> WebSocketsSansIOProtocol:
    config = uvicorn.Config(app, ws_ping_interval=20.0)
    config.load()
    return kind(config, ServerState(), {}, _loop=asyncio.get_running_loop())


async def test_the_list_is_what_the_installed_uvicorn_sets() -> None:
    assert attributes_set_by(WebSocketsSansIOProtocol.__init__) == BASE_ATTRIBUTES
    assert set(vars(made(WebSocketsSansIOProtocol))) == BASE_ATTRIBUTES


async def test_a_new_connection_has_every_attribute_that_uvicorn_asks_for() -> None:
    protocol = made(AntiphonProtocol)
    later = {"server", "scheme", "transport"}  # connection_made and the handshake set them
    missing = {name for name in BASE_ATTRIBUTES - later if not hasattr(protocol, name)}
    assert missing == NEVER_READ


def test_an_unknown_attribute_is_refused_with_what_to_do() -> None:
    class Newer:
        def __init__(self) -> None:
            self.transport = self.surprise = None

    with pytest.raises(ConfigurationError, match=rf"uvicorn {uvicorn.__version__} is not known.*surprise.*install"):
        check_uvicorn(Newer)


def test_a_server_with_an_unknown_uvicorn_does_not_start() -> None:
    program = (
        "import antiphon\n"
        "from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol as Base\n"
        "def newer(self, config, server_state, app_state, _loop=None):\n"
        "    self.surprise = None\n"
        "Base.__init__ = newer\n"
        "antiphon.run(lambda *_: None, port=0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode != 0
    assert "ConfigurationError: uvicorn" in done.stderr
    assert "surprise" in done.stderr

"""Python peers."""

from __future__ import annotations

from benchmarks.fleet.systems.asgi import PEERS, daphne, granian, hypercorn, python_program, uvicorn
from benchmarks.fleet.systems.system import Family, Scenario, System

__all__ = ["SOCKETIO_PATH", "SYSTEMS"]

SOCKETIO_PATH = "/socket.io/?EIO=4&transport=websocket"

SYSTEMS = (
    System(
        name="tutorial_uvicorn",
        label="FastAPI tutorial's manager, uvicorn",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=uvicorn("tutorial:app"),
        paths={
            Scenario.FANOUT: "/ws",
            Scenario.IDLE: "/ws",
            Scenario.DEFLATE: "/ws",
            Scenario.STUCK: "/ws",
        },
        note="the code of FastAPI's documentation",
    ),
    System(
        name="tutorial_hypercorn",
        label="FastAPI tutorial's manager, hypercorn",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=hypercorn("tutorial:app"),
        paths={Scenario.FANOUT: "/ws"},
    ),
    System(
        name="tutorial_granian",
        label="FastAPI tutorial's manager, granian",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=granian("tutorial:app"),
        paths={Scenario.FANOUT: "/ws"},
    ),
    System(
        name="websockets",
        label="websockets.broadcast()",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=python_program("with_websockets"),
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws", Scenario.DEFLATE: "/ws"},
        note="no framework, on uvloop",
    ),
    System(
        name="picows",
        label="picows",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=python_program("with_picows"),
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws"},
        note="Cython, no framework, on uvloop",
    ),
    System(
        name="litestar",
        label="Litestar channels",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=uvicorn("with_litestar:app"),
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws", Scenario.TOPICS: "/topics"},
        note="memory back end, on uvicorn",
    ),
    System(
        name="python_socketio",
        label="python-socketio",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=uvicorn("with_socketio:app"),
        paths={
            Scenario.FANOUT: SOCKETIO_PATH,
            Scenario.IDLE: SOCKETIO_PATH,
            Scenario.TOPICS: SOCKETIO_PATH,
        },
        protocol="socketio",
        note="on uvicorn",
    ),
    System(
        name="channels",
        label="Django Channels",
        family=Family.PYTHON,
        needs=(PEERS,),
        start=daphne("with_channels:app"),
        paths={Scenario.FANOUT: "/ws", Scenario.IDLE: "/ws", Scenario.TOPICS: "/topics"},
        note="in-memory layer (cheaper than its Redis layer), daphne",
    ),
)

"""`websockets.broadcast()` on uvloop, as the library's documentation recommends it."""

import asyncio
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosedError

connections: set[ServerConnection] = set()


async def handler(websocket: ServerConnection) -> None:
    """What one client sends goes to all."""
    connections.add(websocket)
    try:
        async for message in websocket:
            broadcast(connections, message)
    except ConnectionClosedError:
        pass
    finally:
        connections.remove(websocket)


async def main(port: int) -> None:
    """Serve until killed."""
    async with serve(handler, "127.0.0.1", port, backlog=4096):
        await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

"""picows (Cython) on uvloop: one `send` for each connection, no framework."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc"
# The peers are not in the environment of the checks; some have no types.

import sys

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, WSUpgradeRequest, ws_create_server

connections: set[WSTransport] = set()


class Client(WSListener):
    """What one client sends goes to all."""

    def on_ws_connected(self, transport: WSTransport) -> None:
        """Remember."""
        connections.add(transport)

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        """Broadcast a message, answer the rest."""
        if frame.msg_type == WSMsgType.TEXT:
            payload = frame.get_payload_as_bytes()
            for each in connections:
                each.send(WSMsgType.TEXT, payload)
        elif frame.msg_type == WSMsgType.PING:
            transport.send_pong(frame.get_payload_as_bytes())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.disconnect()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        """Forget."""
        connections.discard(transport)


def listener(request: WSUpgradeRequest) -> WSListener:
    """One listener object for each client."""
    return Client()


async def main(port: int) -> None:
    """Serve until killed."""
    server = await ws_create_server(listener, "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))

"""Litestar's channels plug-in with its memory back end."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc"
# The peers are not in the environment of the checks; some have no types.

from litestar import Litestar, WebSocket, websocket
from litestar.channels import ChannelsPlugin
from litestar.channels.backends.memory import MemoryChannelsBackend
from litestar.exceptions import WebSocketDisconnect

names: set[str] = set()


async def converse(socket: WebSocket, channels: ChannelsPlugin, name: str, *, everywhere: bool) -> None:
    """Listen to one channel; what the client sends goes to it, or to all of them."""
    await socket.accept()
    async with channels.start_subscription([name]) as subscriber, subscriber.run_in_background(socket.send_text):
        try:
            while True:
                data = await socket.receive_text()
                channels.publish(data, names if everywhere else [name])
        except WebSocketDisconnect:
            pass


@websocket("/ws")
async def endpoint(socket: WebSocket, channels: ChannelsPlugin) -> None:
    """What one client sends goes to all."""
    await converse(socket, channels, "bench", everywhere=False)


@websocket("/topics")
async def topic_endpoint(socket: WebSocket, channels: ChannelsPlugin, topic: str) -> None:
    """One topic a client; a message goes to every topic."""
    names.add(topic)
    await converse(socket, channels, topic, everywhere=True)


plugin = ChannelsPlugin(backend=MemoryChannelsBackend(), arbitrary_channels_allowed=True)
app = Litestar([endpoint, topic_endpoint], plugins=[plugin])

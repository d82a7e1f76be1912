"""Django Channels with its in-memory layer (the cheapest one), for daphne."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator,misc"
# The peers are not in the environment of the checks; some have no types.

import os
from urllib.parse import parse_qs

import django
from django.conf import settings

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="of no use outside of this benchmark",
        INSTALLED_APPS=["channels"],
        CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}},
        LOGGING_CONFIG=None,
    )
    os.environ.setdefault("DJANGO_ALLOW_ASYNC_UNSAFE", "1")
    django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.urls import path

groups: set[str] = set()


class Consumer(AsyncWebsocketConsumer):
    """What one client sends goes to its group, or to every group."""

    async def connect(self) -> None:
        """Join the group of the topic that the client names, else that of everybody."""
        topic = parse_qs(self.scope["query_string"].decode()).get("topic")
        self.group = f"topic.{topic[0]}" if topic else "bench"
        if topic:
            groups.add(self.group)
        await self.channel_layer.group_add(self.group, self.channel_name)
        await self.accept()

    async def disconnect(self, close_code: int) -> None:
        """Leave the group."""
        await self.channel_layer.group_discard(self.group, self.channel_name)

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """To the group, or to all groups."""
        for group in groups or ["bench"]:
            await self.channel_layer.group_send(group, {"type": "bench.message", "text": text_data})

    async def bench_message(self, event: dict[str, str]) -> None:
        """From the layer to the client."""
        await self.send(text_data=event["text"])


app = ProtocolTypeRouter({"websocket": URLRouter([path("ws", Consumer.as_asgi()), path("topics", Consumer.as_asgi())])})

"""What happens with each message of a client where the library reads its socket."""

from antiphon.conversation.conversation import Conversation, Rest
from antiphon.conversation.conversations import Conversations
from antiphon.conversation.rules import (
    HEARTBEAT_S,
    PING_S,
    PONG_S,
    Actions,
    ClientPublishing,
    Heartbeat,
    InboundCounters,
    OnConnect,
    OnMessage,
)
from antiphon.conversation.wheel import Wheel

__all__ = [
    "HEARTBEAT_S",
    "PING_S",
    "PONG_S",
    "Actions",
    "ClientPublishing",
    "Conversation",
    "Conversations",
    "Heartbeat",
    "InboundCounters",
    "OnConnect",
    "OnMessage",
    "Rest",
    "Wheel",
]

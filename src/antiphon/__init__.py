"""Real-time messages for Starlette and FastAPI applications on any number of replicas.

from antiphon import WebSocketManager

manager = WebSocketManager(channel="broadcasts")
"""

from antiphon.codes import CloseCode, Reason, State
from antiphon.connection import Connection
from antiphon.errors import (
    AntiphonError,
    BrokerError,
    BrokerRefused,
    BrokerTimeout,
    BrokerUnavailable,
    ConfigurationError,
    EnvelopeError,
    InvalidBrokerURL,
    InvalidChannelName,
    InvalidSigningKey,
    InvalidTopicName,
    InvalidUserId,
    ManagerClosed,
    MessageError,
    MessageNotSerializable,
    MessageTooLarge,
    MissingExtra,
    NotConnected,
    PublishFailed,
    TLSRequired,
    UnsupportedEnvelope,
    UntrustedEnvelope,
    UsageError,
    WrongEventLoop,
)
from antiphon.lifespan import lifespan
from antiphon.limits import Limits
from antiphon.manager import Receipt, WebSocketManager
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts
from antiphon.publisher import Published, Publisher, SyncPublisher
from antiphon.serving import install, run
from antiphon.settings import Timings
from antiphon.stats import LinkStats, ManagerStats
from antiphon.transports.base import SendLimits

__version__ = "0.1.0"

__all__ = [
    "AntiphonError",
    "BrokerError",
    "BrokerRefused",
    "BrokerTimeout",
    "BrokerUnavailable",
    "CloseCode",
    "ClusterCounts",
    "ConfigurationError",
    "Connection",
    "EnvelopeError",
    "InvalidBrokerURL",
    "InvalidChannelName",
    "InvalidSigningKey",
    "InvalidTopicName",
    "InvalidUserId",
    "Limits",
    "LinkStats",
    "ManagerClosed",
    "ManagerStats",
    "MessageError",
    "MessageNotSerializable",
    "MessageTooLarge",
    "MissingExtra",
    "NotConnected",
    "OutboxLimits",
    "PublishFailed",
    "Published",
    "Publisher",
    "Reason",
    "Receipt",
    "SendLimits",
    "State",
    "SyncPublisher",
    "TLSRequired",
    "Timings",
    "UnsupportedEnvelope",
    "UntrustedEnvelope",
    "UsageError",
    "WebSocketManager",
    "WrongEventLoop",
    "install",
    "lifespan",
    "run",
]

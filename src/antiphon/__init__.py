"""Real-time messages for Starlette and FastAPI applications on any number of replicas.

from antiphon import WebSocketManager

manager = WebSocketManager(channel="broadcasts")
"""

from antiphon.auth import (
    Authenticator,
    BadRequest,
    BearerToken,
    ClientGone,
    CookieSession,
    Draining,
    FirstMessage,
    FirstMessageTooBig,
    Forbidden,
    NotSignedIn,
    OriginRefused,
    Rechecking,
    Refused,
    Revoked,
    SessionExpired,
    SignInUnavailable,
    TooManyConnections,
    UnsupportedVersion,
)
from antiphon.codes import CloseCode, ErrorCode, Reason, State
from antiphon.connection import Connection
from antiphon.conversation import ClientPublishing
from antiphon.drain import Drain, DrainReport, drain_endpoint
from antiphon.drain.endpoints import health_endpoint, liveness_endpoint, readiness
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
from antiphon.health.status import BrokerHealth, Health
from antiphon.identity import Identity
from antiphon.lifespan import lifespan
from antiphon.limits import Limits
from antiphon.manager import Receipt, WebSocketManager
from antiphon.metrics import metrics_endpoint
from antiphon.outbox import OutboxLimits
from antiphon.presence import ClusterCounts
from antiphon.publisher import Published, Publisher, SyncPublisher
from antiphon.quotas import QuotaTimings
from antiphon.redaction import hide_secrets
from antiphon.revocation import Disconnected
from antiphon.security import RecheckFailed, RequestRefused, Security, refuse
from antiphon.serving import install, run
from antiphon.settings import Timings
from antiphon.stats import LinkStats, ManagerStats
from antiphon.tickets import Tickets
from antiphon.transports.base import SendLimits

__version__ = "0.1.0"

__all__ = [
    "AntiphonError",
    "Authenticator",
    "BadRequest",
    "BearerToken",
    "BrokerError",
    "BrokerHealth",
    "BrokerRefused",
    "BrokerTimeout",
    "BrokerUnavailable",
    "ClientGone",
    "ClientPublishing",
    "CloseCode",
    "ClusterCounts",
    "ConfigurationError",
    "Connection",
    "CookieSession",
    "Disconnected",
    "Drain",
    "DrainReport",
    "Draining",
    "EnvelopeError",
    "ErrorCode",
    "FirstMessage",
    "FirstMessageTooBig",
    "Forbidden",
    "Health",
    "Identity",
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
    "NotSignedIn",
    "OriginRefused",
    "OutboxLimits",
    "PublishFailed",
    "Published",
    "Publisher",
    "QuotaTimings",
    "Reason",
    "Receipt",
    "RecheckFailed",
    "Rechecking",
    "Refused",
    "RequestRefused",
    "Revoked",
    "Security",
    "SendLimits",
    "SessionExpired",
    "SignInUnavailable",
    "State",
    "SyncPublisher",
    "TLSRequired",
    "Tickets",
    "Timings",
    "TooManyConnections",
    "UnsupportedEnvelope",
    "UnsupportedVersion",
    "UntrustedEnvelope",
    "UsageError",
    "WebSocketManager",
    "WrongEventLoop",
    "drain_endpoint",
    "health_endpoint",
    "hide_secrets",
    "install",
    "lifespan",
    "liveness_endpoint",
    "metrics_endpoint",
    "readiness",
    "refuse",
    "run",
]

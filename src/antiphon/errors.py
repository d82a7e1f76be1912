"""The exceptions of the library. Each says what was wrong and how to mend it.

AntiphonError
├── ConfigurationError            ValueError: wrong before anything was sent
│   ├── InvalidBrokerURL
│   │   └── TLSRequired
│   ├── InvalidChannelName
│   ├── InvalidSigningKey
│   ├── InvalidTopicName
│   ├── InvalidUserId
│   └── MissingExtra
├── MessageError                  ValueError: this message cannot be sent
│   ├── MessageNotSerializable
│   └── MessageTooLarge
├── EnvelopeError                 ValueError: what came from the broker cannot be understood
│   ├── UnsupportedEnvelope
│   └── UntrustedEnvelope
├── UsageError                    RuntimeError: right call, wrong moment
│   ├── ManagerClosed
│   ├── NotConnected
│   └── WrongEventLoop
├── PublishFailed                 the outage policy is "fail", and the broker did not take it
└── BrokerError                   the broker, as its adapters report it
    ├── BrokerUnavailable         cannot be reached, or the connection ended
    ├── BrokerTimeout             no answer in time: whether it was carried out is unknown
    └── BrokerRefused             it answered with an error

The refusals of clients, `Refused` and its kinds, are in `antiphon.auth`: they end a connection, each with a code.
"""

from __future__ import annotations

from antiphon.codes import Reason

__all__ = [
    "AntiphonError",
    "BrokerError",
    "BrokerRefused",
    "BrokerTimeout",
    "BrokerUnavailable",
    "ConfigurationError",
    "EnvelopeError",
    "InvalidBrokerURL",
    "InvalidChannelName",
    "InvalidSigningKey",
    "InvalidTopicName",
    "InvalidUserId",
    "ManagerClosed",
    "MessageError",
    "MessageNotSerializable",
    "MessageTooLarge",
    "MissingExtra",
    "NotConnected",
    "PublishFailed",
    "TLSRequired",
    "UnsupportedEnvelope",
    "UntrustedEnvelope",
    "UsageError",
    "WrongEventLoop",
]


class AntiphonError(Exception):
    """The root of everything that this library raises on purpose. All may be pickled and copied."""

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuilt, (type(self), self.args, dict(vars(self)))


def _rebuilt(kind: type[AntiphonError], arguments: tuple[object, ...], attributes: dict[str, object]) -> AntiphonError:
    """An error as it was, without its constructor, which need not take the same arguments."""
    error = kind.__new__(kind)
    error.args = arguments
    vars(error).update(attributes)
    return error


class ConfigurationError(AntiphonError, ValueError):
    """A name, an address or an option cannot be used. Nothing was sent."""


class InvalidBrokerURL(ConfigurationError):
    """The address of the broker cannot be used. The text never holds the password."""


class TLSRequired(InvalidBrokerURL):
    """TLS is required for the broker, and this address has none, or does not verify whom it leads to."""


class InvalidSigningKey(ConfigurationError):
    """A key for signing is too short or too simple. The text never holds the key."""


class InvalidChannelName(ConfigurationError):
    """A channel's name must match `[A-Za-z0-9_.:-]{1,128}`."""


class InvalidTopicName(ConfigurationError):
    """A topic's name must match `[A-Za-z0-9_.:-]{1,128}`."""


class InvalidUserId(ConfigurationError, TypeError):
    """A user id must be a non-empty `str`."""


class MissingExtra(ConfigurationError):
    """A package that this feature needs is not installed."""


class MessageError(AntiphonError, ValueError):
    """This message cannot be sent. No client received anything of it."""


class MessageNotSerializable(MessageError, TypeError):
    """The message is not a JSON value: the text names the first part that is not."""


class MessageTooLarge(MessageError):
    """The encoded message is larger than `limit_bytes`."""

    def __init__(self, size_bytes: int, *, limit_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes
        super().__init__(size_bytes, limit_bytes)

    def __str__(self) -> str:
        return (
            f"the message has {self.size_bytes:,} bytes, the limit is {self.limit_bytes:,}: send a reference "
            "(an id or an address to fetch) instead of the content, or raise Limits.message_bytes on every replica"
        )


class EnvelopeError(AntiphonError, ValueError):
    """What arrived from the broker is neither a JSON object nor an envelope of this library."""


class UnsupportedEnvelope(EnvelopeError):
    """The envelope has a major version that this release does not know."""

    def __init__(self, version: object) -> None:
        self.version = version
        super().__init__(version)

    def __str__(self) -> str:
        return f"envelope version {self.version!r} is not known to this release: upgrade this replica first"


class UntrustedEnvelope(EnvelopeError):
    """What arrived from the broker is not signed as it has to be.

    `why` is a counter's label: `unsigned`, `forged`, `stale` or `replayed`.
    """

    def __init__(self, text: str, *, why: str) -> None:
        self.why = why
        super().__init__(text)


class UsageError(AntiphonError, RuntimeError):
    """The call is right, the moment is not."""


class ManagerClosed(UsageError):
    """The manager, or the publisher, was closed before."""


class NotConnected(UsageError):
    """The socket is not connected to this manager (any more)."""


class WrongEventLoop(UsageError):
    """The manager belongs to another event loop that still runs."""


class PublishFailed(AntiphonError):
    """The publication was not taken by the broker, and its outage policy is `"fail"`.

    `outcome_unknown` is true when the broker may have carried it out all the same (no answer in time): publishing it
    again under a new id could then reach clients twice.
    """

    def __init__(self, *, reason: Reason, channel: str, id: str, outcome_unknown: bool = False) -> None:
        self.reason = reason
        self.channel = channel
        self.id = id
        self.outcome_unknown = outcome_unknown
        super().__init__(reason, channel, id, outcome_unknown)

    def __str__(self) -> str:
        what = "may or may not have been taken by" if self.outcome_unknown else "was not taken by"
        return f"publication {self.id} on channel {self.channel!r} {what} the broker: {self.reason}"


class BrokerError(AntiphonError):
    """What a broker's adapter reports. `reason` is for receipts and metrics, the text for people (no password in
    it).
    """

    def __init__(self, message: str, *, reason: Reason) -> None:
        self.reason = reason
        super().__init__(message)


class BrokerUnavailable(BrokerError):
    """The broker cannot be reached, or the connection to it ended."""

    def __init__(self, message: str, *, reason: Reason = Reason.UNREACHABLE) -> None:
        super().__init__(message, reason=reason)


class BrokerTimeout(BrokerError):
    """No answer in time. Whether the broker carried the command out is unknown."""

    def __init__(self, message: str, *, reason: Reason = Reason.TIMEOUT) -> None:
        super().__init__(message, reason=reason)


class BrokerRefused(BrokerError):
    """The broker answered with an error: the command was not carried out."""

    def __init__(self, message: str, *, reason: Reason = Reason.REFUSED) -> None:
        super().__init__(message, reason=reason)

"""What a call of `connect` says of a client: what may be a stranger's text, and what only a developer can get wrong.

Endpoints pass on what stands in an address: `?user_id=`, `?topic=`. So a *text* that cannot be used is refused, as the
client's mistake, and only once it is known from where and who it is; a value of the wrong type comes from the
endpoint's own code, and raises the error that says what to write.
"""

from __future__ import annotations

from collections.abc import Iterable

from antiphon.auth import BadRequest
from antiphon.errors import ConfigurationError, InvalidTopicName, InvalidUserId, UsageError
from antiphon.identity import Identity
from antiphon.limits import Limits
from antiphon.topics import check_topic, check_user_id
from antiphon.wire import protocol

__all__ = ["check_call", "check_claims"]


def check_call(
    user_id: object, *, identity: object, topics: Iterable[object], subprotocol: str | None = None, v1: bool = False
) -> list[str]:
    """The topics, each once and not looked at any closer.

    Raises InvalidUserId, InvalidTopicName, ConfigurationError and UsageError for what no client can have brought about.
    """
    if subprotocol == protocol.V1 and not v1:
        raise UsageError(f"{protocol.V1} takes more than a connection: call serve(), which speaks it")
    if user_id is not None and not isinstance(user_id, str):
        check_user_id(user_id)
    if identity is not None and not isinstance(identity, Identity):
        raise ConfigurationError(f"identity= takes an antiphon.Identity, not {type(identity).__name__}")
    if isinstance(topics, str):
        raise ConfigurationError(f"topics={topics!r} is one text: give a list of topics, as in [{topics!r}]")
    return list(dict.fromkeys(topic if isinstance(topic, str) else check_topic(topic) for topic in topics))


def check_claims(user_id: str | None, topics: list[str], *, limits: Limits) -> str | None:
    """The user id, when it and all topics can be used. Raises BadRequest, whose detail says what is wrong."""
    try:
        if user_id is not None:
            user_id = check_user_id(user_id)
        if len(topics) > limits.topics_per_connection:
            raise BadRequest(f"{len(topics)} topics, the limit of a connection is {limits.topics_per_connection}")
        topics[:] = map(check_topic, topics)
    except (InvalidUserId, InvalidTopicName) as error:
        raise BadRequest(str(error)) from error
    return user_id

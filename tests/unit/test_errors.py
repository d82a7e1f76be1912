"""The exceptions: one tree, drawn at the top of its module, with data in attributes and a fix in the text."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from collections.abc import Callable

import pytest

from antiphon import errors
from antiphon.codes import Reason
from antiphon.errors import (
    AntiphonError,
    BrokerError,
    BrokerRefused,
    BrokerTimeout,
    BrokerUnavailable,
    InvalidUserId,
    ManagerClosed,
    MessageNotSerializable,
    MessageTooLarge,
    PublishFailed,
    UnsupportedEnvelope,
)

EXAMPLES: list[AntiphonError] = [
    AntiphonError("x"),
    InvalidUserId("user id 42 is an int: pass str(42)"),
    ManagerClosed("closed"),
    MessageNotSerializable("message['a'] is a set"),
    MessageTooLarge(300_000, limit_bytes=262_144),
    UnsupportedEnvelope(9),
    UnsupportedEnvelope("two"),
    PublishFailed(reason=Reason.TIMEOUT, channel="c", id="r-1", outcome_unknown=True),
    PublishFailed(reason=Reason.UNREACHABLE, channel="c", id="r-1"),
    BrokerError("lost", reason=Reason.CONNECTION_LOST),
    BrokerUnavailable("gone"),
    BrokerUnavailable("busy", reason=Reason.BUSY),
    BrokerTimeout("slow"),
    BrokerRefused("no", reason=Reason.PERMISSION),
]


def test_the_tree_in_the_modules_text_is_the_tree_of_the_classes() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"([│├└─ ]*)([A-Z]\w+)\b", line)
        if found is None or (not found[1] and found[2] != "AntiphonError"):
            continue
        path[len(found[1]) // 4 :] = [found[2]]
        if len(path) > 1:
            drawn[found[2]] = path[-2]
    classes = {
        name: error.__mro__[1].__name__
        for name, error in vars(errors).items()
        if inspect.isclass(error) and issubclass(error, AntiphonError) and error is not AntiphonError
    }

    assert drawn == classes
    assert sorted([*classes, "AntiphonError"]) == sorted(errors.__all__)


@pytest.mark.parametrize(
    ("names", "builtin"),
    [
        (["ConfigurationError", "MessageError", "EnvelopeError"], ValueError),
        (["InvalidUserId", "MessageNotSerializable"], TypeError),
        (["UsageError", "ManagerClosed", "NotConnected", "WrongEventLoop"], RuntimeError),
    ],
)
def test_an_error_is_also_the_builtin_that_callers_expect(names: list[str], builtin: type[Exception]) -> None:
    assert all(issubclass(getattr(errors, name), builtin) for name in names)


def test_a_message_that_is_too_large_says_how_large_and_what_to_do() -> None:
    error = MessageTooLarge(300_000, limit_bytes=262_144)

    assert (error.size_bytes, error.limit_bytes) == (300_000, 262_144)
    assert str(error).startswith("the message has 300,000 bytes, the limit is 262,144: send a reference")


@pytest.mark.parametrize(
    ("unknown", "text"),
    [
        (True, "publication r-1 on channel 'c' may or may not have been taken by the broker: timeout"),
        (False, "publication r-1 on channel 'c' was not taken by the broker: timeout"),
    ],
)
def test_a_failed_publication_says_whether_its_outcome_is_known(unknown: bool, text: str) -> None:
    error = PublishFailed(reason=Reason.TIMEOUT, channel="c", id="r-1", outcome_unknown=unknown)

    assert (error.reason, error.channel, error.id, error.outcome_unknown) == (Reason.TIMEOUT, "c", "r-1", unknown)
    assert str(error) == text


def test_an_unsupported_envelope_names_its_version() -> None:
    assert UnsupportedEnvelope(9).version == 9
    assert "version 9" in str(UnsupportedEnvelope(9))


def test_a_brokers_error_has_a_reason_for_programs() -> None:
    assert (BrokerUnavailable("gone").reason, BrokerTimeout("slow").reason) == (Reason.UNREACHABLE, Reason.TIMEOUT)
    assert str(BrokerRefused("no", reason=Reason.PERMISSION)) == "no"


def by_pickle(error: AntiphonError) -> AntiphonError:
    arrived = pickle.loads(pickle.dumps(error))
    assert isinstance(arrived, AntiphonError)
    return arrived


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("transfer", [copy.copy, copy.deepcopy, by_pickle])
def test_an_error_survives_the_way_to_another_process(
    error: AntiphonError, transfer: Callable[[AntiphonError], AntiphonError]
) -> None:
    arrived = transfer(error)

    assert type(arrived) is type(error)
    assert (str(arrived), vars(arrived)) == (str(error), vars(error))

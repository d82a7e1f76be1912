from __future__ import annotations

from enum import Enum
from uuid import UUID

import pytest

from antiphon.errors import ConfigurationError, InvalidChannelName, InvalidTopicName, InvalidUserId
from antiphon.topics import CONTROL_ROUTE, check_channel, check_topic, check_user_id, replica_route, route_of


class Name(str, Enum):
    COMMENTS = "comments"


@pytest.mark.parametrize("name", ["a", "Comments_2.x:y-z", "track:7", "x" * 128, "antiphon", "my:antiphon:x"])
def test_names_are_taken_when_they_match(name: str) -> None:
    assert check_channel(name) == name
    assert check_topic(name) == name


def test_names_become_plain_text_when_they_are_members_of_an_enum() -> None:
    assert type(check_channel(Name.COMMENTS)) is str
    assert type(check_user_id(Name.COMMENTS)) is str
    assert check_topic(Name.COMMENTS) == "comments"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "name is empty: give it one, such as"),
        ("x" * 129, "has 129 characters, the limit is 128"),
        ("my room", "such as 'my-room'"),
        ("a/b", "such as 'a-b'"),
        ("a\n", "only letters"),
        ("müsik", "such as 'm-sik'"),
        (7, "is an int: pass a str, such as"),
        (None, "None is a NoneType: pass a str"),
        (b"x", "is bytes: pass a str"),
    ],
)
def test_names_are_refused_with_a_remedy_when_they_do_not_match(name: object, words: str) -> None:
    with pytest.raises(InvalidChannelName) as channel:
        check_channel(name)
    with pytest.raises(InvalidTopicName) as topic:
        check_topic(name)
    assert words in str(channel.value)
    assert words in str(topic.value)
    assert "channel" in str(channel.value)
    assert "topic" in str(topic.value)


@pytest.mark.parametrize("name", ["antiphon:", "antiphon:control", "antiphon:replica:x"])
def test_channel_is_refused_when_its_name_is_reserved(name: str) -> None:
    with pytest.raises(InvalidChannelName, match="take another prefix"):
        check_channel(name)
    assert check_topic(name) == name


@pytest.mark.parametrize("value", ["42", "ü", "a b", "x@example.org", "0"])
def test_user_id_is_taken_when_it_is_a_text(value: str) -> None:
    assert check_user_id(value) == value


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (42, "user id 42 is an int: pass str(42)"),
        (True, "user id True is a bool: pass str("),
        (None, "the user id is None: pass the str id"),
        ("", "the user id is empty"),
        (b"42", "is bytes: pass a str, such as value.decode()"),
        (UUID(int=1), "is a UUID: pass str("),
        (["1", "2"], "several ids go into target_user_ids"),
        ("\ud800", "holds a lone surrogate"),
    ],
)
def test_user_id_is_refused_with_a_remedy_when_it_is_no_text(value: object, words: str) -> None:
    with pytest.raises(InvalidUserId) as caught:
        check_user_id(value)
    assert words in str(caught.value)
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, TypeError)


def test_routes_are_apart_when_channels_and_topics_differ() -> None:
    assert route_of("comments", None) == "comments"
    assert route_of("comments", "track:7") == "comments/track:7"
    assert CONTROL_ROUTE == "antiphon:control"
    assert replica_route("r1") == "antiphon:replica:r1"
    with pytest.raises(InvalidChannelName):
        check_channel(CONTROL_ROUTE)

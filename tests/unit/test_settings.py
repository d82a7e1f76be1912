from __future__ import annotations

from dataclasses import fields

import pytest

from antiphon.errors import ConfigurationError
from antiphon.settings import Settings, Timings, read_settings, read_signing_keys, redact


@pytest.mark.parametrize(
    ("url", "environ", "found"),
    [
        (None, {}, None),
        ("redis://a", {"ANTIPHON_BROKER_URL": "redis://b", "REDIS_URL": "redis://c"}, "redis://a"),
        (None, {"ANTIPHON_BROKER_URL": "redis://b", "REDIS_URL": "redis://c"}, "redis://b"),
        (None, {"REDIS_URL": "redis://c"}, "redis://c"),
        ("", {"ANTIPHON_BROKER_URL": "", "REDIS_URL": "redis://c"}, "redis://c"),
        (" ", {"ANTIPHON_BROKER_URL": " redis://b\n"}, "redis://b"),
        ("", {"ANTIPHON_BROKER_URL": "", "REDIS_URL": ""}, None),
        ("no address at all", {}, "no address at all"),
    ],
)
def test_address_is_the_first_that_is_set(url: str | None, environ: dict[str, str], found: str | None) -> None:
    assert read_settings(url, environ) == Settings(broker_url=found)


@pytest.mark.parametrize("word", ["false", "FALSE", "0", "no", "No", "off", " off "])
def test_switch_wins_over_every_address_when_it_is_off(word: str) -> None:
    environ = {"USE_REDIS_WEBSOCKET": word, "REDIS_URL": "redis://c"}
    assert read_settings("redis://a", environ).broker_url is None


@pytest.mark.parametrize("word", ["true", "1", "yes", "ON", ""])
def test_switch_changes_nothing_when_it_is_on(word: str) -> None:
    assert read_settings("redis://a", {"USE_REDIS_WEBSOCKET": word}).broker_url == "redis://a"
    assert read_settings(None, {"USE_REDIS_WEBSOCKET": word}).broker_url is None


@pytest.mark.parametrize("word", ["maybe", "2", "disabled"])
def test_switch_is_refused_when_its_word_is_unknown(word: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_settings(None, {"USE_REDIS_WEBSOCKET": word})
    for allowed in ("USE_REDIS_WEBSOCKET", repr(word), "true", "1", "yes", "on", "false", "0", "no", "off"):
        assert allowed in str(caught.value)


def test_environment_of_the_process_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("USE_REDIS_WEBSOCKET", raising=False)
    monkeypatch.setenv("ANTIPHON_BROKER_URL", "redis://from-environment")
    assert read_settings(None).broker_url == "redis://from-environment"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379/0"),
        ("redis://:s3cret@host:6379/0", "redis://***@host:6379/0"),
        ("rediss://user:s3cret@host", "rediss://***@host"),
        ("redis://user:s3@c/r#e?t@host/1", "redis://***@host/1"),
        ("user:s3cret@host", "***@host"),
        ("redis://host?password=s3cret&db=1", "redis://host?password=***&db=1"),
        ("unix:///run/redis.sock?db=1&Password=s3cret", "unix:///run/redis.sock?db=1&Password=***"),
    ],
)
def test_text_shows_no_password_when_the_address_has_one(url: str, shown: str) -> None:
    settings = Settings(broker_url=url)
    assert redact(url) == shown
    for text in (repr(settings), str(settings), f"{settings}"):
        assert repr(shown) in text
        assert "s3" not in text
    assert settings.broker_url == url


def test_text_says_none_when_there_is_no_broker() -> None:
    assert repr(Settings()).startswith("Settings(broker_url=None, timings=Timings(ping_every_s=0.5, dead_after_s=2.0")


def test_timings_have_the_documented_values_when_nothing_is_set() -> None:
    assert {field.name: field.default for field in fields(Timings)} == {
        "ping_every_s": 0.5,
        "dead_after_s": 2.0,
        "connect_s": 1.0,
        "command_s": 2.0,
        "prove_s": 2.0,
        "backoff_first_s": 0.1,
        "backoff_max_s": 0.8,
        "linger_s": 5.0,
        "probe_every_s": 10.0,
        "others_wait_s": 2.5,
        "own_copy_s": 2.0,
    }


@pytest.mark.parametrize("value", [0, -1.0, float("nan")])
def test_timings_are_refused_when_a_value_is_not_above_zero(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"Timings\.connect_s must be above 0"):
        Timings(connect_s=value)


def test_signing_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_signing_keys({"ANTIPHON_SIGNING_KEYS": " first,second "}) == "first,second"
    assert read_signing_keys({"ANTIPHON_SIGNING_KEYS": " "}) is None
    assert read_signing_keys({}) is None
    monkeypatch.setenv("ANTIPHON_SIGNING_KEYS", "from-environment")
    assert read_signing_keys() == "from-environment"


def test_text_shows_no_password_of_a_certificate_s_key() -> None:
    shown = redact("rediss://host?ssl_password=s3cret&ssl_certfile=/a")
    assert shown == "rediss://host?ssl_password=***&ssl_certfile=/a"

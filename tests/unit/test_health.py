"""From statistics to a load balancer's word, and who may ask for more than that."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.codes import Reason, State
from antiphon.errors import ConfigurationError
from antiphon.health.history import LinkHistory
from antiphon.health.operators import Operators
from antiphon.health.status import health_of, without_user
from antiphon.manager import WebSocketManager
from antiphon.stats import LinkStats, ManagerStats

LINK = LinkStats(
    address="redis://h:6379/0",
    state=State.UP,
    reason=None,
    replica="r1",
    replicas=3,
    routes=2,
    in_flight=0,
    outbox_messages=0,
    outbox_bytes=0,
    received=0,
    rejected={},
    duplicates=0,
    stale_retries=0,
    queued=0,
    flushed=0,
    dropped={},
    dials=1,
    losses={},
    publisher_redials=0,
)
CANARY = "canary-5f3a"


def manager(state: State = State.UP, reason: Reason | None = None, *, replica: str = "r1") -> ManagerStats:
    """The statistics of a manager whose link is in this state."""
    alone = WebSocketManager("c").stats()
    link = None if state in (State.LOCAL, State.CLOSED) else replace(LINK, state=state, reason=reason, replica=replica)
    return replace(alone, state=state, link=link)


@pytest.mark.parametrize(
    ("states", "status", "ready"),
    [
        ([], "ok", True),
        ([(State.LOCAL, None)], "ok", True),
        ([(State.UP, None), (State.LOCAL, None)], "ok", True),
        ([(State.SUSPECT, None)], "ok", True),
        ([(State.DEGRADED, Reason.TIMEOUT), (State.UP, None)], "degraded", True),
        ([(State.DEGRADED, Reason.STARTING), (State.DEGRADED, Reason.TIMEOUT)], "starting", False),
        ([(State.CLOSED, None), (State.CLOSED, None)], "closed", False),
        ([(State.CLOSED, None), (State.UP, None)], "ok", True),
    ],
)
def test_status_is_the_worst_of_the_managers(
    states: list[tuple[State, Reason | None]], status: str, ready: bool
) -> None:
    health = health_of(manager(*state, replica=str(number)) for number, state in enumerate(states))
    assert (health.status, health.ready, health.draining) == (status, ready, False)


def test_a_manager_that_was_not_used_yet_is_ready_since_its_first_client_starts_it() -> None:
    unused = replace(manager(State.LOCAL), state=State.DEGRADED)
    assert health_of([unused]).ready


def test_degraded_is_red_only_when_asked_for() -> None:
    degraded = [manager(State.DEGRADED, Reason.UNREACHABLE)]
    assert health_of(degraded).ready
    assert not health_of(degraded, red_when_degraded=True).ready
    assert health_of([manager()], red_when_degraded=True).ready


@pytest.mark.parametrize("state", [State.UP, State.DEGRADED, State.LOCAL])
def test_draining_is_never_ready(state: State) -> None:
    health = health_of([manager(state)], draining=True)
    assert (health.status, health.ready, health.draining) == ("draining", False, True)


def test_managers_that_share_a_link_show_it_once_with_its_age() -> None:
    degraded = manager(State.DEGRADED, Reason.DEAF, replica="r2")
    health = health_of([manager(), manager(), degraded], since_s={"r2": 12.34})
    assert [(broker.state, broker.reason, broker.since_s) for broker in health.brokers] == [
        (State.UP, None, None),
        (State.DEGRADED, Reason.DEAF, 12.34),
    ]


def test_what_anybody_may_see_is_json_without_address_version_or_name() -> None:
    """S30, S48"""
    stats = manager(State.DEGRADED, Reason.TIMEOUT)
    assert stats.link is not None
    stats = replace(stats, link=replace(stats.link, address=f"redis://user:{CANARY}@secret-host:6379/0"))
    health = health_of([stats], since_s={"r1": 1.06})
    assert health.as_dict() == {
        "ready": True,
        "status": "degraded",
        "draining": False,
        "brokers": [{"state": "degraded", "reason": "timeout", "since_s": 1.1}],
    }
    shown = json.dumps(health.as_dict()) + repr(health)
    assert CANARY not in shown
    assert "secret-host" not in json.dumps(health.as_dict())
    assert health.brokers[0].address == "redis://secret-host:6379/0"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("redis://h:1/0", "redis://h:1/0"),
        ("redis://u:p@h:1/0", "redis://h:1/0"),
        ("redis://u:p@q@h:1/0", "redis://h:1/0"),
        ("memory", "memory"),
        ("u:p@h", "h"),
    ],
)
def test_addresses_are_shown_without_credentials(address: str, shown: str) -> None:
    assert without_user(address) == shown


# -- the past of a link -----------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_time_in_each_state_adds_up() -> None:
    clock = Clock()
    history = LinkHistory(State.DEGRADED, clock=clock)
    for state, seconds in [(State.UP, 1.0), (State.SUSPECT, 10.0), (State.UP, 0.5), (State.DEGRADED, 5.0)]:
        clock.now += seconds
        history.enter(state)
    clock.now += 7.0
    history.enter(State.DEGRADED)
    assert (history.state, history.since_s) == (State.DEGRADED, 7.0)
    assert history.seconds == {
        State.LOCAL: 0.0,
        State.UP: 15.0,
        State.SUSPECT: 0.5,
        State.DEGRADED: 8.0,
        State.CLOSED: 0.0,
    }


def test_recovery_is_measured_from_the_loss_to_the_next_time_up() -> None:
    clock = Clock()
    history = LinkHistory(State.DEGRADED, clock=clock)
    clock.now += 3.0
    history.enter(State.UP)  # the start is no recovery
    assert history.recover.count == 0
    for _ in range(2):
        history.enter(State.DEGRADED)
        clock.now += 4.0
        history.enter(State.UP)
    assert (history.recover.count, history.recover.sum) == (2, 8.0)


def test_delivery_is_measured_by_the_wall_clock_and_never_below_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    history = LinkHistory(State.UP)
    monkeypatch.setattr("time.time", lambda: 1_000.5)
    history.delivered(1_000_000)
    history.delivered(1_002_000)  # the other replica's clock is ahead
    assert history.others.counts[:1] == (1,)
    assert history.others.sum == 0.5


# -- operators --------------------------------------------------------------------------------------------------------

TOKEN = "0123456789abcdef"


def test_whoever_knows_the_token_is_let_in() -> None:
    operators = Operators(TOKEN, setting="X")
    assert operators.refusal(peer="203.0.113.9", headers=[("Authorization", f"Bearer {TOKEN}")]) is None
    assert operators.refusal(peer=None, headers=[("authorization", f"bearer  {TOKEN} ")]) is None


@pytest.mark.parametrize("peer", ["127.0.0.1", "203.0.113.9", None])
@pytest.mark.parametrize(
    "header", [[], [("authorization", f"Basic {TOKEN}")], [("authorization", f"Bearer {TOKEN}x")], [("x-token", TOKEN)]]
)
def test_nobody_else_is_once_there_is_a_token(peer: str | None, header: list[tuple[str, str]]) -> None:
    refusal = Operators(TOKEN, setting="X").refusal(peer=peer, headers=header)
    assert refusal is not None
    assert refusal[0] == 401
    assert TOKEN not in refusal[1]


@given(st.text())
def test_no_other_text_is_the_token(given_token: str) -> None:
    refusal = Operators(TOKEN, setting="X").refusal(
        peer="127.0.0.1", headers=[("authorization", "Bearer " + given_token)]
    )
    assert (refusal is None) is (given_token.strip() == TOKEN)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_without_a_token_the_machine_itself_is_let_in(peer: str) -> None:
    assert Operators(None, setting="X").refusal(peer=peer, headers=[("host", "127.0.0.1")]) is None
    assert Operators(" ", setting="X").refusal(peer=peer, headers=[]) is None


@pytest.mark.parametrize("peer", ["203.0.113.9", "10.0.0.1", "::", "", None, "testclient", "/run/app.sock"])
def test_without_a_token_nobody_else_is_let_in_and_the_answer_names_the_setting(peer: str | None) -> None:
    refusal = Operators(None, setting="SETTING").refusal(peer=peer, headers=[])
    assert refusal is not None
    assert (refusal[0], "SETTING" in refusal[1]) == (403, True)


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "Origin", "Sec-Fetch-Site"])
def test_a_loopback_address_says_nothing_when_a_proxy_or_a_browser_stands_between(header: str) -> None:
    refusal = Operators(None, setting="X").refusal(peer="127.0.0.1", headers=[(header, "127.0.0.1")])
    assert refusal is not None
    assert refusal[0] == 403


def test_a_short_token_is_refused_and_no_text_holds_it() -> None:
    with pytest.raises(ConfigurationError, match="X has 15 characters") as caught:
        Operators(TOKEN[:-1], setting="X")
    assert TOKEN[:-1] not in str(caught.value)
    assert TOKEN not in repr(Operators(TOKEN, setting="X"))

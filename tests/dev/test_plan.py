"""What `antiphon dev` tells its replicas."""

from __future__ import annotations

import pytest

from antiphon.dev.plan import Plan


def plan(*, has_own_broker: bool) -> Plan:
    url = "redis://127.0.0.1:7001"
    return Plan(app="app:app", app_dir=".", port=8000, replicas=2, broker_url=url, has_own_broker=has_own_broker)


@pytest.mark.parametrize("asked", [None, "true"])
def test_replicas_take_the_broker_of_this_machine_without_tls_when_it_was_started_for_them(asked: str | None) -> None:
    base = {} if asked is None else {"ANTIPHON_REQUIRE_TLS": asked}
    assert plan(has_own_broker=True).environment(base)["ANTIPHON_REQUIRE_TLS"] == "false"
    assert plan(has_own_broker=False).environment(base).get("ANTIPHON_REQUIRE_TLS") == asked


def test_replicas_send_their_clients_away_within_a_second_unless_told_otherwise() -> None:
    assert plan(has_own_broker=True).environment({})["ANTIPHON_DRAIN_S"] == "1"
    assert plan(has_own_broker=True).environment({"ANTIPHON_DRAIN_S": "5"})["ANTIPHON_DRAIN_S"] == "5"

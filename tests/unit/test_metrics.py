"""Metrics: complete, in Prometheus' own form, bounded in their labels, and quick to read."""

from __future__ import annotations

import re
import time
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.testclient import TestClient

from antiphon import metrics
from antiphon.codes import Reason, State
from antiphon.errors import MissingExtra
from antiphon.health.history import LinkHistory
from antiphon.health.vitals import Vitals
from antiphon.loop_lag import LoopLag
from antiphon.manager import WebSocketManager
from antiphon.metrics import CONTENT_TYPE, FAMILIES, Collector, metrics_endpoint
from antiphon.stats import ManagerStats
from tests.unit.browsers import Fleet
from tests.unit.test_health import LINK

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
CANARY = "canary-8b1d"
SECURITY = {"origin": 3}
"""One object that serves all managers."""


class Counted:
    """A manager as metrics see it."""

    def __init__(self, stats: ManagerStats, vitals: Vitals | None = None) -> None:
        self._stats = stats
        self._vitals = vitals or Vitals()

    def stats(self) -> ManagerStats:
        return self._stats

    def vitals(self) -> Vitals:
        return self._vitals


def full(channel: str = "chat", *, number: int = 1, history: LinkHistory | None = None) -> Counted:
    """A manager on which everything happened."""
    link = replace(
        LINK,
        replica=f"r{number}",
        received=11,
        rejected={"malformed": 2},
        duplicates=3,
        dropped={"overflow": 4},
        losses={"timeout": 5},
        outbox_messages=6,
        outbox_bytes=7,
    )
    stats = replace(
        WebSocketManager(channel).stats(),
        state=State.UP,
        connections=100,
        users=50,
        topics=10,
        published=9,
        published_cluster=5,
        published_local=3,
        publish_failed=1,
        delivered=900,
        filtered=1,
        filter_errors=2,
        expired=3,
        handler_errors=4,
        connects=120,
        disconnects=20,
        lost={"slow": 2, "error": 1},
        dropped_slow={"drop_oldest": 7, "replaced": 5},
        link=link,
    )
    vitals = Vitals(
        draining=True,
        received=8,
        received_bytes=80,
        sent_bytes=9_000,
        queued_bytes=512,
        queued_connections=2,
        backlog_bytes=64,
        refused_connections={"draining": 5},
        refused_messages={"too_fast": 7},
        ended_connections={"TOO_FAST": 6},
        security=SECURITY,
        security_errors={"authenticator": 2, "authorize": 1},
        security_timeouts=1,
        denied_topics=4,
        recheck_errors={"timeout": 3},
        forgotten_revocations=1,
        unnoted_revocations=2,
        unchecked_connections=3,
        unshared_connections=12,
        quota_outages=1,
        history=history if history is not None else LinkHistory(State.UP),
        loop_lag=LoopLag(),
    )
    return Counted(stats, vitals)


def scrape(*managers: Counted) -> Samples:
    registry = CollectorRegistry()
    registry.register(Collector(managers=lambda: managers))
    return read(generate_latest(registry).decode())


def read(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def test_every_family_has_a_sample_when_everything_happened() -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for name, _ in scrape(full())}
    assert shown == set(FAMILIES)


def test_values_are_those_of_the_counters() -> None:
    samples = scrape(full())
    assert of(samples, "antiphon_connections", channel="chat") == 100
    assert of(samples, "antiphon_publications_total", channel="chat", outcome="failed") == 1
    assert of(samples, "antiphon_lost_connections_total", channel="chat", reason="slow") == 2
    assert of(samples, "antiphon_slow_dropped_total", channel="chat", reason="drop_oldest") == 7
    assert of(samples, "antiphon_slow_dropped_total", channel="chat", reason="replaced") == 5
    assert of(samples, "antiphon_undelivered_total", channel="chat", reason="expired") == 3
    assert of(samples, "antiphon_refused_messages_total", channel="chat", reason="too_fast") == 7
    assert of(samples, "antiphon_refused_connections_total", channel="chat", reason="draining") == 5
    assert of(samples, "antiphon_ended_connections_total", channel="chat", reason="TOO_FAST") == 6
    assert of(samples, "antiphon_sent_bytes_total", channel="chat") == 9_000
    assert of(samples, "antiphon_draining", channel="chat") == 1
    assert of(samples, "antiphon_security_errors_total", reason="authenticator") == 2
    assert of(samples, "antiphon_security_timeouts_total") == 1
    assert of(samples, "antiphon_denied_topics_total") == 4
    assert of(samples, "antiphon_recheck_errors_total", channel="chat", reason="timeout") == 3
    assert of(samples, "antiphon_forgotten_revocations_total", channel="chat") == 1
    assert of(samples, "antiphon_unnoted_revocations_total", channel="chat") == 2
    assert of(samples, "antiphon_unchecked_connections_total", channel="chat") == 3
    assert of(samples, "antiphon_unshared_connections_total", channel="chat") == 12
    assert of(samples, "antiphon_quota_outages_total", channel="chat") == 1
    broker = "redis://h:6379/0"
    assert of(samples, "antiphon_relay_state", broker=broker, state="up") == 1
    assert of(samples, "antiphon_relay_state", broker=broker, state="degraded") == 0
    assert of(samples, "antiphon_relay_duplicates_total", broker=broker) == 3
    assert of(samples, "antiphon_outbox_dropped_total", broker=broker, reason="overflow") == 4


def test_managers_of_one_channel_and_links_to_one_broker_are_added_up_and_a_shared_link_counts_once() -> None:
    shared = LinkHistory(State.UP)
    managers = [full("a", history=shared), full("a", history=shared), full("b", history=shared), full("b", number=2)]
    samples = scrape(*managers)
    assert of(samples, "antiphon_connections", channel="a") == 200
    assert of(samples, "antiphon_draining", channel="a") == 1
    assert of(samples, "antiphon_refused_handshakes_total", reason="origin") == 3
    assert of(samples, "antiphon_security_errors_total", reason="authenticator") == 2
    assert of(samples, "antiphon_unshared_connections_total", channel="a") == 24
    assert of(samples, "antiphon_relay_received_total", broker="redis://h:6379/0") == 22
    assert of(samples, "antiphon_relay_replicas", broker="redis://h:6379/0") == 3
    assert of(samples, "antiphon_relay_state", broker="redis://h:6379/0", state="up") == 1


def test_histograms_are_cumulative_with_their_sum_and_count() -> None:
    history = LinkHistory(State.UP)
    for seconds in (0.0005, 0.004, 0.004, 99.0):
        history.own.observe(seconds)
    samples = scrape(full(history=history))
    name, labels = "antiphon_publish_to_deliver_seconds", {"broker": "redis://h:6379/0", "origin": "own"}
    assert [of(samples, f"{name}_bucket", **labels, le=le) for le in ("0.001", "0.005", "10.0", "+Inf")] == [1, 3, 3, 4]
    assert of(samples, f"{name}_count", **labels) == 4
    assert of(samples, f"{name}_sum", **labels) == pytest.approx(99.0085)
    assert of(samples, f"{name}_count", broker="redis://h:6379/0", origin="other") == 0


def test_text_is_valid_for_prometheus_and_for_openmetrics() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(managers=lambda: [full()]))
    text = openmetrics(registry).decode()  # type: ignore[no-untyped-call]  # of a package that is typed in part
    names = {family.name for family in parse_openmetrics(text)}  # type: ignore[no-untyped-call]  # the same
    assert names == {name.removesuffix("_total") for name in FAMILIES}


def test_names_follow_the_conventions_and_every_metric_has_a_help_text() -> None:
    units = ("_seconds", "_bytes", "_messages", "_total")
    for name, family in FAMILIES.items():
        assert re.fullmatch(r"antiphon_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") is (family.kind == "counter"), name
        assert "_ms" not in name
        assert family.kind != "histogram" or name.endswith(units), name
        assert len(family.help) > 10
        assert family.help.endswith("."), name


def test_labels_are_bounded() -> None:
    labels = {label for family in FAMILIES.values() for label in family.labels}
    assert labels == {"channel", "broker", "state", "reason", "outcome", "origin"}


def test_no_sample_holds_a_password() -> None:
    """S30"""
    counted = full()
    link = counted.stats().link
    assert link is not None
    address = f"redis://user:{CANARY}@h:6379/0"
    samples = scrape(Counted(replace(counted.stats(), link=replace(link, address=address)), counted.vitals()))
    assert CANARY not in repr(samples)
    assert of(samples, "antiphon_relay_received_total", broker="redis://h:6379/0") == 11


@pytest.mark.virtual_time
async def test_managers_of_the_process_are_read() -> None:
    async with Fleet(1, channel="metered") as fleet:
        await fleet.join(user_id="42")
        await fleet.managers[0].broadcast({"a": 1})
        samples = read(metrics.render().decode())
        assert of(samples, "antiphon_connections", channel="metered") == 1
        assert of(samples, "antiphon_deliveries_total", channel="metered") == 1
        assert of(samples, "antiphon_publications_total", channel="metered", outcome="cluster") == 1
        assert not any("42" in str(labels) for _, labels in samples)


def test_a_scrape_of_fifty_managers_is_quick() -> None:
    shared = LinkHistory(State.UP)
    managers = [full(f"channel-{number}", history=shared) for number in range(50)]
    best_s = min(_cpu_s(managers) for _ in range(20))
    assert best_s < 0.03  # 10 ms is what is wanted


def _cpu_s(managers: list[Counted]) -> float:
    before = time.thread_time()
    metrics.render(managers=lambda: managers)
    return time.thread_time() - before


def test_a_registry_finds_names_that_are_taken() -> None:
    registry = CollectorRegistry()
    registry.register(Collector(managers=list))
    with pytest.raises(ValueError, match="Duplicated"):
        registry.register(Collector(managers=list))


def test_what_to_install_is_said_when_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"antiphon\[metrics\]"):
        Collector()


def test_text_says_the_same_as_the_collector() -> None:
    history = LinkHistory(State.UP)
    history.detect.observe(1.5)
    link = full().stats().link
    assert link is not None
    odd = replace(link, address='a\\b"c\nd', replica="odd")
    managers = [full("a", history=history), full("b", number=2), Counted(replace(full("c").stats(), link=odd))]
    text = metrics.render(managers=lambda: managers).decode()
    ours, theirs = read(text), scrape(*managers)
    varying = {key for key in ours if key[0] == "antiphon_relay_state_seconds_total"}
    assert ours.keys() == theirs.keys()
    assert {key: ours[key] for key in ours.keys() - varying} == {key: theirs[key] for key in theirs.keys() - varying}
    assert {family.name: family.documentation for family in parse(text)} == {
        name.removesuffix("_total"): family.help for name, family in FAMILIES.items()
    }


# -- the endpoint -----------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(metrics.TOKEN_VARIABLE, raising=False)


@pytest.fixture
def app() -> Starlette:
    return Starlette(routes=[Route("/metrics", metrics_endpoint)])


def test_endpoint_answers_this_machine_without_a_token(app: Starlette) -> None:
    answer = TestClient(app, client=("127.0.0.1", 1)).get("/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, CONTENT_TYPE)
    assert "# TYPE antiphon_connections gauge" in answer.text


def test_endpoint_refuses_others_and_says_what_to_set(app: Starlette) -> None:
    """S48"""
    answer = TestClient(app, client=("203.0.113.9", 1)).get("/metrics")
    assert answer.status_code == 403
    assert metrics.TOKEN_VARIABLE in answer.json()["error"]


def test_endpoint_wants_the_token_from_everybody_once_it_is_set(
    app: Starlette, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(metrics.TOKEN_VARIABLE, CANARY * 2)
    client = TestClient(app, client=("127.0.0.1", 1))
    refused = client.get("/metrics")
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    far = TestClient(app, client=("203.0.113.9", 1))
    assert far.get("/metrics", headers={"Authorization": f"Bearer {CANARY * 2}"}).status_code == 200
    assert CANARY not in refused.text


def test_reasons_of_the_outbox_are_labels() -> None:
    counted = full()
    link = counted.stats().link
    assert link is not None
    everything = {str(reason): 1 for reason in Reason}
    samples = scrape(Counted(replace(counted.stats(), link=replace(link, dropped=everything)), counted.vitals()))
    shown = {dict(labels)["reason"] for name, labels in samples if name == "antiphon_outbox_dropped_total"}
    assert shown == {reason.value for reason in Reason}

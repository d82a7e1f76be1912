"""The checker finds what is planted for it, and nothing else."""

from __future__ import annotations

import math

import pytest

from tests.replicas.checker import Finding, Window, check, crossings, latencies_s, quantile
from tests.replicas.recorder import Key, Listener, Receipt, Recording, Send
from tests.replicas.report import Report


def recording_of(*, topics: tuple[str | None, ...] = ("t",), count: int = 10) -> Recording:
    """R1 published `count` messages a topic, 1 s apart; one client of R1 and one of R2 got each 10 ms later."""
    recording = Recording()
    keys = [Key("R1", topic, sequence) for sequence in range(count) for topic in topics]
    recording.sent(Send(key, 100.0 + key.sequence, 100.001 + key.sequence, scope="cluster") for key in keys)
    for replica in ("R1", "R2"):
        listener = Listener(f"{replica}c", replica, frozenset(topic for topic in topics if topic))
        listener.receipts = [Receipt(key, 100.01 + key.sequence) for key in keys]
        recording.listen(listener)
    return recording


def test_verdict_is_clean_when_all_arrived_once_in_order() -> None:
    verdict = check(recording_of(topics=("a", "b", None)))
    assert verdict.clean
    assert (verdict.sends, verdict.deliveries) == (30, 60)


def test_missing_is_found_when_a_receipt_is_not_there() -> None:
    recording = recording_of()
    del recording.listeners[1].receipts[4]
    verdict = check(recording)
    assert verdict.missing == [Finding("R2c", Key("R1", "t", 4), 104.0)]
    assert not verdict.clean
    assert [verdict.duplicates, verdict.inversions, verdict.strays] == [[], [], []]


def test_missing_is_found_when_the_last_ones_never_came() -> None:
    recording = recording_of()
    del recording.listeners[0].receipts[7:]
    assert [finding.key.sequence for finding in check(recording).missing] == [7, 8, 9]


def test_missing_is_forgiven_only_inside_a_window() -> None:
    recording = recording_of()
    del recording.listeners[1].receipts[4:6]
    verdict = check(recording, windows=[Window(103.5, 104.5)])
    assert [finding.key.sequence for finding in verdict.forgiven] == [4]
    assert [finding.key.sequence for finding in verdict.missing] == [5]


def test_missing_is_forgiven_only_where_the_test_says_so() -> None:
    recording = recording_of()
    for listener in recording.listeners:
        del listener.receipts[2]
    verdict = check(recording, forgive=lambda listener, send: listener.replica == "R2")
    assert [finding.client for finding in verdict.missing] == ["R1c"]
    assert [finding.client for finding in verdict.forgiven] == ["R2c"]


def test_nothing_is_missing_when_the_client_was_not_there_or_not_meant() -> None:
    recording = recording_of(topics=("a",))
    recording.listen(Listener("late", "R2", frozenset({"a"}), since=105.5)).receipts = [
        Receipt(Key("R1", "a", sequence), 100.01 + sequence) for sequence in range(6, 10)
    ]
    recording.listen(Listener("early", "R2", frozenset({"a"}), until=104.0005)).receipts = [
        Receipt(Key("R1", "a", sequence), 100.01 + sequence) for sequence in range(4)
    ]
    recording.listen(Listener("elsewhere", "R2", frozenset({"b"})))
    assert check(recording).clean


def test_nothing_is_missing_when_the_call_raised() -> None:
    recording = recording_of()
    recording.sent([Send(Key("R1", "t", 99), 199.0, 199.1, error="PublishFailed()")])
    assert check(recording).clean


def test_duplicate_is_found_when_a_message_comes_again_late() -> None:
    recording = recording_of()
    recording.listeners[1].receipts.append(Receipt(Key("R1", "t", 2), 110.0))
    verdict = check(recording)
    assert verdict.duplicates == [Finding("R2c", Key("R1", "t", 2), 110.0)]
    assert [verdict.missing, verdict.inversions] == [[], []]


def test_inversion_is_found_when_two_messages_change_places() -> None:
    recording = recording_of()
    receipts = recording.listeners[0].receipts
    receipts[3], receipts[4] = receipts[4], receipts[3]
    verdict = check(recording)
    assert [(finding.client, finding.key.sequence) for finding in verdict.inversions] == [("R1c", 3)]
    assert [verdict.missing, verdict.duplicates] == [[], []]


def test_order_is_judged_by_topic_and_publisher() -> None:
    recording = recording_of(topics=("a", "b"))
    receipts = recording.listeners[0].receipts
    receipts[2], receipts[3] = receipts[3], receipts[2]
    recording.sent([Send(Key("R2", "a", 0), 105.0, 105.1)])
    for listener in recording.listeners:
        listener.receipts.append(Receipt(Key("R2", "a", 0), 111.0))
    assert check(recording).clean


def test_stray_is_found_when_nobody_sent_it_or_it_was_for_another() -> None:
    recording = recording_of(topics=("a", "b"))
    recording.listeners[0].topics = frozenset({"a"})
    recording.listeners[0].receipts = [r for r in recording.listeners[0].receipts if r.key.topic == "a"]
    recording.listeners[0].receipts.append(Receipt(Key("R1", "b", 0), 110.0))
    recording.listeners[1].receipts.append(Receipt(Key("R9", "a", 0), 110.0))
    verdict = check(recording)
    assert [(finding.client, finding.key) for finding in verdict.strays] == [
        ("R1c", Key("R1", "b", 0)),
        ("R2c", Key("R9", "a", 0)),
    ]


def test_target_users_decide_who_expects_a_message() -> None:
    recording = Recording()
    recording.sent([Send(Key("R1", None, 0), 1.0, 1.1, users=frozenset({"u1"}))])
    recording.listen(Listener("c1", "R1", frozenset(), user_id="u1"))
    stray = recording.listen(Listener("c2", "R1", frozenset(), user_id="u2"))
    stray.receipts.append(Receipt(Key("R1", None, 0), 1.2))
    verdict = check(recording)
    assert [finding.client for finding in verdict.missing] == ["c1"]
    assert [finding.client for finding in verdict.strays] == ["c2"]


def test_verdict_names_what_is_wrong_when_printed() -> None:
    recording = recording_of()
    del recording.listeners[1].receipts[4]
    assert "missing 1 (R2c R1/t#4 at 104.000)" in str(check(recording))


def test_latencies_are_of_the_chosen_deliveries() -> None:
    recording = recording_of(count=3)
    recording.listeners[1].receipts[2] = Receipt(Key("R1", "t", 2), 102.5)
    across = latencies_s(recording, where=lambda listener, send: listener.replica != send.key.publisher)
    assert across == pytest.approx([0.01, 0.01, 0.5])
    assert quantile(across, 0.5) == pytest.approx(0.01)
    assert quantile(across, 0.99) == pytest.approx(0.5)
    assert math.isnan(quantile([], 0.5))


def test_crossing_is_the_first_message_of_another_replica() -> None:
    recording = recording_of()
    assert crossings(recording, "R2", since=103.5) == pytest.approx(104.01)
    assert crossings(recording, "R1", since=103.5) is None


def test_recording_refuses_the_same_publication_twice() -> None:
    recording = recording_of()
    with pytest.raises(ValueError, match="recorded twice"):
        recording.sent([Send(Key("R1", "t", 0), 1.0, 1.1)])


def test_report_fails_only_when_a_time_is_out_of_proportion() -> None:
    report = Report()
    report.within("F00", "detect", 4.1, target_s=0.2)
    with pytest.raises(AssertionError, match=r"more than 4\.2 s"):
        report.within("F00", "detect", 4.3, target_s=0.2)
    report.within("F00", "recover", 7.4, target_s=2.5)
    assert [line.split()[0] for line in report.lines()] == ["fault", "-----", "F00", "F00", "F00"]
    assert not list(Report().lines())


def test_report_fails_when_most_deliveries_had_to_wait() -> None:
    report = Report()
    report.at_once("F00", "latency", [0.001, 0.001, 9.0])
    with pytest.raises(AssertionError, match="for half of the deliveries"):
        report.at_once("F00", "latency", [0.001, 2.0, 2.0])
    with pytest.raises(AssertionError):
        report.at_once("F00", "latency", [])

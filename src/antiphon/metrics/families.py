"""The names of all metrics, what they mean, and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, TypeAlias

__all__ = ["FAMILIES", "Family"]

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]


class Family(NamedTuple):
    """One metric, whatever its labels' values."""

    kind: Kind
    labels: tuple[str, ...]
    help: str


_OF_CHANNEL = ("channel",)
_OF_BROKER = ("broker",)

FAMILIES: Mapping[str, Family] = {
    # Here and now.
    "antiphon_connections": Family("gauge", _OF_CHANNEL, "WebSockets that are open on this replica."),
    "antiphon_users": Family("gauge", _OF_CHANNEL, "Distinct users with a socket on this replica."),
    "antiphon_topics": Family("gauge", _OF_CHANNEL, "Topics that a socket of this replica hears."),
    "antiphon_queued_bytes": Family(
        "gauge", _OF_CHANNEL, "Bytes that wait for clients which do not read quickly enough."
    ),
    "antiphon_queued_connections": Family("gauge", _OF_CHANNEL, "Clients that bytes wait for."),
    "antiphon_backlog_bytes": Family(
        "gauge", _OF_CHANNEL, "Bytes of messages that are not yet handed to every socket; each message counts once."
    ),
    "antiphon_draining": Family("gauge", _OF_CHANNEL, "1 while new sockets are refused because the replica will end."),
    # Sockets.
    "antiphon_connects_total": Family("counter", _OF_CHANNEL, "Sockets that were connected."),
    "antiphon_disconnects_total": Family("counter", _OF_CHANNEL, "Sockets that are connected no longer."),
    "antiphon_lost_connections_total": Family(
        "counter", ("channel", "reason"), "Sockets that this replica had to end; slow: the client did not read."
    ),
    "antiphon_slow_dropped_total": Family(
        "counter",
        ("channel", "reason"),
        "Messages that one slow client misses because their policy says so; one that 100 clients miss counts 100.",
    ),
    "antiphon_refused_connections_total": Family(
        "counter", ("channel", "reason"), "Sockets that were not let in: limits, bad requests, revocations, draining."
    ),
    "antiphon_refused_handshakes_total": Family(
        "counter", ("reason",), "Handshakes and requests that were not let in: no session, another origin."
    ),
    "antiphon_ended_connections_total": Family(
        "counter",
        ("channel", "reason"),
        "Sockets that were ended for what the client sent, did not send, or may do no longer; by close code.",
    ),
    "antiphon_unshared_connections_total": Family(
        "counter", _OF_CHANNEL, "Sockets that were let in by this replica's counts alone: the store was away."
    ),
    "antiphon_quota_outages_total": Family("counter", _OF_CHANNEL, "Times that the store of the counts was lost."),
    # Who is it, and may they still.
    "antiphon_security_errors_total": Family(
        "counter",
        ("reason",),
        "Questions to the application that nobody could answer: authenticator, authorize, recheck.",
    ),
    "antiphon_security_timeouts_total": Family(
        "counter", (), "Those of handshakes that took too long; they are among the errors too."
    ),
    "antiphon_denied_topics_total": Family("counter", (), "Topics that authorize said no to, or raised for."),
    "antiphon_recheck_errors_total": Family(
        "counter",
        ("channel", "reason"),
        "Questions of re-checks without an answer, error or timeout; the sockets were kept.",
    ),
    "antiphon_forgotten_revocations_total": Family(
        "counter", _OF_CHANNEL, "Revocations that were forgotten before their time, because there were too many."
    ),
    "antiphon_unnoted_revocations_total": Family(
        "counter", _OF_CHANNEL, "Revocations that a replica which nobody used at the time cannot know of."
    ),
    "antiphon_unchecked_connections_total": Family(
        "counter", _OF_CHANNEL, "Sockets that were let in without a look at the notes of such revocations."
    ),
    # Messages.
    "antiphon_received_messages_total": Family(
        "counter", _OF_CHANNEL, "Messages from clients, where the library reads the sockets."
    ),
    "antiphon_refused_messages_total": Family(
        "counter", ("channel", "reason"), "Messages of clients that were answered with an error, by its code."
    ),
    "antiphon_received_bytes_total": Family("counter", _OF_CHANNEL, "Bytes of those messages."),
    "antiphon_handler_errors_total": Family(
        "counter", _OF_CHANNEL, "Times that on_connect, on_message or on_close raised."
    ),
    "antiphon_publications_total": Family(
        "counter",
        ("channel", "outcome"),
        "Publications of this replica; cluster: the broker took it, local: only this replica's clients had it at "
        "first, failed: PublishFailed was raised.",
    ),
    "antiphon_deliveries_total": Family(
        "counter", _OF_CHANNEL, "Messages given to sockets of this replica: one message to 100 clients counts 100."
    ),
    "antiphon_sent_bytes_total": Family("counter", _OF_CHANNEL, "Bytes of messages given to sockets, uncompressed."),
    "antiphon_undelivered_total": Family(
        "counter",
        ("channel", "reason"),
        "Messages that this replica kept from its clients; filtered, filter_error, expired.",
    ),
    # The link to the broker.
    "antiphon_relay_state": Family("gauge", ("broker", "state"), "1 for the state that the link is in, 0 for others."),
    "antiphon_relay_state_seconds_total": Family("counter", ("broker", "state"), "Time that the link was in a state."),
    "antiphon_relay_replicas": Family("gauge", _OF_BROKER, "Replicas that heard the last probe, this one included."),
    "antiphon_relay_routes": Family("gauge", _OF_BROKER, "Redis channels that this replica hears."),
    "antiphon_relay_in_flight": Family("gauge", _OF_BROKER, "Publications whose outcome is open."),
    "antiphon_relay_received_total": Family("counter", _OF_BROKER, "Payloads that came from the broker."),
    "antiphon_relay_rejected_total": Family(
        "counter", ("broker", "reason"), "Payloads that could not be understood, or were not trusted."
    ),
    "antiphon_relay_duplicates_total": Family(
        "counter", _OF_BROKER, "Copies that were dropped because the same id was here before."
    ),
    "antiphon_relay_stale_retries_total": Family(
        "counter", _OF_BROKER, "Late re-sends that were dropped because nobody can tell whether they are copies."
    ),
    "antiphon_relay_dials_total": Family("counter", _OF_BROKER, "Attempts to connect."),
    "antiphon_relay_losses_total": Family("counter", ("broker", "reason"), "Times that the link was lost."),
    "antiphon_relay_publisher_redials_total": Family(
        "counter", _OF_BROKER, "Times that the publishing connection alone was made anew."
    ),
    "antiphon_relay_detect_seconds": Family(
        "histogram", _OF_BROKER, "From the broker's last sign of life until the link was taken for lost."
    ),
    "antiphon_relay_recover_seconds": Family(
        "histogram", _OF_BROKER, "From there until it was up again: the outage, and what was needed after it."
    ),
    "antiphon_outbox_messages": Family("gauge", _OF_BROKER, "Publications that wait for the broker."),
    "antiphon_outbox_bytes": Family("gauge", _OF_BROKER, "Their bytes, 256 for each included."),
    "antiphon_outbox_queued_total": Family("counter", _OF_BROKER, "Publications that went into the outbox."),
    "antiphon_outbox_flushed_total": Family("counter", _OF_BROKER, "Those that left it for the broker."),
    "antiphon_outbox_dropped_total": Family(
        "counter", ("broker", "reason"), "Publications that the outbox gave up or never took: others never had them."
    ),
    "antiphon_publish_to_deliver_seconds": Family(
        "histogram",
        ("broker", "origin"),
        "From broadcast() to the sockets of this replica, of one publication in 64; origin own: by this replica's "
        "clock, other: by the clocks of two machines, in milliseconds.",
    ),
    # The process.
    "antiphon_loop_lag_seconds": Family(
        "histogram", (), "How late the event loop was, four times a second; a handler that blocks shows here."
    ),
    "antiphon_loop_lag_worst_seconds": Family("gauge", (), "The worst of the last one to two minutes."),
}
"""All metrics. Labels hold channels, addresses without credentials, states and reasons; never users or topics."""

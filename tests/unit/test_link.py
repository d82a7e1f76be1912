"""One life of the link: dialled, proved, watched and ended, over a broker that does as it is told."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

import pytest

from antiphon.brokers.base import Message
from antiphon.codes import Reason
from antiphon.dedupe import Dedupe
from antiphon.errors import BrokerError, BrokerRefused, BrokerTimeout, BrokerUnavailable
from antiphon.journal import Journal
from antiphon.ledger import Attempt, Ledger, Outcome
from antiphon.link import Clock, Link
from antiphon.outbox import OutboxLimits
from antiphon.publication import Publication, new_publication
from antiphon.routes import Routes
from antiphon.settings import Timings
from antiphon.stats import LinkCounters
from antiphon.testing.scripted_broker import Fail, Hang, ScriptedBroker, ScriptedListening, ScriptedPublishing, Succeed
from antiphon.testing.virtual_time import VirtualTimeLoop
from antiphon.topics import CONTROL_ROUTE, replica_route
from antiphon.wire import codec
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope
from tests.unit.browsers import nothing_left, settle, until

pytestmark = pytest.mark.virtual_time

TIMINGS = Timings()


class Life:
    """A link of replica `me` with a listener on channel `c`; at the end nothing of it may be left."""

    def __init__(self, *dials: Succeed | Fail | Hang, timings: Timings = TIMINGS) -> None:
        self.broker = ScriptedBroker(*dials)
        self.counters = LinkCounters()
        self.texts: list[str] = []
        self.controls: list[Envelope] = []
        self.peers: set[str] = set()
        self.ups = 0
        self.has_room = asyncio.Event()
        self.has_room.set()
        self.clock = Clock()
        self.routes = Routes(counters=self.counters, dedupe=Dedupe(), journal=Journal())
        self.ledger = Ledger(
            counters=self.counters, outbox_limits=OutboxLimits(), deliver_here=self.routes.deliver_here
        )
        self.routes.add("c", None, self._listener)
        self.link = Link(
            self.broker,
            replica="me",
            timings=timings,
            routes=self.routes,
            ledger=self.ledger,
            counters=self.counters,
            clock=self.clock,
            on_control=self._on_control,
            on_peer=self._on_peer,
            room=self._room,
        )
        self._echoed = 0

    async def __aenter__(self) -> Self:
        self._tasks_before = asyncio.all_tasks()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.link.lose(BrokerUnavailable("the end of the test"))
        if hasattr(self, "running"):
            await asyncio.gather(self.running, return_exceptions=True)
        await self.link.close()
        if error is None:
            await nothing_left(self._tasks_before)
            assert all(listening.closed for listening in self.broker.open_listenings)
            assert all(publishing.closed for publishing in self.broker.open_publishings)

    def _listener(self, publication: Publication) -> int:
        self.texts.append(publication.frame.text)
        return 1

    def _on_control(self, envelope: Envelope) -> None:
        self.controls.append(envelope)
        if envelope.kind == "break":
            raise ZeroDivisionError("a defect")

    def _on_peer(self, peer: str) -> bool:
        if peer in self.peers:
            return False
        self.peers.add(peer)
        return True

    async def _room(self) -> None:
        await self.has_room.wait()

    def _on_up(self) -> None:
        self.ups += 1

    # -- what a test does ------------------------------------------------------------------------------------------

    @property
    def listening(self) -> ScriptedListening:
        return self.broker.open_listenings[-1]

    @property
    def publishing(self) -> ScriptedPublishing:
        return self.broker.open_publishings[-1]

    async def start(self, *, expected_replicas: int | None = 1) -> None:
        """Dial, and run without answering the probe."""
        await self.link.dial()
        self.running = asyncio.create_task(
            self.link.run(expected_replicas=expected_replicas, on_up=self._on_up), name="the link"
        )
        await until(lambda: bool(self.publishing.publications) or self.running.done())

    async def up(self) -> Self:
        await self.start()
        self.echo()
        await until(lambda: self.link.live)
        return self

    def echo(self) -> None:
        """Hand on what was published since the last time, on all connections in their order."""
        publications = [each for publishing in self.broker.open_publishings for each in publishing.publications]
        for publication in publications[self._echoed :]:
            self.listening.say(Message(publication.route, publication.payload))
        self._echoed = len(publications)

    async def mirror(self) -> None:
        """Behave as a server does: hand on everything, for as long as this task lives."""
        while True:
            self.echo()
            await asyncio.sleep(0.01)

    def publish(self, text: str, *, channel: str = "c", fail: bool = False) -> asyncio.Future[Outcome]:
        publication = new_publication(text, sender="me", channel=channel, limit_bytes=1_000)
        attempt = Attempt(publication, fail=fail, keep=True, since=self.clock.now())
        attempt.echoed = not self.routes.confirmed(publication.route)
        self.ledger.open(attempt)
        self.link.send(attempt)
        return attempt.done

    def keep(self, *texts: str) -> None:
        """Put these into the outbox, as an outage does."""
        for text in texts:
            publication = new_publication(text, sender="me", channel="c", limit_bytes=1_000)
            attempt = Attempt(publication, fail=False, keep=True, since=self.clock.now())
            self.ledger.settle_here(attempt, Reason.UNREACHABLE, now=self.clock.now())
        self.texts.clear()

    async def ending(self, *, within_s: float = 30.0) -> BrokerError:
        return await asyncio.wait_for(asyncio.shield(self.running), within_s)

    def probes(self) -> int:
        return sum(b'"kind":"probe"' in each.payload for each in self.publishing.publications)

    def sent(self) -> list[Envelope]:
        """The messages that were published on the last connection."""
        found = [envelopes.decode(payload) for payload in self.publishing.payloads]
        return [envelope for envelope in found if envelope.kind is None]


def text_of(envelope: Envelope) -> object:
    return codec.decode(envelope.payload)


# -- dialling ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("other", [Succeed(), Succeed(after_s=0.3), Hang()])
async def test_the_other_connection_is_let_go_when_one_cannot_be_made(
    order: tuple[int, int], other: Succeed | Hang
) -> None:
    dials = [Fail(BrokerUnavailable("refused"), after_s=0.1), other]
    async with Life(*[dials[index] for index in order]) as life:
        with pytest.raises(BrokerUnavailable, match="refused"):
            await life.link.dial()

        assert life.counters.dials == 1
        assert len(life.broker.open_listenings) + len(life.broker.open_publishings) + life.broker.cancelled_dials == 1


async def test_a_broker_that_hangs_is_given_up_after_the_time_for_connecting() -> None:
    async with Life(Hang(), Hang()) as life:
        loop = asyncio.get_running_loop()
        start = loop.time()
        with pytest.raises(BrokerUnavailable, match=r"scripted did not answer within 1 s") as hung:
            await life.link.dial()

        assert hung.value.reason is Reason.TIMEOUT
        assert loop.time() - start == pytest.approx(TIMINGS.connect_s)
        assert life.broker.cancelled_dials == 2


async def test_nothing_stays_open_when_dialling_is_cancelled() -> None:
    async with Life(Succeed(), Hang()) as life:
        dialling = asyncio.create_task(life.link.dial())
        await settle()
        dialling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await dialling

        assert life.broker.cancelled_dials == 1


# -- the proof --------------------------------------------------------------------------------------------------------


async def test_the_link_is_live_only_when_its_own_token_came_back() -> None:
    async with Life() as life:
        await life.start()
        await asyncio.sleep(1)
        assert (life.link.live, life.ups) == (False, 0)
        assert life.listening.routes == {CONTROL_ROUTE, replica_route("me"), "c"}
        life.echo()
        await until(lambda: life.link.live)

        assert (life.ups, life.link.replicas) == (1, 1)


async def test_no_token_is_sent_before_every_subscription_is_confirmed() -> None:
    async with Life(Succeed(), Succeed()) as life:
        await life.link.dial()
        life.listening.confirms = False
        life.running = asyncio.create_task(life.link.run(expected_replicas=1, on_up=life._on_up))
        await asyncio.sleep(1)

        assert life.publishing.publications == []
        assert (await life.ending()).reason is Reason.DEAF


async def test_another_replicas_token_proves_nothing() -> None:
    async with Life() as life:
        await life.start()
        [probe] = life.publishing.publications
        foreign = envelopes.decode(probe.payload)
        foreign.sender = "another"
        life.listening.say(Message(CONTROL_ROUTE, envelopes.encode(foreign)))
        ending = await life.ending()

        assert (ending.reason, life.ups) == (Reason.DEAF, 0)
        assert "does not come back" in str(ending)


@pytest.mark.parametrize("reason", [Reason.PERMISSION, Reason.LOADING])
async def test_the_life_ends_when_the_token_is_refused(reason: Reason) -> None:
    async with Life() as life:
        await life.link.dial()
        life.publishing.answers = None
        life.running = asyncio.create_task(life.link.run(expected_replicas=1, on_up=life._on_up))
        await until(lambda: bool(life.publishing.unanswered))
        life.publishing.unanswered[0].refuse(reason)

        assert (await life.ending()).reason is reason


# -- the outbox -------------------------------------------------------------------------------------------------------


async def test_what_was_kept_is_sent_before_the_link_is_live_and_says_how_old_it_is() -> None:
    async with Life() as life:
        life.keep(*map(str, range(250)))
        await asyncio.sleep(7)
        await life.start()
        assert not life.link.live
        life.echo()
        await until(lambda: life.link.live)

        assert [text_of(envelope) for envelope in life.sent()] == [str(number) for number in range(250)]
        assert {round((envelope.retry_age_ms or 0) / 1000) for envelope in life.sent()} == {7}
        assert (len(life.ledger.outbox), life.counters.flushed) == (0, 250)


async def test_the_own_clients_get_nothing_twice_when_what_was_kept_comes_back() -> None:
    async with Life() as life:
        life.keep("x")
        await life.up()
        life.echo()
        await settle()

        assert (life.texts, life.counters.duplicates) == ([], 1)


async def test_what_has_no_answer_stays_in_the_outbox_when_the_link_is_lost() -> None:
    async with Life() as life:
        life.keep("0", "1", "2")
        await life.start()
        life.publishing.answers = None
        life.echo()
        await until(lambda: len(life.publishing.unanswered) == 3)
        life.publishing.unanswered[0].reply()
        life.publishing.lose()
        ending = await life.ending()

        assert ending.reason is Reason.CONNECTION_LOST
        assert [item.publication.frame.text for item in life.ledger.outbox.head(9)] == ["1", "2"]
        assert life.counters.flushed == 1


async def test_the_life_ends_and_the_outbox_stays_when_the_broker_falls_silent_meanwhile() -> None:
    async with Life() as life:
        life.keep("0", "1")
        await life.start()
        life.publishing.answers = None
        life.echo()

        assert (await life.ending()).reason is Reason.TIMEOUT
        assert (len(life.ledger.outbox), life.ups) == (2, 0)


async def test_a_kept_publication_that_is_refused_is_dropped_and_the_others_are_sent() -> None:
    async with Life() as life:
        life.keep("0", "1", "2")
        await life.start()
        life.publishing.answers = None
        life.echo()
        await until(lambda: len(life.publishing.unanswered) == 3)
        _, refused, _ = life.publishing.unanswered
        refused.refuse(Reason.PERMISSION)
        for publication in life.publishing.unanswered:
            publication.reply()
        await until(lambda: life.link.live)

        assert (life.counters.flushed, life.counters.dropped, len(life.ledger.outbox)) == (2, {Reason.PERMISSION: 1}, 0)


async def test_everything_stays_in_the_outbox_when_the_server_refuses_all() -> None:
    async with Life() as life:
        life.keep("0", "1")
        await life.start()
        life.publishing.answers = None
        life.echo()
        await until(lambda: len(life.publishing.unanswered) == 2)
        for publication in life.publishing.unanswered:
            publication.refuse(Reason.OUT_OF_MEMORY)

        assert (await life.ending()).reason is Reason.OUT_OF_MEMORY
        assert (len(life.ledger.outbox), life.counters.dropped) == (2, {})


async def test_the_outbox_waits_until_the_other_replicas_are_back() -> None:
    async with Life() as life:
        life.keep("x")
        await life.start(expected_replicas=3)
        mirroring = asyncio.create_task(life.mirror())
        await asyncio.sleep(TIMINGS.others_wait_s / 2)
        assert life.sent() == []
        life.publishing.answers = 3
        await until(lambda: life.link.live)
        mirroring.cancel()

        assert [text_of(envelope) for envelope in life.sent()] == ["x"]
        assert life.link.replicas == 3


async def test_the_outbox_is_sent_in_the_end_when_a_replica_does_not_come_back() -> None:
    async with Life() as life:
        life.keep("x")
        await life.start(expected_replicas=3)
        loop = asyncio.get_running_loop()
        start = loop.time()
        mirroring = asyncio.create_task(life.mirror())
        await until(lambda: life.link.live)
        mirroring.cancel()

        assert TIMINGS.others_wait_s <= loop.time() - start < TIMINGS.others_wait_s + 1
        assert [text_of(envelope) for envelope in life.sent()] == ["x"]


async def test_nothing_is_waited_for_when_the_outbox_is_empty() -> None:
    async with Life() as life:
        await life.start(expected_replicas=3)
        loop = asyncio.get_running_loop()
        start = loop.time()
        life.echo()
        await until(lambda: life.link.live)

        assert loop.time() - start < 0.1


# -- publishing -------------------------------------------------------------------------------------------------------


async def test_a_publication_is_confirmed_by_its_answer_and_its_own_copy() -> None:
    async with Life() as life:
        await life.up()
        life.publishing.answers = 4
        done = life.publish("x")
        await settle()
        assert not done.done()
        life.echo()

        assert await done == Outcome(True, 4, 1, False, None)
        assert life.texts == ["x"]


async def test_a_publication_needs_no_own_copy_when_nobody_here_listens() -> None:
    async with Life() as life:
        await life.up()

        assert await life.publish("x", channel="elsewhere") == Outcome(True, 1, 0, False, None)
        assert life.texts == []


async def test_the_life_ends_when_a_publication_gets_no_answer() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        life.publishing.answers = None
        loop = asyncio.get_running_loop()
        start = loop.time()
        life.publish("x")
        ending = await life.ending()
        mirroring.cancel()

        assert isinstance(ending, BrokerTimeout)
        assert "has not answered a PUBLISH" in str(ending)
        assert TIMINGS.command_s <= loop.time() - start < TIMINGS.command_s + 1


async def test_the_life_ends_when_the_own_copy_does_not_come_back() -> None:
    async with Life() as life:
        await life.up()
        loop = asyncio.get_running_loop()
        start = loop.time()
        life.publish("x")
        ending = await life.ending()

        assert ending.reason is Reason.DEAF
        assert TIMINGS.own_copy_s <= loop.time() - start < TIMINGS.own_copy_s + 1


@pytest.mark.parametrize("reason", [Reason.LOADING, Reason.READ_ONLY, Reason.OUT_OF_MEMORY, Reason.AUTHENTICATION])
async def test_the_life_ends_when_the_server_refuses_everything(reason: Reason) -> None:
    async with Life() as life:
        await life.up()
        life.publishing.answers = None
        life.publish("x")
        await until(lambda: bool(life.publishing.unanswered))
        life.publishing.unanswered[0].refuse(reason)

        assert (await life.ending()).reason is reason


@pytest.mark.parametrize("reason", [Reason.PERMISSION, Reason.REFUSED])
async def test_the_life_goes_on_when_one_publication_is_refused(reason: Reason) -> None:
    async with Life() as life:
        await life.up()
        life.publishing.answers = None
        done = life.publish("x")
        await until(lambda: bool(life.publishing.unanswered))
        life.publishing.unanswered[0].refuse(reason)

        assert await done == Outcome(False, None, 1, False, reason)
        assert (life.link.live, life.texts) == (True, ["x"])


# -- mending ----------------------------------------------------------------------------------------------------------


async def test_a_lost_publishing_connection_is_made_anew_and_what_has_no_answer_sent_again() -> None:
    async with Life() as life:
        await life.up()
        first = life.publishing
        first.answers = None
        life.broker.next_dials(Succeed(after_s=0.5))
        done = [life.publish(str(number)) for number in range(3)]
        await until(lambda: len(first.unanswered) == 3)
        first.unanswered[0].reply()
        first.lose()
        await until(lambda: life.link.mending)
        done.append(life.publish("meanwhile"))
        await until(lambda: life.publishing is not first)
        await settle()
        assert [text_of(envelope) for envelope in life.sent()] == ["1", "2", "meanwhile"]
        assert [envelope.id for envelope in life.sent()][:2] == [
            envelopes.decode(payload).id for payload in first.payloads[-2:]
        ]
        for text in ("0", "1", "2", "meanwhile"):
            assert text not in life.texts
        life.echo()
        outcomes = await asyncio.gather(*done)

        assert life.texts == ["0", "1", "2", "meanwhile"]
        assert {outcome.confirmed for outcome in outcomes} == {True}
        assert (life.link.live, life.link.mending, life.counters.publisher_redials) == (True, False, 1)


async def test_a_publishing_connection_that_was_lost_in_silence_is_made_anew_too() -> None:
    async with Life() as life:
        await life.up()
        first = life.publishing
        first.lose()
        await until(lambda: life.publishing is not first and not life.link.mending)
        done = life.publish("x")
        await settle()
        life.echo()

        assert (await done).confirmed


async def test_the_life_ends_when_the_publishing_connection_cannot_be_made_anew() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        life.broker.next_dials(*[Fail(BrokerUnavailable("refused"))] * 1_000)
        loop = asyncio.get_running_loop()
        start = loop.time()
        life.publishing.lose()
        ending = await life.ending()
        mirroring.cancel()

        assert "refused" in str(ending)
        assert TIMINGS.command_s <= loop.time() - start < TIMINGS.command_s + 1


async def test_the_life_ends_at_once_when_the_new_publishing_connection_is_refused() -> None:
    async with Life() as life:
        await life.up()
        life.broker.next_dials(Fail(BrokerRefused("full", reason=Reason.MAX_CLIENTS)))
        life.publishing.lose()

        assert (await life.ending(within_s=1)).reason is Reason.MAX_CLIENTS


# -- watching ---------------------------------------------------------------------------------------------------------


async def test_a_link_that_answers_lives_on_and_is_probed_now_and_then() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        await asyncio.sleep(600)
        mirroring.cancel()

        assert life.link.live
        assert 55 <= life.probes() <= 61


@pytest.mark.parametrize("side", ["listening", "publishing"])
async def test_the_life_ends_when_a_connection_answers_no_ping(side: str) -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        connection = life.listening if side == "listening" else life.publishing
        connection.pongs = False
        loop = asyncio.get_running_loop()
        start = loop.time()
        ending = await life.ending()
        mirroring.cancel()

        assert isinstance(ending, BrokerTimeout)
        assert "has not answered for 2 s" in str(ending)
        assert TIMINGS.dead_after_s <= loop.time() - start <= TIMINGS.dead_after_s + 2 * TIMINGS.ping_every_s


async def test_the_life_ends_when_a_ping_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with Life() as life:
        await life.up()

        async def refuse() -> None:
            raise BrokerRefused("WRONGPASS", reason=Reason.AUTHENTICATION)

        monkeypatch.setattr(life.publishing, "ping", refuse)

        assert (await life.ending(within_s=2)).reason is Reason.AUTHENTICATION


async def test_the_life_ends_when_a_later_token_does_not_come_back() -> None:
    async with Life() as life:
        await life.up()
        loop = asyncio.get_running_loop()
        start = loop.time()
        ending = await life.ending()

        assert ending.reason is Reason.TIMEOUT
        assert loop.time() - start < TIMINGS.probe_every_s + TIMINGS.dead_after_s + 1


async def test_the_life_ends_with_the_listening_connection() -> None:
    async with Life() as life:
        await life.up()
        life.listening.fail(BrokerRefused("NOPERM", reason=Reason.PERMISSION))
        ending = await life.ending(within_s=1)

        assert (type(ending), ending.reason) == (BrokerRefused, Reason.PERMISSION)
        assert not life.link.live


async def test_a_new_replicas_token_is_answered_with_one_of_the_own_soon() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        hello = envelopes.encode(Envelope(id=None, payload=b'"1"', sender="newcomer", kind="probe"))
        before = life.probes()
        life.publishing.answers = 2
        life.listening.say(Message(CONTROL_ROUTE, hello))
        await asyncio.sleep(2 * TIMINGS.ping_every_s)
        assert (life.probes(), life.link.replicas) == (before + 1, 2)
        life.listening.say(Message(CONTROL_ROUTE, hello))
        await asyncio.sleep(2 * TIMINGS.ping_every_s)
        mirroring.cancel()

        assert life.probes() == before + 1


async def test_a_known_replicas_token_is_answered_once_in_each_life_of_the_link() -> None:
    async with Life() as life:
        life.peers.add("known")  # from an earlier life
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        before = life.probes()
        life.publishing.answers = 2
        for token in (b'"7"', b'"8"', b'"9"'):
            life.listening.say(
                Message(CONTROL_ROUTE, envelopes.encode(Envelope(id=None, payload=token, sender="known", kind="probe")))
            )
            await asyncio.sleep(2 * TIMINGS.ping_every_s)
            assert (life.probes(), life.link.replicas, life.link.newcomers) == (before + 1, 2, 0)
        mirroring.cancel()


async def test_a_route_is_left_when_nobody_has_listened_for_a_while() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        life.routes.discard("c", None, life._listener, now=life.clock.now())
        await asyncio.sleep(TIMINGS.linger_s - 1)
        assert "c" in life.listening.routes
        await asyncio.sleep(2)
        mirroring.cancel()

        assert life.listening.routes == {CONTROL_ROUTE, replica_route("me")}


# -- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[]", b"{", b'{"antiphon":2,"message":1}', b'{"antiphon":1}'])
async def test_a_payload_that_cannot_be_understood_ends_nothing(payload: bytes) -> None:
    async with Life() as life:
        await life.up()
        for route in ("c", CONTROL_ROUTE, "unknown"):
            life.listening.say(Message(route, payload))
        life.listening.say(Message("c", b'{"good":1}'))
        await until(lambda: bool(life.texts))

        assert (life.texts, life.link.live, sum(life.counters.rejected.values())) == (['{"good":1}'], True, 3)


async def test_control_messages_are_handed_on_and_never_delivered() -> None:
    async with Life() as life:
        await life.up()
        ask = envelopes.encode(Envelope(id="1", payload=b"{}", sender="another", kind="ask"))
        life.listening.say(Message(replica_route("me"), ask), Message(CONTROL_ROUTE, ask), Message("c", ask))
        await until(lambda: len(life.controls) == 2)
        await settle()

        assert (life.texts, len(life.controls), life.counters.rejected) == ([], 2, {"kind": 1})


async def test_reading_slows_down_but_goes_on_when_the_sockets_have_no_room() -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        life.has_room.clear()
        await asyncio.sleep(60)
        mirroring.cancel()

        assert life.link.live


async def test_a_defect_ends_the_life_with_its_exception() -> None:
    async with Life() as life:
        await life.up()
        life.listening.say(
            Message(CONTROL_ROUTE, envelopes.encode(Envelope(id=None, payload=b"{}", sender="x", kind="break")))
        )
        with pytest.raises(ZeroDivisionError, match="a defect"):
            await life.ending()

        assert not life.link.live


# -- the clock --------------------------------------------------------------------------------------------------------


def virtual_loop() -> VirtualTimeLoop:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    return loop


async def test_the_clock_leaves_out_the_time_in_which_the_loop_stood_still() -> None:
    clock = Clock()
    before = clock.now()
    ticking = asyncio.create_task(clock.tick(0.1))
    await asyncio.sleep(0)
    virtual_loop().stand_still(5)
    await ticking

    assert 0.1 <= clock.now() - before < 0.5


async def test_the_clock_goes_with_the_loop_when_it_is_on_time() -> None:
    clock = Clock()
    before = clock.now()
    for _ in range(10):
        await clock.tick(0.1)

    assert clock.now() - before == pytest.approx(1)


async def test_a_tick_ends_in_any_case_when_the_loop_is_always_late() -> None:
    clock = Clock()
    loop = virtual_loop()
    start = loop.time()

    async def delay() -> None:
        while True:
            loop.stand_still(0.5)
            await asyncio.sleep(0.05)

    delaying = asyncio.create_task(delay())
    await clock.tick(0.1)
    delaying.cancel()

    assert loop.time() - start < 30


@pytest.mark.parametrize("stall", [4.0, 60.0])
async def test_the_broker_is_not_taken_for_dead_when_a_handler_blocks_the_loop(stall: float) -> None:
    async with Life() as life:
        await life.up()
        mirroring = asyncio.create_task(life.mirror())
        for _ in range(5):
            done = life.publish("x")
            await asyncio.sleep(0.3)
            virtual_loop().stand_still(stall)
            await asyncio.sleep(1)
            assert (await done).confirmed
        mirroring.cancel()

        assert life.link.live


async def test_a_dead_broker_is_found_out_when_the_loop_is_always_late() -> None:
    async with Life() as life:
        await life.up()
        life.listening.pongs = life.publishing.pongs = False

        async def delay() -> None:
            while True:
                virtual_loop().stand_still(0.5)
                await asyncio.sleep(0.05)

        delaying = asyncio.create_task(delay())
        ending = await life.ending(within_s=3_600)
        delaying.cancel()

        assert ending.reason is Reason.TIMEOUT

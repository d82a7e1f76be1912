"""One client's conversation: limits, strict reading, and what the library itself answers.

No conversation has a task or a timer of its own. The rules are those of `protocol/PROTOCOL.md`.
"""

from __future__ import annotations

import inspect
from collections.abc import Coroutine, Mapping
from typing import TYPE_CHECKING, TypeAlias

from antiphon.auth import Refused
from antiphon.codes import CloseCode, ErrorCode
from antiphon.connection import Connection
from antiphon.conversation.rules import HEARTBEAT_S, PING_S, PONG_S, MayDo, OnConnect, OnMessage
from antiphon.errors import InvalidTopicName, MessageTooLarge, PublishFailed
from antiphon.limits import UNUSED
from antiphon.topics import check_topic
from antiphon.wire import protocol
from antiphon.wire.frames import Frame
from antiphon.wire.protocol import AppMessage, BadFrame, Ping, Pong, Publish, Subscribe, Unsubscribe

if TYPE_CHECKING:
    from antiphon.conversation.conversations import Conversations

__all__ = ["Conversation", "Rest"]

Rest: TypeAlias = Coroutine[object, object, None]
"""What is left to do with a message: await it."""

REF_BYTES = 4 * 1024
"""Up to this size a frame that is refused as too fast is read for its `ref`."""

_TOO_FAST = "too many messages: wait, and send less often"
_REFUSALS: Mapping[object, str] = {code: code.name for code in (CloseCode.TOO_BIG, CloseCode.TOO_FAST)}
_TOO_FAST_BARE = protocol.error(ErrorCode.TOO_FAST, _TOO_FAST)


class Conversation:
    """What the library does with what one client sends. Made by `Conversations.begin`.

    Of a bare client that has sent nothing it keeps 128 bytes.
    """

    __slots__ = (
        "_all",
        "_asked",
        "_beats",
        "_busy",
        "_bytes_full_at",
        "_connection",
        "_full_at",
        "_heard",
        "_on_message",
        "_patience",
        "_speaks_v1",
        "_subscribes",
    )

    def __init__(
        self,
        conversations: Conversations,
        connection: Connection,
        on_message: OnMessage | None,
        *,
        beats: bool,
        speaks_v1: bool,
    ) -> None:
        self._all = conversations
        self._connection: Connection | None = connection
        self._on_message = on_message
        self._beats = beats
        self._speaks_v1 = speaks_v1
        self._full_at = UNUSED
        self._bytes_full_at = UNUSED
        self._patience = UNUSED
        self._subscribes = UNUSED
        self._heard = conversations.wheel.tick
        """The tick at which something came last; 0 when nothing has come since a ping."""
        self._asked = False
        """A ping was sent, and it is not time yet to look for its answer."""
        self._busy = False
        """A message, or the greeting, is at work; what the client sends meanwhile may be unread."""

    def end(self, code: object = None) -> None:
        """The client is gone, or was closed: nothing that still comes is taken. Idempotent.

        `code` is the close code that the server tells: it may have refused by itself what was too large or too fast.
        """
        connection, self._connection = self._connection, None
        if connection is not None and code in _REFUSALS:
            self._all.counters.closed[_REFUSALS[code]] += 1
        if connection is not None and self._speaks_v1:
            self._all.ended(connection)

    def take(self, event: Mapping[str, object]) -> Rest | None:
        """Take one `websocket.receive` event. What is returned must be awaited (or closed) before the next is given.

        Never raises for what a client sends; a handler that raises is logged and counted. Nothing is taken of a client
        that was cut off meanwhile: servers hand over what they have received before.
        """
        connection = self._connection
        if connection is None or connection._is_cut:
            return None
        every = self._all
        counters = every.counters
        counters.received += 1
        self._heard = every.wheel.tick
        text = event.get("text")
        if not isinstance(text, str):
            self._close(connection, CloseCode.UNSUPPORTED, "only text messages are taken")
            return None
        limit_bytes = every.limits.frame_bytes
        payload = _encoded(text) if len(text) <= limit_bytes else None  # far too large is not even encoded
        if payload is None or len(payload) > limit_bytes:
            self._close(connection, CloseCode.TOO_BIG, f"a message may have {limit_bytes} bytes")
            return None
        counters.received_bytes += len(payload)
        now = every.clock()
        full_at = every.frames.take(self._full_at, now)
        bytes_full_at = every.bytes.take(self._bytes_full_at, now, len(payload))
        if full_at < 0 or bytes_full_at < 0:
            self._too_fast(connection, payload, now)
            return None
        self._full_at, self._bytes_full_at = full_at, bytes_full_at
        if connection.user_id is not None and not every.users.take(connection.user_id, now):
            self._too_fast(connection, payload, now)
            return None
        return self._take_v1(connection, payload) if self._speaks_v1 else self._take_bare(connection, payload)

    def _take_bare(self, connection: Connection, payload: bytes) -> Rest | None:
        on_message = self._on_message
        if on_message is None and not self._beats:
            return None
        try:
            message = protocol.read_object(payload, levels=self._all.limits.frame_depth)
        except BadFrame as bad:
            self._refuse(connection, bad.code, str(bad))
            return None
        if self._beats and message.get("type") == "ping":
            connection._transport.send(protocol.PONG)
            return None
        return None if on_message is None else self._handle(on_message, connection, message)

    def _take_v1(self, connection: Connection, payload: bytes) -> Rest | None:
        try:
            frame = protocol.read(payload, levels=self._all.limits.frame_depth)
            if isinstance(frame, AppMessage):
                if self._on_message is None:
                    raise BadFrame(ErrorCode.UNSUPPORTED, "this endpoint takes no messages", ref=frame.ref)
                return self._handle(self._on_message, connection, frame.message)
            if isinstance(frame, Ping):
                connection._transport.send(protocol.pong(frame.ref))
                return None
            if isinstance(frame, Pong):
                return None
            topic = _checked(frame)
        except BadFrame as bad:
            self._refuse(connection, bad.code, str(bad), ref=bad.ref)
            return None
        if isinstance(frame, Subscribe):
            return self._begin_subscribe(connection, topic, frame.ref)
        if isinstance(frame, Publish):
            return self._at_work(connection, self._publish(connection, frame), frame.ref)
        self._all.actions.unsubscribe(connection, topic)
        connection._transport.send(protocol.unsubscribed(topic, ref=frame.ref))
        return None

    async def greet(self, connection: Connection, on_connect: OnConnect) -> None:
        """Await `on_connect`. Meanwhile nothing is read, so the client is not asked for a sign of life."""
        self._busy = True
        try:
            await on_connect(connection)
        finally:
            self._busy = False
            self._heard = self._all.wheel.tick

    def count_greeting(self, error: Exception) -> None:
        """Count a greeting that ended the connection."""
        if isinstance(error, Refused):
            self._all.counters.closed[getattr(error.close_code, "name", str(error.close_code))] += 1
        else:
            self._all.hub.counters.handler_errors += 1

    # -- what takes time -----------------------------------------------------------------------------------------

    async def _handle(self, on_message: OnMessage, connection: Connection, message: object) -> None:
        if connection._is_cut:  # between the message and this turn of the loop
            return
        self._busy = True
        try:
            await on_message(connection, message)
        except Exception as error:
            hub = self._all.hub
            hub.counters.handler_errors += 1
            self._all.journal.warning(
                "handler", "on_message of channel %r raised; the connection goes on", hub.channel, error=error
            )
        finally:
            self._busy = False
            self._heard = self._all.wheel.tick

    async def _at_work(self, connection: Connection, work: Coroutine[object, object, Frame], ref: int | None) -> None:
        """Do what a frame asks for, and send what it returns, or an error."""
        if connection._is_cut:
            work.close()
            return
        self._busy = True
        try:
            connection._transport.send(await work)
        except BadFrame as bad:
            self._refuse(connection, bad.code, str(bad), ref=bad.ref)
        except Exception as error:
            every = self._all
            every.journal.warning(
                "frame", "a client's frame on channel %r could not be carried out", every.hub.channel, error=error
            )
            self._refuse(connection, ErrorCode.INTERNAL, "the server failed at this frame", ref=ref)
        finally:
            self._busy = False
            self._heard = self._all.wheel.tick

    def _begin_subscribe(self, connection: Connection, topic: str, ref: int | None) -> Rest | None:
        every = self._all
        now = every.clock()
        full_at = every.subscribes.take(self._subscribes, now)
        if full_at < 0:
            self._lose_patience(connection, now, ref)
            return None
        self._subscribes = full_at
        heard = connection._topics or ()
        if topic in heard:
            connection._transport.send(protocol.subscribed(topic, ref=ref))
            return None
        limit = every.limits.topics_per_connection
        if len(heard) >= limit:
            self._refuse(connection, ErrorCode.TOO_MANY_TOPICS, f"a connection may hear {limit} topics", ref=ref)
            return None
        return self._at_work(connection, self._subscribe(connection, topic, ref), ref)

    async def _subscribe(self, connection: Connection, topic: str, ref: int | None) -> Frame:
        actions = self._all.actions
        if actions.may_hear is None:
            self._all.journal.warning(
                "authorize",
                "a client asked for topic %r of channel %r, and nothing says who may hear what: give authorize=",
                topic,
                self._all.hub.channel,
            )
        if not await self._allows(actions.may_hear, connection, topic):
            raise BadFrame(ErrorCode.FORBIDDEN, "this topic is not for you", ref=ref)
        if self._connection is not None and not connection._is_cut:
            await actions.subscribe(connection, topic)
        return protocol.subscribed(topic, ref=ref)

    async def _publish(self, connection: Connection, frame: Publish) -> Frame:
        every = self._all
        topic, ref, publishing = frame.topic, frame.ref, every.publishing
        if publishing is None or not await self._allows(publishing.may_publish, connection, topic):
            raise BadFrame(ErrorCode.FORBIDDEN, "you may not publish on this topic", ref=ref)
        if connection._is_cut:  # while the application was asked
            raise BadFrame(ErrorCode.FORBIDDEN, "you are not here any more", ref=ref)
        try:
            receipt = await every.actions.publish(publishing.cleaned(frame.message, connection), topic)
        except MessageTooLarge as error:
            limit = f"a message may have {error.limit_bytes} bytes"
            raise BadFrame(ErrorCode.TOO_LARGE, limit, ref=ref) from error
        except PublishFailed as error:
            outcome = "it may have been published or not" if error.outcome_unknown else "it was not published"
            raise BadFrame(ErrorCode.UNAVAILABLE, outcome, ref=ref) from error
        every.counters.published += 1
        return protocol.published(topic, id=receipt.id, scope=receipt.scope, ref=ref)

    async def _allows(self, rule: MayDo | None, connection: Connection, topic: str) -> bool:
        if rule is None:
            return False
        try:
            answer = rule(connection, topic)
            if inspect.isawaitable(answer):
                answer = await answer
        except Exception as error:
            self._all.journal.warning(
                "rule",
                "the rule for topic %r of channel %r raised: that counts as no",
                topic,
                self._all.hub.channel,
                error=error,
            )
            return False
        return bool(answer)

    def refuse_unread(self) -> None:
        """Refuse a message as too fast without a look at it: too many wait for their turn."""
        if self._connection is not None:
            self._all.counters.received += 1
            self._lose_patience(self._connection, self._all.clock(), None)

    # -- what is refused -----------------------------------------------------------------------------------------

    def _refuse(self, connection: Connection, code: ErrorCode, message: str, *, ref: int | None = None) -> None:
        self._all.counters.refused[code.value] += 1
        connection._transport.send(protocol.error(code, message, ref=ref))

    def _too_fast(self, connection: Connection, payload: bytes, now: float) -> None:
        ref = None
        if self._speaks_v1 and len(payload) <= REF_BYTES:
            ref = protocol.ref_of(payload, levels=self._all.limits.frame_depth)
        self._lose_patience(connection, now, ref)

    def _lose_patience(self, connection: Connection, now: float, ref: int | None) -> None:
        """Tell the client that it was too fast, unless it was told so often that it is of no use."""
        every = self._all
        every.counters.refused[ErrorCode.TOO_FAST.value] += 1
        patience = every.patience.take(self._patience, now)
        if patience < 0:
            self._close(connection, CloseCode.TOO_FAST, "too many messages")
            return
        self._patience = patience
        frame = _TOO_FAST_BARE if ref is None else protocol.error(ErrorCode.TOO_FAST, _TOO_FAST, ref=ref)
        connection._transport.send(frame)

    def _close(self, connection: Connection, code: CloseCode, reason: str) -> None:
        self._all.counters.closed[code.name] += 1
        self.end()
        # The client's answer to the close frame may wait behind messages that were too many to be read.
        connection._transport.resume_reading()
        connection._transport.close(int(code), reason)

    # -- signs of life -------------------------------------------------------------------------------------------

    def visit(self, tick: int) -> int:
        """Send the heartbeat or the ping that is due; close the connection of a client that gives no sign of life."""
        connection = self._connection
        if connection is None:
            return 0
        if self._busy:
            self._heard = tick
        if not self._speaks_v1:
            silent = tick - self._heard
            if silent < HEARTBEAT_S:
                return HEARTBEAT_S - silent
            connection._transport.send(protocol.HEARTBEAT)
            return HEARTBEAT_S
        if not self._asked:
            self._asked = True
            self._heard = 0
            connection._transport.send(protocol.PING)
            return PONG_S
        if not self._heard:
            self._close(connection, CloseCode.NO_PONG, "no answer to a ping")
            return 0
        self._asked = False
        return PING_S - PONG_S


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:  # a server passed on lone surrogates; JSON has none
        return text.encode("utf-8", "surrogatepass")


def _checked(frame: Subscribe | Unsubscribe | Publish) -> str:
    try:
        return check_topic(frame.topic)
    except InvalidTopicName as error:
        what = "a topic's name has 1 to 128 letters (A-Z, a-z), digits and _ . : -"
        raise BadFrame(ErrorCode.INVALID_TOPIC, what, ref=frame.ref) from error

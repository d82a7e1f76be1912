"""Signatures on what travels through the broker: who has no key can neither forge, alter nor repeat a message.

A signature is HMAC-SHA-256 (RFC 2104, FIPS 198-1), keyed with a secret that all replicas and publishers share, over

    <route> LF <the envelope without its signature, byte for byte>

so it covers the channel, the topic and every field. In the envelope it stands right before the message, as
`,"sig":"<64 hexadecimal digits>"`; who has no key ignores it as a field that is not known.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from antiphon.errors import EnvelopeError, InvalidSigningKey, UntrustedEnvelope
from antiphon.wire import envelope as envelopes
from antiphon.wire.envelope import Envelope

__all__ = ["Signer", "Verifier", "seal"]

MIN_KEY_BYTES = 32
_MIN_DISTINCT = 8
_MAX_KEYS = 8

STALE_AFTER_MS = 120_000
"""A signed message that was sent longer ago is not delivered, whoever sent it."""
AHEAD_MS = 60_000
"""How far a sender's clock may be ahead of the receiver's."""

_MESSAGE = b',"message":'
_BEFORE = b',"sig":"'
_SIGNATURE_BYTES = len(_BEFORE) + 64 + 1
_MAKE_ONE = "make one with: python -c 'import secrets; print(secrets.token_urlsafe(32))'"

_FORGET_PER_CALL = 4
_SENDERS = 1_024
_BLOCK_BYTES = 64

_numbers = itertools.count(1)


class Signer:
    """Signs envelopes with the first key; `Verifier` accepts all of them, so that keys can be changed without loss.

    To change a key: add the new one at the end everywhere, then put it first everywhere, then remove the old one.

    Args:
        keys: Secrets of at least 32 bytes; one text may hold several, separated by commas.
        accept_unsigned: Deliver messages without a signature too, as `redis-cli PUBLISH` sends them; never control
            messages. Whoever may publish at the broker can then send to clients.

    Raises InvalidSigningKey, whose text names the fix and never a key. Two signers with the same arguments are equal.
    """

    __slots__ = ("_keys", "_secrets", "accept_unsigned")

    def __init__(self, keys: str | bytes | Iterable[str | bytes], *, accept_unsigned: bool = False) -> None:
        self._secrets = _check_keys(keys)
        self._keys = [_Key(secret) for secret in self._secrets]
        self.accept_unsigned = accept_unsigned

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Signer):
            return NotImplemented
        return self._secrets == other._secrets and self.accept_unsigned is other.accept_unsigned

    def __hash__(self) -> int:
        return hash((self._secrets, self.accept_unsigned))

    def __repr__(self) -> str:
        return f"<Signer with {len(self._keys)} {'key' if len(self._keys) == 1 else 'keys'}>"

    def encode(self, route: str, envelope: Envelope) -> bytes:
        """The envelope's JSON, signed for this route. One without id or time gets them: a repeat must be recognised.

        Raises MessageNotSerializable as `envelope.encode` does.
        """
        if envelope.id is None or envelope.at_ms is None:
            sender = envelope.sender if envelope.sender is not None else secrets.token_hex(6)
            id = envelope.id if envelope.id is not None else f"{sender}-c{next(_numbers)}"
            at_ms = envelope.at_ms if envelope.at_ms is not None else time.time_ns() // 1_000_000
            envelope = replace(envelope, id=id, at_ms=at_ms)
        return self.sign(route, envelopes.encode(envelope))

    def sign(self, route: str, data: bytes) -> bytes:
        """Put the signature into an envelope that `envelope.encode` made."""
        signature = self._keys[0].digest(b"%b\n" % route.encode(), data)
        head, message, rest = data.partition(_MESSAGE)
        return b"".join((head, _BEFORE, signature, b'"', message, rest))

    def signed(self, route: str, data: bytes) -> bool | None:
        """Whether one of the keys signed these bytes for this route; None when they hold no signature."""
        head, message, rest = data.partition(_MESSAGE)
        field = head[-_SIGNATURE_BYTES:]
        if not message or not field.startswith(_BEFORE) or not field.endswith(b'"'):
            return None
        given = field[len(_BEFORE) : -1]
        before = b"%b\n%b%b" % (route.encode(), head[:-_SIGNATURE_BYTES], message)
        if hmac.compare_digest(self._keys[0].digest(before, rest), given):
            return True
        return any(hmac.compare_digest(key.digest(before, rest), given) for key in self._keys[1:])


class Verifier:
    """Reads what comes from one broker, and remembers what it read, so that nothing counts twice.

    At most `limit` ids are remembered. What is forgotten is too old from then on: of each sender, everything that was
    sent no later than something forgotten is refused as `stale`, so that no repeat passes whatever the load is.
    """

    __slots__ = ("_clock", "_forgotten", "_ids", "_limit", "_order", "_prune_at", "signer")

    def __init__(self, signer: Signer, *, limit: int = 65_536, wall_clock: Callable[[], float] = time.time) -> None:
        self.signer = signer
        self._clock = wall_clock
        self._limit = limit
        self._ids: set[str] = set()
        self._order: deque[tuple[float, str, str | None, int]] = deque()
        self._forgotten: dict[str | None, int] = {}
        """For each sender, when the latest of what was forgotten was sent, where that is not stale anyway."""
        self._prune_at = _SENDERS

    def decode(self, route: str, data: bytes) -> Envelope:
        """Understand what came over a route, as `envelope.decode` does, if it may be believed.

        Raises UntrustedEnvelope for what is not signed, is signed with another key or for another route, is too old, or
        was here before; EnvelopeError and UnsupportedEnvelope for what cannot be understood.
        """
        signed = self.signer.signed(route, data)
        if signed is None:
            return self._unsigned(data)
        if not signed:
            raise UntrustedEnvelope(
                f"the signature of a message on {route!r} is wrong: if it is not an attack, "
                "give this process and the sender's the same signing_keys",
                why="forged",
            )
        envelope = envelopes.decode(data)
        if envelope.id is None or envelope.at_ms is None:
            raise EnvelopeError("a signed envelope must have an id and the time of its publication")
        # When it was signed: a re-send is signed anew, and says how long after the publication that was.
        self._admit(envelope.id, envelope.sender, envelope.at_ms + (envelope.retry_age_ms or 0))
        return envelope

    def _unsigned(self, data: bytes) -> Envelope:
        envelope = envelopes.decode(data)
        if envelope.kind is not None:
            raise UntrustedEnvelope(
                f"a control message {envelope.kind!r} is not signed: give every process the same signing_keys",
                why="unsigned",
            )
        if not self.signer.accept_unsigned:
            raise UntrustedEnvelope(
                "a message is not signed: give its publisher the same signing_keys, "
                "or set accept_unsigned where programs without a key may send to clients",
                why="unsigned",
            )
        # Its id must not pass for that of a signed message to come, nor its sender for a replica.
        return replace(envelope, id=None if envelope.id is None else f"unsigned:{envelope.id}", sender=None)

    def _admit(self, id: str, sender: str | None, sent_ms: int) -> None:
        if id in self._ids:
            raise UntrustedEnvelope("a message came once more", why="replayed")
        now_s = self._clock()
        age_ms = now_s * 1000 - sent_ms
        if not -AHEAD_MS <= age_ms <= STALE_AFTER_MS:
            raise UntrustedEnvelope(
                f"a signed message was sent {abs(age_ms) / 1000:.0f} s {'ago' if age_ms > 0 else 'from now'} by its "
                "sender's clock: if it is no replay, set the clocks of all machines by the same time server",
                why="stale",
            )
        if sent_ms <= self._forgotten.get(sender, -1):
            raise UntrustedEnvelope(
                "a signed message came so late that it is not known any more whether it is a repeat", why="stale"
            )
        self._forget(now_s)
        self._ids.add(id)
        self._order.append((now_s, id, sender, sent_ms))

    def _forget(self, now_s: float) -> None:
        """Make room for one more. A few at a time: more than comes in, and no call takes long."""
        order, before_s = self._order, now_s - STALE_AFTER_MS / 1000
        for _ in range(_FORGET_PER_CALL):
            if not order or (order[0][0] >= before_s and len(order) < self._limit):
                return
            _, id, sender, sent_ms = order.popleft()
            self._ids.discard(id)
            if sent_ms > before_s * 1000:
                self._forgotten[sender] = max(sent_ms, self._forgotten.get(sender, sent_ms))
                if len(self._forgotten) >= self._prune_at:
                    self._prune(before_s * 1000)

    def _prune(self, stale_ms: float) -> None:
        """What a sender sent before the time that is stale for everybody needs no note of its own."""
        self._forgotten = {sender: sent_ms for sender, sent_ms in self._forgotten.items() if sent_ms > stale_ms}
        self._prune_at = max(_SENDERS, 2 * len(self._forgotten))


def seal(signer: Signer | None, route: str, envelope: Envelope) -> bytes:
    """The envelope as it is published on this route: signed, if there is a signer."""
    return envelopes.encode(envelope) if signer is None else signer.encode(route, envelope)


class _Key:
    """HMAC-SHA-256 with one key, whose two blocks are hashed once: `hmac.digest` takes 1.8 µs, this 0.8."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes) -> None:
        if len(secret) > _BLOCK_BYTES:
            secret = hashlib.sha256(secret).digest()
        block = secret.ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def digest(self, *parts: bytes) -> bytes:
        """The digest of the parts, one behind the other, in hexadecimal digits."""
        inner, outer = self._inner.copy(), self._outer.copy()
        for part in parts:
            inner.update(part)
        outer.update(inner.digest())
        return outer.hexdigest().encode()


def _check_keys(keys: str | bytes | Iterable[str | bytes]) -> tuple[bytes, ...]:
    texts = [keys] if isinstance(keys, (str, bytes)) else list(keys)
    parts: list[bytes] = []
    for text in texts:
        if isinstance(text, str):
            parts += [part.strip().encode() for part in text.split(",") if part.strip()]
        elif isinstance(text, bytes):
            parts.append(text)
        else:
            raise InvalidSigningKey(f"a signing key is text or bytes, not {type(text).__name__}")
    parts = list(dict.fromkeys(parts))
    if not parts:
        raise InvalidSigningKey(f"there is no signing key: {_MAKE_ONE}")
    if len(parts) > _MAX_KEYS:
        raise InvalidSigningKey(f"{len(parts)} signing keys are more than {_MAX_KEYS}: remove those no longer in use")
    for number, part in enumerate(parts, 1):
        if len(part) < MIN_KEY_BYTES:
            raise InvalidSigningKey(
                f"signing key {number} has {len(part)} bytes, the least is {MIN_KEY_BYTES}: {_MAKE_ONE}"
            )
        if len(set(part)) < _MIN_DISTINCT:
            raise InvalidSigningKey(f"signing key {number} repeats few characters and can be guessed: {_MAKE_ONE}")
    return tuple(parts)

"""Broker URLs: what is accepted, what is refused with which advice, and that no text shows a password."""

from __future__ import annotations

import pytest
import redis.asyncio.connection

from antiphon.brokers import broker_for
from antiphon.brokers.redis_pubsub import RedisBroker
from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.errors import InvalidBrokerURL

CANARY = "c4n4ry-pa55"


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", "localhost:6379/0"),
        ("redis://localhost:6380/3", "localhost:6380/3"),
        ("redis://localhost/", "localhost:6379/0"),
        ("redis://localhost?db=4", "localhost:6379/4"),
        ("REDIS://Redis.Example:7000/1", "redis.example:7000/1"),
        ("  redis://localhost:6379/0\n", "localhost:6379/0"),
        ("valkey://localhost:6379/0", "localhost:6379/0"),
        ("rediss://cache.example:6380/0", "cache.example:6380/0"),
        ("valkeys://cache.example:6380/0?ssl_cert_reqs=none", "cache.example:6380/0"),
        ("rediss://cache.example?ssl_cert_reqs=CERT_REQUIRED", "cache.example:6379/0"),
        ("redis://[::1]:6379/0", "[::1]:6379/0"),
        ("redis://user:p%40ss%2Fw%23rd@localhost:6379/0", "localhost:6379/0"),
        ("unix:///run/redis/redis.sock", "unix:/run/redis/redis.sock/0"),
        ("unix:///run/redis.sock?db=2", "unix:/run/redis.sock/2"),
        ("redis://localhost?socket_timeout=5&max_connections=10&health_check_interval=30", "localhost:6379/0"),
    ],
)
def test_address_names_host_port_and_database(url: str, address: str) -> None:
    assert RedisBroker(url).address == address
    assert SyncRedisPublishing(url).address == address


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("", "no scheme"),
        ("localhost:6379", "no scheme"),
        (f":{CANARY}@localhost:6379", "no scheme"),
        (f"{CANARY}:{CANARY}@localhost", "no scheme"),
        ("'redis://localhost'", "remove the quotes"),
        ("reddis://localhost", "did you mean redis://?"),
        ("redis+tls://localhost", "use one of|did you mean"),
        ("http://localhost", "use one of"),
        ("redis://", "no host: write redis://localhost:6379/0"),
        ("redis:///0", "no host"),
        (f"redis://:{CANARY}@", "no host"),
        ("redis://localhost:port/0", "port number from 1 to 65535"),
        ("redis://localhost:70000", "port number from 1 to 65535"),
        ("redis://localhost:0", "port number from 1 to 65535"),
        ("redis://localhost:/0", "port number from 1 to 65535"),
        ("redis://localhost:6379/zero", "what follows host and port must be a number"),
        ("redis://localhost:6379/0/1", "must be a number"),
        ("redis://localhost:6379/-1", "must be a number"),
        ("redis://localhost?db=zero", "wrong type|must be a number"),
        (f"redis://:{CANARY}/x@localhost", "percent-encode"),
        (f"redis://:{CANARY}#x@localhost", "percent-encode"),
        (f"redis://:{CANARY}?x@localhost", "percent-encode"),
        (f"redis://:{CANARY}[x@localhost", "percent-encode"),
        (f"redis://:{CANARY} x@localhost", "percent-encode"),
        (f"redis://:x/{CANARY}@localhost:6379/0", "percent-encode"),
        (f"redis://:x@localhost:{CANARY}", "port number"),
        (f"redis://:x@localhost/{CANARY}", "must be a number"),
        (f"redis://localhost?{CANARY}=1", "not known"),
        ("rediss://localhost?ssl_ca_cert=/x", "did you mean ssl_ca_certs?"),
        ("redis://localhost?ssl_ca_certs=/x", "begin it with rediss://"),
        ("rediss://localhost?ssl_ca_certs=/nowhere/ca.pem", "cannot be read"),
        ("rediss://localhost?ssl_cert_reqs=maybe", "required, optional or none"),
        ("rediss://localhost?ssl_min_version=12", "771 for TLS 1.2"),
        ("unix://", "three slashes"),
        ("unix://run/redis.sock", "three slashes"),
    ],
)
def test_wrong_url_is_refused_with_advice_and_without_the_password(url: str, advice: str) -> None:
    for make in (RedisBroker, SyncRedisPublishing, broker_for):
        with pytest.raises(InvalidBrokerURL, match=advice) as caught:
            make(url)
        assert CANARY not in f"{caught.value!s} {caught.value!r}"
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


def test_url_of_another_type_is_refused() -> None:
    with pytest.raises(InvalidBrokerURL, match="is bytes, not str"):
        RedisBroker(b"redis://localhost")  # type: ignore[arg-type]  # the point of the test


def test_no_broker_without_url() -> None:
    assert broker_for(None) is None


@pytest.mark.parametrize("url", [f"redis://user:{CANARY}@localhost", f"redis://localhost?password={CANARY}"])
def test_representations_hold_no_password(url: str) -> None:
    broker = RedisBroker(url)
    for text in (repr(broker), str(broker), broker.address, repr(broker._address), str(broker._address)):
        assert CANARY not in text
    assert CANARY not in repr(SyncRedisPublishing(url))
    assert broker._address.scrub(f"no {CANARY} here") == "no *** here"


def test_tls_verifies_the_certificate_unless_told_otherwise() -> None:
    import ssl

    def context(url: str) -> ssl.SSLContext:
        tls = RedisBroker(url)._address.tls
        assert isinstance(tls, redis.asyncio.connection.RedisSSLContext)
        return tls.get()

    assert context("rediss://localhost").verify_mode is ssl.CERT_REQUIRED
    assert context("rediss://localhost").check_hostname
    assert context("rediss://localhost?ssl_cert_reqs=none").verify_mode is ssl.CERT_NONE
    assert context("rediss://localhost?ssl_min_version=772").minimum_version is ssl.TLSVersion.TLSv1_3
    assert RedisBroker("redis://localhost")._address.tls is None

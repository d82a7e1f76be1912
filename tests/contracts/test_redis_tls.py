"""Redis with TLS: the right server is reached, every other one is refused, and what is required is not negotiable."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
from typer.testing import CliRunner

from antiphon import Publisher, State, SyncPublisher, WebSocketManager
from antiphon.brokers import broker_for, store_for
from antiphon.brokers.base import Message, Subscribed
from antiphon.brokers.redis_pubsub import RedisBroker
from antiphon.brokers.redis_sync import SyncRedisPublishing
from antiphon.cli.commands import app as command_line
from antiphon.codes import Reason
from antiphon.dev.broker_server import BrokerServerFailed
from antiphon.dev.ports import free_port
from antiphon.errors import BrokerUnavailable, ConfigurationError, InvalidBrokerURL, TLSRequired
from tests.conftest import StartServer
from tests.contracts.authority import Authority, Credentials

DEADLINE_S = 30.0
CANARY = "c4n4ry-pa55"


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "trusted")


@pytest.fixture(scope="session")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture(scope="session")
def right(authority: Authority) -> Credentials:
    return authority.sign("right", alternative="IP:127.0.0.1,DNS:localhost")


StartTLS = Callable[..., int]


@pytest.fixture
def start_tls(start_own_server: StartServer, authority: Authority) -> StartTLS:
    """Start a Redis with TLS and these credentials; returns its TLS port."""

    def start(credentials: Credentials, *arguments: str) -> int:
        files = ("--tls-cert-file", credentials.certificate, "--tls-key-file", credentials.key)
        trusted = ("--tls-ca-cert-file", authority.certificate, "--tls-auth-clients", "no")
        for _ in range(10):
            port = free_port()
            try:
                start_own_server("redis", "--tls-port", str(port), *files, *trusted, *arguments)
            except BrokerServerFailed as failure:  # somebody was quicker to take the port
                if "ports in a row were taken" not in str(failure):
                    raise
            else:
                return port
        raise AssertionError("no port for TLS is free")

    return start


def listen(url: str, timeout_s: float = DEADLINE_S) -> None:
    async def run() -> None:
        listening = await RedisBroker(url, connect_timeout_s=timeout_s).open_listening()
        await listening.close()

    asyncio.run(run())


def publish(url: str, timeout_s: float = DEADLINE_S) -> None:
    async def run() -> None:
        publishing = await RedisBroker(url, connect_timeout_s=timeout_s).open_publishing()
        await publishing.close()

    asyncio.run(run())


def publish_blocking(url: str, timeout_s: float = DEADLINE_S) -> None:
    with SyncRedisPublishing(url, timeout_s=timeout_s) as publishing:
        publishing.publish("r", b"x")


WAYS = pytest.mark.parametrize(
    "way", [pytest.param(way, id=way.__name__) for way in (listen, publish, publish_blocking)]
)
Way = Callable[..., None]


def refusal_of(way: Way, url: str) -> str:
    with pytest.raises(BrokerUnavailable) as refused:
        way(url)
    assert refused.value.reason is Reason.UNREACHABLE
    return str(refused.value)


# -- the right server -------------------------------------------------------------------------------------------------


@pytest.mark.every_loop
@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_server_that_proves_who_it_is_is_used(
    start_tls: StartTLS, right: Credentials, authority: Authority, scheme: str, host: str
) -> None:
    port = start_tls(right)
    url = f"{scheme}://{host}:{port}/0?ssl_ca_certs={authority.certificate}"
    broker = broker_for(url, require_tls=True)
    assert broker is not None
    listening, publishing = await broker.open_listening(), await broker.open_publishing()
    listening.subscribe(["r"])
    assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Subscribed("r")]
    payload = bytes(1024 * 1024)
    assert await publishing.publish("r", payload) == 1
    assert await asyncio.wait_for(listening.receive(), DEADLINE_S) == [Message("r", payload)]
    await listening.close()
    await publishing.close()


@WAYS
def test_certificate_of_the_client_is_sent_when_the_server_asks_for_one(
    start_tls: StartTLS, right: Credentials, authority: Authority, way: Way
) -> None:
    port = start_tls(right, "--tls-auth-clients", "yes")
    client = authority.sign(f"client-{way.__name__}", alternative="DNS:client")
    trusting = f"rediss://127.0.0.1:{port}?ssl_ca_certs={authority.certificate}"
    way(f"{trusting}&ssl_certfile={client.certificate}&ssl_keyfile={client.key}")
    with pytest.raises(BrokerUnavailable):
        way(trusting)


async def test_messages_cross_replicas_and_the_store_works_when_the_broker_has_tls(
    start_tls: StartTLS, right: Credentials, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = start_tls(right, "--requirepass", CANARY)
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "true")
    url = f"rediss://:{CANARY}@127.0.0.1:{port}/0?ssl_ca_certs={authority.certificate}"
    manager = WebSocketManager("chat", url=url)
    await manager.start()
    assert manager.state is State.UP
    assert (await manager.broadcast({"type": "x"})).scope == "cluster"
    async with Publisher(url) as publisher:
        await publisher.publish("chat", {"type": "x"})
    with SyncPublisher(url) as blocking:
        await asyncio.to_thread(blocking.publish, "chat", {"type": "x"})
    await manager.close()
    store = store_for(url)
    assert await store.put_once("key", b"value", ttl_s=30.0)
    assert await store.take("key") == b"value"
    await store.close()


# -- every other one --------------------------------------------------------------------------------------------------


@WAYS
def test_server_is_refused_when_nobody_named_its_authority(start_tls: StartTLS, right: Credentials, way: Way) -> None:
    said = refusal_of(way, f"rediss://127.0.0.1:{start_tls(right)}")
    assert "certificate is not trusted" in said
    assert "?ssl_ca_certs=/path/to/ca.pem" in said


@WAYS
def test_server_is_refused_when_another_authority_signed_its_certificate(
    start_tls: StartTLS, right: Credentials, stranger: Authority, way: Way
) -> None:
    said = refusal_of(way, f"rediss://127.0.0.1:{start_tls(right)}?ssl_ca_certs={stranger.certificate}")
    assert "certificate is not trusted" in said


@WAYS
def test_server_is_refused_when_its_certificate_is_for_another_name(
    start_tls: StartTLS, authority: Authority, way: Way
) -> None:
    other = authority.sign(f"other-{way.__name__}", alternative="DNS:redis.example,IP:127.0.0.2")
    said = refusal_of(way, f"rediss://127.0.0.1:{start_tls(other)}?ssl_ca_certs={authority.certificate}")
    assert "certificate is not trusted" in said
    assert "mismatch" in said


@WAYS
def test_server_is_refused_when_its_certificate_has_expired(
    start_tls: StartTLS, authority: Authority, way: Way
) -> None:
    old = authority.sign(f"old-{way.__name__}", alternative="IP:127.0.0.1", expired=True)
    said = refusal_of(way, f"rediss://127.0.0.1:{start_tls(old)}?ssl_ca_certs={authority.certificate}")
    assert "expired" in said


@WAYS
def test_server_without_tls_is_refused(start_own_server: StartServer, authority: Authority, way: Way) -> None:
    server = start_own_server("redis")
    with pytest.raises(BrokerUnavailable) as refused:  # Redis waits in silence for the end of what it takes for a line
        way(f"rediss://127.0.0.1:{server.port}?ssl_ca_certs={authority.certificate}", timeout_s=1.0)
    assert "redis://" in str(refused.value)


@WAYS
def test_address_without_tls_is_told_when_the_server_has_only_tls(
    start_tls: StartTLS, right: Credentials, way: Way
) -> None:
    with pytest.raises(BrokerUnavailable, match="rediss://"):
        way(f"redis://127.0.0.1:{start_tls(right)}")


class Impostor:
    """A server with a certificate that nobody trusts; keeps what a client tells it behind the handshake."""

    def __init__(self, credentials: Credentials) -> None:
        self.heard: list[bytes] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(credentials.certificate, credentials.key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return
            plain.settimeout(DEADLINE_S)
            try:
                with self._context.wrap_socket(plain, server_side=True) as connection:
                    self.heard.append(connection.recv(65_536))
            except OSError:
                plain.close()

    def close(self) -> None:
        if self._thread.is_alive():
            self._listener.shutdown(socket.SHUT_RDWR)
            self._thread.join(DEADLINE_S)
        self._listener.close()


@pytest.fixture
def impostor(stranger: Authority) -> Iterator[Impostor]:
    impostor = Impostor(stranger.sign("impostor", alternative="IP:127.0.0.1"))
    yield impostor
    impostor.close()


@WAYS
def test_password_is_not_sent_to_a_server_that_cannot_prove_who_it_is(
    impostor: Impostor, authority: Authority, way: Way
) -> None:
    said = refusal_of(way, f"rediss://u:{CANARY}@127.0.0.1:{impostor.port}?ssl_ca_certs={authority.certificate}")
    assert CANARY not in said
    impostor.close()
    assert b"".join(impostor.heard) == b""


async def test_manager_stays_alone_and_says_why_when_the_broker_cannot_prove_who_it_is(
    start_tls: StartTLS, right: Credentials, stranger: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    port = start_tls(right, "--requirepass", CANARY)
    url = f"rediss://:{CANARY}@127.0.0.1:{port}/0?ssl_ca_certs={stranger.certificate}"
    with caplog.at_level(logging.INFO, "antiphon"):
        manager = WebSocketManager("chat", url=url)
        await manager.start()
        assert manager.state is State.DEGRADED
        assert (await manager.broadcast({"type": "x"})).scope == "local"
        await manager.close()
    assert "certificate is not trusted" in caplog.text
    assert CANARY not in caplog.text


# -- what is required -------------------------------------------------------------------------------------------------


MAKERS = pytest.mark.parametrize(
    "make",
    [
        lambda url: WebSocketManager("chat", url=url),
        lambda url: Publisher(url),
        lambda url: SyncPublisher(url),
        lambda url: RedisBroker(url),
        lambda url: SyncRedisPublishing(url),
        lambda url: broker_for(url),
        lambda url: store_for(url),
    ],
    ids=["manager", "publisher", "sync_publisher", "broker", "sync_publishing", "broker_for", "store_for"],
)
Make = Callable[[str], object]


@MAKERS
@pytest.mark.parametrize("word", ["true", "1", "YES", " on "])
def test_address_without_tls_is_refused_at_the_start_when_tls_is_required(
    monkeypatch: pytest.MonkeyPatch, make: Make, word: str
) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", word)
    for scheme in ("redis", "valkey"):
        with pytest.raises(TLSRequired, match=r"begin it with rediss://") as refused:
            make(f"{scheme}://ws:{CANARY}@redis.example:6379/0")
        assert isinstance(refused.value, InvalidBrokerURL)
        assert "redis.example:6379/0" in str(refused.value)
        assert CANARY not in f"{refused.value!s}{refused.value!r}{refused.value.args}"


@MAKERS
@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_cert_reqs=optional", "ssl_check_hostname=false"])
def test_address_that_trusts_anybody_is_refused_when_tls_is_required(
    monkeypatch: pytest.MonkeyPatch, make: Make, option: str
) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "true")
    with pytest.raises(TLSRequired, match="remove ssl_cert_reqs and ssl_check_hostname"):
        make(f"rediss://redis.example:6379/0?{option}")


@pytest.mark.parametrize("url", ["rediss://redis.example/0", "valkeys://redis.example", "unix:///run/redis.sock?db=0"])
def test_address_that_is_protected_is_taken_when_tls_is_required(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "true")
    assert broker_for(url) is not None


@pytest.mark.parametrize("word", ["", "false", "0", "no", "off"])
def test_address_without_tls_is_taken_when_tls_is_not_required(monkeypatch: pytest.MonkeyPatch, word: str) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", word)
    assert broker_for("redis://redis.example") is not None
    with pytest.raises(TLSRequired):
        broker_for("redis://redis.example", require_tls=True)


def test_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "true")
    assert broker_for("redis://redis.example", require_tls=False) is not None


def test_start_fails_when_the_word_is_not_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "treu")
    with pytest.raises(ConfigurationError, match="ANTIPHON_REQUIRE_TLS='treu' is not understood"):
        broker_for("rediss://redis.example")


def test_command_line_refuses_an_address_without_tls_when_tls_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REQUIRE_TLS", "true")
    done = CliRunner().invoke(command_line, ["tail", "chat", "--url", f"redis://:{CANARY}@redis.example:6379/0"])
    assert done.exit_code == 2
    assert "rediss://" in done.output
    assert CANARY not in done.output

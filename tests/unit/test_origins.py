"""Which pages may open a socket, and which address a client has behind proxies."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.errors import ConfigurationError
from antiphon.origins import OriginRule, TrustedProxies, Verdict, address_block

PROXIES = TrustedProxies(["10.0.0.0/8", "2001:db8:ffff::/48"])


def decide(origin: str | None, host: str = "good.example", *, allowed: Sequence[str] = ()) -> Verdict:
    return OriginRule(allowed=allowed).decide([] if origin is None else [origin], host)


# -- the same host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("https://good.example", "good.example"),
        ("http://good.example", "good.example"),
        ("HTTPS://Good.Example", "gOOd.exAMPle"),
        ("https://good.example:443", "good.example"),
        ("https://good.example", "good.example:443"),
        ("https://good.example", "good.example:80"),
        ("http://good.example:80", "good.example:"),
        ("https://good.example:8443", "good.example:8443"),
        ("http://good.example:443", "good.example:443"),
        ("ws://good.example", "good.example"),
        ("https://xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("https://with_underscore.example", "with_underscore.example"),
        ("https://good.example.", "good.example."),
        ("http://192.0.2.7:8000", "192.0.2.7:8000"),
        ("http://[2001:db8::1]:8000", "[2001:DB8:0:0::1]:8000"),
    ],
)
def test_a_page_of_the_same_host_and_port_is_accepted(origin: str, host: str) -> None:
    verdict = decide(origin, host)
    assert (verdict.allowed, verdict.why) == (True, "same_host")


@pytest.mark.parametrize(
    ("origin", "why"),
    [
        ("https://evil.example", "other_host"),
        ("https://good.example.evil.com", "other_host"),
        ("https://evilgood.example", "other_host"),
        ("https://sub.good.example", "other_host"),
        ("https://good.example:8443", "other_host"),
        ("https://good.example:80", "other_host"),
        ("http://good.example:443", "other_host"),
        ("https://good.example.", "other_host"),
        ("https://good.example:0", "malformed"),
        ("https://good.example:65536", "malformed"),
        ("https://good.example:99999999", "malformed"),
        ("https://good.example:", "malformed"),
        ("https://good.example:+443", "malformed"),
        ("https://good.example/", "malformed"),
        ("https://good.example/path", "malformed"),
        ("https://good.example?x", "malformed"),
        ("https://good.example#x", "malformed"),
        ("http://good.example@evil.example", "malformed"),
        ("http://evil.example\\@good.example", "malformed"),
        ("http://user:password@good.example", "malformed"),
        ("https://good.example, https://good.example", "malformed"),
        ("https://good.example https://evil.example", "malformed"),
        (" https://good.example", "malformed"),
        ("https://good.example\t", "malformed"),
        ("https://good.example\n", "malformed"),
        ("https://good.example\x00", "malformed"),
        ("https://good.example\x00.evil.example", "malformed"),
        ("https://good%2eexample", "malformed"),
        ("https://g\N{CYRILLIC SMALL LETTER O}od.example", "malformed"),
        ("https://good.e\N{LATIN SMALL LETTER X WITH DOT ABOVE}ample", "malformed"),
        ("https://good.example\N{FULLWIDTH FULL STOP}", "malformed"),
        ("//good.example", "malformed"),
        ("good.example", "malformed"),
        ("https:good.example", "malformed"),
        ("https:///good.example", "malformed"),
        ("https://", "malformed"),
        ("://good.example", "malformed"),
        ("", "malformed"),
        ("*", "malformed"),
        ("https://[::1", "malformed"),
        ("https://[good.example]", "malformed"),
        ("https://[1::2::3]", "malformed"),
        ("https://[fe80::1%25eth0]", "malformed"),
        ("https://" + "a" * 600, "malformed"),
        ("null", "null"),
        ("NULL", "null"),
        ("chrome-extension://good.example", "other_host"),
        ("file://good.example", "other_host"),
        ("javascript://good.example", "other_host"),
    ],
)
def test_any_other_origin_is_refused(origin: str, why: str) -> None:
    verdict = decide(origin)
    assert (verdict.allowed, verdict.why) == (False, why)


def test_the_kelvin_sign_is_no_k() -> None:
    assert decide("https://\N{KELVIN SIGN}ey.example", "key.example").why == "malformed"
    assert decide("https://key.example", "\N{KELVIN SIGN}ey.example").why == "no_host"


@pytest.mark.parametrize("origins", [["https://good.example"] * 2, ["https://good.example", "https://evil.example"]])
def test_two_origin_headers_are_refused_whatever_they_say(origins: list[str]) -> None:
    for allowed in ([], ["https://good.example"]):
        assert OriginRule(allowed=allowed).decide(origins, "good.example").why == "several"


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        ":443",
        "good.example:x",
        "good.example:443:443",
        "user@good.example",
        "good.example/",
        "good.example, good.example",
        "[::1",
        "[x]",
        "\xe9",
        "a" * 600,
    ],
)
def test_without_a_usable_host_header_only_the_list_helps(host: str) -> None:
    verdict = decide("https://good.example", host)
    assert (verdict.allowed, verdict.why) == (False, "no_host")
    assert decide("https://good.example", host, allowed=["https://good.example"]).allowed


def test_an_empty_host_and_an_empty_origin_are_not_the_same_host() -> None:
    assert not decide("", "").allowed
    assert not decide("https://", "").allowed


_hosts = st.sampled_from(["good.example", "GOOD.example", "evil.example", "good.example.", "127.0.0.1", "[::1]", "a"])
_ports = st.sampled_from(["", ":", ":80", ":443", ":8000", ":0443", ":x"])
_schemes = st.sampled_from(["http://", "https://", "HTTP://", "ftp://", "//", "http://x@", "http:///"])


@given(_schemes, _hosts, _ports, _hosts, _ports)
def test_an_origin_with_another_host_is_never_accepted(
    scheme: str, host: str, port: str, asked_host: str, asked_port: str
) -> None:
    verdict = decide(f"{scheme}{host}{port}", f"{asked_host}{asked_port}")
    loopback = {"127.0.0.1", "[::1]"}
    if verdict.allowed:
        assert host.lower() == asked_host.lower() or {host, asked_host} <= loopback
    else:
        assert verdict.why != "same_host"


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_makes_the_rule_raise(origin: str, host: str) -> None:
    verdict = decide(origin, host)
    assert verdict.origin.isascii()
    assert verdict.origin.isprintable()


# -- no origin, the list, loopback ------------------------------------------------------------------------------------


def test_no_origin_is_accepted_without_a_cookie_and_refused_with_one() -> None:
    rule = OriginRule()
    assert rule.decide([], "good.example").why == "no_origin"
    verdict = rule.decide([], "good.example", has_cookie=True)
    assert (verdict.allowed, verdict.why) == (False, "cookie_without_origin")
    assert rule.decide(["https://good.example"], "good.example", has_cookie=True).allowed


LISTED = ["https://app.example", "http://10.0.0.5:3000", "capacitor://localhost"]


@pytest.mark.parametrize("origin", [*LISTED, "HTTPS://APP.example", "https://app.example:443"])
def test_a_listed_origin_is_accepted_on_any_host(origin: str) -> None:
    assert decide(origin, "api.example", allowed=LISTED).why == "listed"


@pytest.mark.parametrize(
    "origin",
    [
        "http://app.example",
        "https://app.example:8443",
        "https://app.example.",
        "https://x.app.example",
        "http://10.0.0.5",
        "https://10.0.0.5:3000",
        "http://localhost",
    ],
)
def test_the_list_compares_scheme_host_and_port(origin: str) -> None:
    assert decide(origin, "api.example", allowed=LISTED).why == "other_host"


def test_the_own_host_stays_accepted_beside_a_list() -> None:
    assert decide("http://api.example", "api.example", allowed=LISTED).why == "same_host"


def test_the_own_host_is_held_to_its_scheme_once_it_is_listed_with_one() -> None:
    verdict = decide("http://good.example", "good.example", allowed=["https://good.example"])
    assert (verdict.allowed, verdict.why) == (False, "other_scheme")
    assert verdict.hint == 'allowed_origins=["https://good.example", "http://good.example"]'
    assert decide("https://good.example", "good.example", allowed=["https://good.example"]).allowed
    assert decide("http://good.example", "good.example", allowed=["https://good.example:8443"]).allowed


def test_a_star_accepts_everything_and_only_when_it_stands_alone() -> None:
    for allowed in ("*", ["*"]):
        rule = OriginRule(allowed=allowed)
        for origins in ([], ["null"], ["https://evil.example"], ["x", "y"]):
            assert rule.decide(origins, "", has_cookie=True).why == "any"
    with pytest.raises(ConfigurationError, match="remove it"):
        OriginRule(allowed=["*", "https://app.example"])


def test_one_text_is_one_listed_origin() -> None:
    assert decide("https://app.example", "x", allowed="https://app.example").why == "listed"


@pytest.mark.parametrize(
    "entry",
    [
        "app.example",
        "https://app.example/",
        "https://*.app.example",
        "null",
        "",
        "https://bücher.example",
        "https://",
        7,
    ],
)
def test_an_entry_that_no_browser_sends_is_refused_at_once(entry: str) -> None:
    with pytest.raises(ConfigurationError, match="not what a browser sends"):
        OriginRule(allowed=[entry])


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "127.1.2.3", "[::1]:8000", "api.localhost:8000"])
@pytest.mark.parametrize("origin", ["http://localhost:5173", "https://127.0.0.1", "http://[::1]:3000"])
def test_among_loopback_hosts_any_port_goes_with_any_other(origin: str, host: str) -> None:
    assert decide(origin, host).why == "loopback"
    assert decide(origin, host, allowed=["https://app.example"]).why == "other_host"
    assert decide(origin, host, allowed=[origin]).why == "listed"


@pytest.mark.parametrize("peer", ["10.0.0.1", "127.0.0.1", None])
@pytest.mark.parametrize("forwarded", [{"forwarded_for": ["203.0.113.9"]}, {"forwarded_host": ["localhost:8000"]}])
def test_behind_a_proxy_a_host_of_this_machine_says_nothing(peer: str | None, forwarded: dict[str, Any]) -> None:
    for rule in (OriginRule(), OriginRule(trusted_proxies=PROXIES)):
        asked: dict[str, Any] = {"peer": peer, **forwarded}
        verdict = rule.decide(["http://localhost:5173"], "localhost:8000", **asked)
        assert (verdict.allowed, verdict.why) == (False, "other_host")
        assert rule.decide(["http://localhost:8000"], "localhost:8000", **asked).why == "same_host"


def test_a_trusted_proxy_that_says_nothing_of_the_client_is_a_proxy_too() -> None:
    rule = OriginRule(trusted_proxies=PROXIES)
    assert rule.decide(["http://localhost:5173"], "localhost:8000", peer="10.0.0.1").why == "other_host"
    assert rule.decide(["http://localhost:5173"], "localhost:8000", peer="127.0.0.1").why == "loopback"


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://localhost:5173", "good.example"),
        ("http://evil.example", "localhost:8000"),
        ("http://localhost.evil.example", "localhost:8000"),
        ("http://127.0.0.1.evil.example", "127.0.0.1:8000"),
        ("http://notlocalhost", "localhost"),
        ("http://localhost.", "localhost"),
        ("http://0.0.0.0:3000", "localhost:8000"),
        ("http://192.168.1.5:3000", "localhost:8000"),
        ("capacitor://localhost", "localhost:8000"),
        ("null", "localhost:8000"),
    ],
)
def test_loopback_is_only_this_machine(origin: str, host: str) -> None:
    assert not decide(origin, host).allowed


# -- proxies ----------------------------------------------------------------------------------------------------------


def through(
    peer: str | None,
    *,
    names: Sequence[str],
    hops: Sequence[str] = (),
    host: str = "10.0.0.9:8000",
    resolved: bool = False,
) -> Verdict:
    """A page of good.example through proxies that replace the Host header."""
    return OriginRule(trusted_proxies=PROXIES).decide(
        ["https://good.example"],
        host,
        peer=peer,
        forwarded_host=names,
        forwarded_for=hops,
        peer_is_client=resolved,
    )


def test_the_forwarded_host_counts_from_a_trusted_proxy_alone() -> None:
    assert through("10.0.0.1", names=["good.example"]).allowed
    assert through("::ffff:10.0.0.1", names=["good.example"]).allowed
    assert through("2001:db8:ffff::1", names=["good.example"]).allowed
    for peer in ("203.0.113.9", "11.0.0.1", "2001:db8::1", None, "", "testclient"):
        assert not through(peer, names=["good.example"]).allowed


def test_the_forwarded_host_takes_the_place_of_the_host_header() -> None:
    assert not through("10.0.0.1", names=["evil.example"], host="good.example").allowed
    assert through("10.0.0.1", names=[], host="good.example").allowed
    assert through("10.0.0.1", names=["", " "], host="good.example").allowed


@pytest.mark.parametrize(
    ("names", "hops", "allowed"),
    [
        (["good.example, inner.example"], ["203.0.113.9, 10.0.0.1"], True),
        (["good.example", "inner.example"], ["203.0.113.9", "10.0.0.1"], True),
        (["inner.example, good.example"], ["203.0.113.9, 10.0.0.1"], False),
        # What stands before the first trusted proxy was written by the client.
        (["good.example, evil.example"], ["203.0.113.9"], False),
        (["good.example, evil.example, inner.example"], ["203.0.113.9, 10.0.0.1"], False),
        (["good.example, evil.example, inner.example"], ["10.0.0.3, 203.0.113.9, 10.0.0.1"], False),
        (["evil.example, good.example, inner.example"], ["10.0.0.3, 203.0.113.9, 10.0.0.1"], True),
        # One of the proxies replaces the list instead of appending to it.
        (["good.example"], ["203.0.113.9, 10.0.0.1, 10.0.0.2"], True),
    ],
)
def test_of_several_proxies_the_first_trusted_one_says_the_host(
    names: list[str], hops: list[str], allowed: bool
) -> None:
    assert through("10.0.0.1", names=names, hops=hops).allowed is allowed


def test_a_server_that_has_resolved_the_address_itself_is_believed() -> None:
    assert through("203.0.113.9", names=["good.example"], hops=["203.0.113.9"], resolved=True).allowed
    assert not through("203.0.113.9", names=["good.example"], hops=["203.0.113.9"]).allowed
    nobody = OriginRule()
    verdict = nobody.decide(
        ["https://good.example"], "127.0.0.1:8000", forwarded_host=["good.example"], peer_is_client=True
    )
    assert (verdict.allowed, verdict.hint) == (False, "trusted_proxies=[the address of your proxy]")


def test_a_hint_says_what_to_write() -> None:
    assert decide("https://App.example:8443").hint == 'allowed_origins=["https://app.example:8443"]'
    assert decide("https://x.example", allowed=LISTED).hint == (
        'allowed_origins=["https://app.example", "http://10.0.0.5:3000", "capacitor://localhost", "https://x.example"]'
    )
    assert through("172.17.0.1", names=["good.example"]).hint == 'trusted_proxies=["172.17.0.1"]'
    assert through(None, names=["good.example"]).hint == 'trusted_proxies=["unix"]'
    assert through("172.17.0.1", names=["other.example"]).hint == 'allowed_origins=["https://good.example"]'
    for origin in ("null", "x", ""):
        assert decide(origin).hint == ""


def test_what_is_shown_of_an_origin_cannot_forge_log_lines() -> None:
    shown = decide("https://x\r\n2026 ERROR all is lost\x1b[31m\N{RIGHT-TO-LEFT OVERRIDE}" + "y" * 200).origin
    assert shown.isascii()
    assert shown.isprintable()
    assert len(shown) < 300


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("203.0.113.9", [], "203.0.113.9"),
        ("203.0.113.9", ["198.51.100.1"], "203.0.113.9"),
        ("203.0.113.9", ["10.0.0.1"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("::ffff:10.0.0.1", ["203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1", "203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["198.51.100.1, 203.0.113.9, 10.0.0.7,10.0.0.8"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9, ,"], "203.0.113.9"),
        ("10.0.0.1", ["203.0.113.9:4711"], "203.0.113.9"),
        ("10.0.0.1", ['"[2001:db8::5]:4711"'], "2001:db8::5"),
        ("10.0.0.1", ["[2001:db8::5]"], "2001:db8::5"),
        ("10.0.0.1", ["2001:db8::5%eth0"], "2001:db8::5"),
        ("10.0.0.1", ["::ffff:203.0.113.9"], "203.0.113.9"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.4"], "10.0.0.3"),
        ("10.0.0.1", ["203.0.113.9, unknown"], None),
        ("10.0.0.1", ["203.0.113.9, _hidden"], None),
        ("10.0.0.1", [""], None),
        ("10.0.0.1", [], None),
        ("testclient", ["203.0.113.9"], None),
        (None, ["203.0.113.9"], None),
        ("10.0.0.1", ["203.0.113.9," + "10.0.0.2," * 5000], "10.0.0.2"),
    ],
)
def test_the_client_is_the_right_most_address_that_is_no_trusted_proxy(
    peer: str | None, forwarded_for: list[str], expected: str | None
) -> None:
    assert PROXIES.client_address(peer, forwarded_for) == expected


def test_without_trusted_proxies_no_address_is_known() -> None:
    assert TrustedProxies().client_address("203.0.113.9", ["198.51.100.1"]) is None


def test_a_proxy_on_a_unix_socket_can_be_named() -> None:
    proxies = TrustedProxies(["unix"])
    assert proxies.client_address(None, ["203.0.113.9"]) == "203.0.113.9"
    assert proxies.client_address("198.51.100.1", ["203.0.113.9"]) == "198.51.100.1"


@pytest.mark.parametrize("name", ["*", "0.0.0.0/0", "::/0", "proxy.example", "", "10.0.0.0/33", None, 167772161])
def test_a_proxy_that_is_no_address_is_refused_at_once(name: str) -> None:
    with pytest.raises(ConfigurationError, match="trusted_proxies"):
        TrustedProxies([name])


def test_a_text_in_place_of_a_list_of_proxies_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="give a list"):
        TrustedProxies("10.0.0.1")


@given(st.lists(st.text(alphabet='0123456789.:,[]%/ abcdef"_x', max_size=40), max_size=4), st.ip_addresses().map(str))
def test_no_header_makes_the_walk_raise_or_invents_an_address(headers: list[str], peer: str) -> None:
    address = PROXIES.client_address(peer, headers)
    if address is not None:
        assert str(ipaddress.ip_address(address)) == address


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::1", "2001:db8:1:3::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("unknown", "unknown"),
    ],
)
def test_limits_count_an_ipv6_network_as_one_address(address: str, block: str) -> None:
    assert address_block(address) == block

"""Hosts and paths: ABUSE 23 to 25 as values."""

from __future__ import annotations

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridgehold.errors import DeniedError
from bridgehold.policies.addresses import is_public, why_not_public
from bridgehold.policies.names import (
    host_covers,
    host_matches,
    meet_paths,
    normalise_host,
    normalise_host_pattern,
    normalise_path,
    normalise_path_pattern,
    path_covers,
    path_matches,
    prune_paths,
)

LOOPBACKS = [
    "127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f.1", "0x7f000001", "0X7F.0.0.1", "0177.0.0.1", "017700000001",
    "127.0.0.1.", "[::ffff:127.0.0.1]", "::ffff:7f00:1",
]  # fmt: skip
METADATA = ["169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "::ffff:169.254.169.254"]


@pytest.mark.parametrize("spelling", LOOPBACKS)
def test_every_spelling_of_loopback_is_one_address(spelling: str) -> None:
    host = normalise_host(spelling)
    assert host.name == "127.0.0.1"
    assert host.address is not None
    assert why_not_public(host.address) == "loopback"


def test_leading_zeros_are_octal_as_resolvers_have_it() -> None:
    assert normalise_host("0000127.0.0.1").name == "87.0.0.1"


@pytest.mark.parametrize("spelling", METADATA)
def test_every_spelling_of_the_metadata_address_is_link_local(spelling: str) -> None:
    host = normalise_host(spelling)
    assert host.name == "169.254.169.254"
    assert host.address is not None
    assert "metadata" in why_not_public(host.address)


@given(st.lists(st.sampled_from(["0", "1", "7f", "0x7f", "0177", "255", "256", "08", "65535", "4294967295", "0x"]), min_size=1, max_size=5))  # fmt: skip
def test_numbers_are_what_the_resolver_of_this_system_makes_of_them(parts: list[str]) -> None:
    text = ".".join(parts)
    try:
        expected = str(ipaddress.IPv4Address(socket.inet_aton(text)))
    except OSError:
        return
    assert normalise_host(text).name == expected


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a..b", "example.com..", "exa mple.com", "example.com\n", "example.com\x00.evil.example", "user@example.com",
        "example.com%00", "%65xample.com", "exámple.com", "o\u212a.com", "example。com", "ⓔxample.com", "example.com/", "example.com\\",
        "example.com?", "example.com#x", "-a.com", "a-.com", "a_b.com", "x" * 64 + ".com", "a." * 130 + "com", "[::1", "::1]",
        "[fe80::1%eth0]", "fe80::1%25eth0", "[v1.x]", "1.2.3.4.5", "256.1.1.1", "1.2.3.256", "0x100000000", "09.1.1.1", "foo.0x1",
        "example.com:80", "[::1]:80", "*.example.com", "\tlocalhost",
    ],
)  # fmt: skip
def test_ambiguous_hosts_are_refused(text: str) -> None:
    with pytest.raises(DeniedError):
        normalise_host(text)


def test_case_and_one_trailing_dot_are_normalised() -> None:
    assert normalise_host("API.OpenAI.Com.").name == "api.openai.com"
    assert normalise_host("xn--bcher-kva.example").name == "xn--bcher-kva.example"
    assert normalise_host("[::1]").name == "::1"
    assert normalise_host("[2001:DB8:0:0::1]").name == "2001:db8::1"


@given(st.text(alphabet="abcXYZ019.-[]:xXfF%@*_é ", max_size=40))
def test_the_host_normaliser_is_idempotent(text: str) -> None:
    try:
        once = normalise_host(text)
    except DeniedError:
        return
    again = normalise_host(once.name)
    assert again == once


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.9.9.9", "168.63.129.16", "169.254.0.1", "172.31.255.255",
        "192.0.0.192", "192.168.1.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::7f00:1", "::ffff:10.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "100::1",
        "2001:0:102:304::1", "2001:db8::1", "2002:7f00:1::1", "2002:808:808::1", "3fff::1", "fc00::1", "fd00:ec2::254", "fe80::1",
        "fe80::1%lo", "fec0::1", "ff02::1", "4000::1", "2a00:1450::5efe:7f00:1", "2a00:1450::200:5efe:a00:1",
        "not an address",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(text: str) -> None:
    assert not is_public(text)


@pytest.mark.parametrize(
    "text", ["8.8.8.8", "104.18.6.192", "2606:4700::6812:7c0", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_addresses_that_are_public(text: str) -> None:
    assert is_public(text)


@given(st.ip_addresses())
def test_what_python_calls_private_is_never_public_here(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    mapped = isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None
    if is_public(address) and not mapped:  # Python calls every mapped address private
        kinds = (address.is_private, address.is_loopback, address.is_link_local, address.is_multicast)
        assert not any(kinds)


@pytest.mark.parametrize(
    "host",
    ["evilopenai.com", "openai.com.evil.example", "api.openai.com.evil.example", "xopenai.com", "openai.co", "com", "openai.com",
     "a.b.openai.com"],
)  # fmt: skip
def test_lookalikes_never_match_a_wildcard(host: str) -> None:
    assert not host_matches("*.openai.com", host)


def test_matching_is_by_label() -> None:
    assert host_matches("*.openai.com", "API.openai.com.")
    assert host_matches("openai.com", "OPENAI.COM")
    assert not host_matches("openai.com", "evilopenai.com")
    assert not host_matches("*.0.0.1", "127.0.0.1")
    assert host_covers("*.openai.com", "api.openai.com")
    assert host_covers("*.openai.com", "*.openai.com")
    assert not host_covers("api.openai.com", "*.openai.com")
    assert not host_covers("*.openai.com", "*.api.openai.com")


@pytest.mark.parametrize(
    "text", ["*", "*.com", "*.", "a.*.com", "*.127.0.0.1", "**.example.com", "*example.com"]
)
def test_patterns_that_are_too_wide_or_odd_are_refused(text: str) -> None:
    with pytest.raises(DeniedError):
        normalise_host_pattern(text)


@pytest.mark.parametrize(
    "path",
    [
        "", "chat", "//chat", "/a//b", "/./a", "/a/..", "/a/../b", "/%2e%2e/a", "/.%2e/a", "/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b",
        "/a%00", "/a\x00", "/a\r\nHost: x", "/a%0d%0a", "/a%252e", "/a%", "/a%zz", "/a;b", "/a%3bb", "/a?b", "/a%3fb", "/a#b",
        "/a b", "/a%20b", "/é", "/%c3%a9", "/a%7f", "/" + "a" * 3000, "/a//",
    ],
)  # fmt: skip
def test_ambiguous_paths_are_refused(path: str) -> None:
    with pytest.raises(DeniedError):
        normalise_path(path)


def test_paths_are_decoded_once() -> None:
    assert normalise_path("/v1/%63hat/completions/") == "/v1/chat/completions"
    assert normalise_path("/") == "/"
    assert normalise_path("/models/m:generateContent") == "/models/m:generateContent"
    assert normalise_path_pattern("chat/completions") == "/chat/completions"


@given(st.text(alphabet="abC/%2e5fF.;\\*: ", max_size=30).map(lambda text: "/" + text))
def test_the_path_normaliser_is_idempotent_and_leaves_nothing_to_decode(text: str) -> None:
    try:
        once = normalise_path(text)
    except DeniedError:
        return
    assert normalise_path(once) == once
    assert not set("%\\;?#") & set(once)
    assert not {"", ".", ".."} & set(once[1:].split("/")) or once == "/"


def test_a_star_in_a_path_is_within_one_segment() -> None:
    assert path_matches("/models/*:generateContent", "/models/gemini-pro:generateContent")
    assert not path_matches("/models/*:generateContent", "/models/x/y:generateContent")
    assert not path_matches("/files/*", "/files")
    assert not path_matches("/*", "/")
    assert not path_matches("/Chat", "/chat")


def test_a_shorter_path_never_swallows_a_longer_one() -> None:
    assert prune_paths(["/*", "/chat/*", "/chat/completions", "/chat"]) == ("/*", "/chat/*")


SEGMENTS = st.lists(st.text(alphabet="ab*", min_size=1, max_size=4), min_size=1, max_size=3)
PLAIN = st.lists(st.text(alphabet="ab", min_size=1, max_size=5), min_size=1, max_size=3)


@given(SEGMENTS, SEGMENTS, PLAIN)
def test_paths_that_meet_allow_exactly_what_both_allow(
    left: list[str], right: list[str], path: list[str]
) -> None:
    ours, theirs, plain = ("/" + "/".join(parts) for parts in (left, right, path))
    both = path_matches(ours, plain) and path_matches(theirs, plain)
    assert any(path_matches(pattern, plain) for pattern in meet_paths(ours, theirs)) == both
    for pattern in meet_paths(ours, theirs):
        assert path_covers(ours, pattern)
        assert path_covers(theirs, pattern)

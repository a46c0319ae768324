"""IP addresses in every spelling that a resolver takes, and which of them are public.

``2130706433``, ``0x7f.1``, ``0177.0.0.1``, ``127.1`` and ``::ffff:127.0.0.1`` are one address, and
whoever compares texts is fooled by four of them. Here they become one `ipaddress` value.
"""

from __future__ import annotations

import ipaddress
import re
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

Address = IPv4Address | IPv6Address

_NUMERIC = re.compile(r"0[xX][0-9a-fA-F]*|[0-9]+", re.ASCII)
_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_V6 = IPv6Network("2000::/3")

_CLOSED_V4: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "unspecified"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "carrier-grade NAT, with a metadata service among it"),
    ("127.0.0.0/8", "loopback"),
    ("168.63.129.16/32", "a cloud's metadata service"),
    ("169.254.0.0/16", "link-local, with the metadata services"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved, with a metadata service among it"),
    ("192.0.2.0/24", "documentation"),
    ("192.88.99.0/24", "a 6to4 relay"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "benchmarking"),
    ("198.51.100.0/24", "documentation"),
    ("203.0.113.0/24", "documentation"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
)
_CLOSED_V6: tuple[tuple[str, str], ...] = (
    ("::/128", "unspecified"),
    ("::1/128", "loopback"),
    ("::/96", "an embedded IPv4 address"),
    ("64:ff9b:1::/48", "a local NAT64 prefix"),
    ("100::/64", "discard"),
    ("2001::/32", "a Teredo tunnel"),
    ("2001::/23", "protocol assignments"),
    ("2001:db8::/32", "documentation"),
    ("2002::/16", "a 6to4 tunnel"),
    ("3fff::/20", "documentation"),
    ("fc00::/7", "private, with a metadata service among it"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "site-local"),
    ("ff00::/8", "multicast"),
)
_V4 = tuple((IPv4Network(network), why) for network, why in _CLOSED_V4)
_V6 = tuple((IPv6Network(network), why) for network, why in _CLOSED_V6)
_ISATAP = frozenset({0x00005EFE, 0x02005EFE})


def looks_numeric(host: str) -> bool:
    """Whether resolvers take `host` for an IPv4 address: its last label is a number."""
    return _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None


def parse_ipv4(text: str) -> IPv4Address:
    """What ``inet_aton`` makes of one to four numbers, each decimal, octal or hexadecimal.

    Raises `ValueError` where any number is out of range or not a number.
    """
    parts = text.split(".")
    if not 1 <= len(parts) <= 4:
        raise ValueError("not one to four numbers")
    numbers = [_number(part) for part in parts]
    *bytes_, last = numbers
    if any(number > 255 for number in bytes_) or last >= 256 ** (5 - len(numbers)):
        raise ValueError("a number out of range")
    value = last
    for index, number in enumerate(bytes_):
        value += number << (8 * (3 - index))
    return IPv4Address(value)


def _number(text: str) -> int:
    if len(text) > 20 or not _NUMERIC.fullmatch(text):
        raise ValueError("not a number")
    if text[:2] in ("0x", "0X"):
        return int(text[2:] or "0", 16)
    if len(text) > 1 and text[0] == "0":
        return int(text, 8)
    return int(text)


def parse_ipv6(text: str) -> Address:
    """An IPv6 address without a zone; a mapped one becomes the IPv4 address that is dialled."""
    address = IPv6Address(text)
    if address.scope_id is not None:
        raise ValueError("a zone names a link of one machine")
    return address.ipv4_mapped or address


def why_not_public(address: Address) -> str:
    """What kind of address it is, if it isn't a public one; empty for a public address.

    IPv4 addresses inside of IPv6 ones (mapped, NAT64) are judged as what they hold. Tunnels that
    hold one (6to4, Teredo, ISATAP, IPv4-compatible) are never public: no provider lives there.
    """
    if isinstance(address, IPv4Address):
        return _why_not_v4(address)
    number = int(address)  # drops a zone, which would make comparisons fail
    plain = IPv6Address(number)
    if plain in _MAPPED or plain in _NAT64:
        inner = _why_not_v4(IPv4Address(number & 0xFFFFFFFF))
        return f"{inner} (inside of IPv6)" if inner else ""
    for network, why in _V6:
        if plain in network:
            return why
    if (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return "an ISATAP tunnel"
    return "" if plain in _GLOBAL_V6 and not plain.is_private else "reserved"


def _why_not_v4(address: IPv4Address) -> str:
    for network, why in _V4:
        if address in network:
            return why
    return "" if address.is_global else "reserved"


def is_public(address: Address | str) -> bool:
    """Whether a connection to `address` leaves this machine's own and private networks.

    A text is read as `ipaddress` does; what isn't an address isn't public.
    """
    if isinstance(address, str):
        try:
            address = ipaddress.ip_address(address)
        except ValueError:
            return False
    return not why_not_public(address)

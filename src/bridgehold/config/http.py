"""What the HTTP face is told at its start, and the address at which it may listen."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

import msgspec

from bridgehold.errors import ConfigError


class HttpConfig(msgspec.Struct, frozen=True, kw_only=True):
    """From ``[http]``; the listening socket comes as a descriptor."""

    socket: str
    """Of the host: where a token alone makes a principal."""
    supervisor: int
    names: tuple[str, ...] = ()
    connections: int = 512
    requests: int = 64
    """Of one principal at once."""
    body_bytes: int = 16 << 20
    buffered_bytes: int = 256 << 20
    idle_s: float = 15.0
    body_s: float = 30.0
    beat_s: float = 15.0
    read_s: float = 60.0


_LISTEN = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[0-9.]+):([0-9]{1,5})")
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


def listen_address(text: str, *, public: bool) -> tuple[str, int]:
    """``ADDRESS:PORT`` of ``[http] listen`` or ``--http``. Raises `ConfigError`.

    An address that is not loopback's is refused unless `public`: what is served is no TLS.
    """
    found = _LISTEN.fullmatch(text)
    try:
        address = ipaddress.ip_address(found[1].strip("[]")) if found else None
    except ValueError:
        address = None
    if found is None or address is None or int(found[2]) > 65_535:
        raise ConfigError(
            f"{text[:80]!r} is no address to listen on",
            where="http.listen",
            hint="Write a number and a port, such as 127.0.0.1:8765 or [::1]:8765.",
        )
    if not address.is_loopback and not public:
        raise ConfigError(
            f"{address} is no loopback address, and HTTP is served without TLS",
            where="http.listen",
            hint="Listen on 127.0.0.1 behind a proxy that does TLS, or set `[http] public = true`.",
        )
    return str(address), int(found[2])


def names_of(address: str, more: Iterable[str]) -> frozenset[str]:
    """The names that a request to `address` may use in its ``Host``."""
    own = ipaddress.ip_address(address)
    names = {name.casefold().rstrip(".") for name in more}
    if own.is_loopback or own.is_unspecified:
        names |= set(LOOPBACK_NAMES)
    return frozenset(names if own.is_unspecified else names | {str(own)})

"""Connections to the outside of the machine, to addresses that were decided on."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from urllib.parse import urlsplit

from bridgehold.config.sections import ProviderSection
from bridgehold.errors import DeniedError
from bridgehold.policies.names import normalise_host

_SECONDS = 10.0
LOOPBACK = "127.0.0.1"

Dial = Callable[[str, str, int], Awaitable[socket.socket]]
"""(host, one of its addresses, port) → a connection. Raises `OSError`, `TimeoutError`."""

Connect = Callable[[socket.socket, int], Awaitable[None]]
"""(a socket of a sandbox's network, port) → it is connected there. Raises `OSError`, `TimeoutError`."""

Apart = tuple[frozenset[str], frozenset[tuple[str, int]]]
"""Names of hosts, and numeric addresses with their ports."""


async def dial(_host: str, address: str, port: int) -> socket.socket:
    """By this process itself."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (address, port)), _SECONDS)
    except BaseException:
        sock.close()
        raise
    return sock


async def connect_inside(sock: socket.socket, port: int) -> None:
    """By this process itself."""
    await asyncio.wait_for(asyncio.get_running_loop().sock_connect(sock, (LOOPBACK, port)), _SECONDS)


def provider_place(base_url: str) -> tuple[str, int]:
    """Host, in its normal form where it has one, and port of a provider (pure)."""
    parts = urlsplit(base_url)
    try:
        host = normalise_host(parts.hostname or "").name
    except DeniedError:
        host = (parts.hostname or "").lower()
    return host, parts.port or (443 if parts.scheme == "https" else 80)


def apart(places: Mapping[str, tuple[str, int]]) -> Apart:
    """Of providers' places, by provider (pure)."""
    numeric = {name for name, (host, _) in places.items() if _is_address(host)}
    names = frozenset(host for name, (host, _) in places.items() if name not in numeric)
    return names, frozenset(places[name] for name in numeric)


def provider_places(
    providers: Mapping[str, ProviderSection],
) -> tuple[frozenset[str], frozenset[tuple[str, int]]]:
    """`apart`, of a configuration."""
    return apart({name: provider_place(section.base_url) for name, section in providers.items()})


def _is_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True

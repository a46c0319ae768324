"""Names to addresses, once: every answer is vetted, and what was vetted is what is dialled."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import ip_address

from bridgehold.errors import DeniedError, ProviderError
from bridgehold.policies.names import normalise_host, why_not_public

Lookup = Callable[[str, int], Awaitable[list[str]]]
"""Addresses of (host, port), as texts. Tests put their own in."""

_TIMEOUT = 10.0
_MOST = 16


async def system_lookup(host: str, port: int) -> list[str]:
    """The system's resolver, in its own thread. Raises `OSError`."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(entry[4][0]) for entry in found]


def shared(lookup: Lookup) -> Lookup:
    """`lookup` with one question under way for each name, however many wait for its answer.

    The system's resolver has few threads for all tenants, and keeps one for as long as a name server likes.
    """
    under_way: dict[tuple[str, int], asyncio.Future[list[str]]] = {}

    def done(place: tuple[str, int], asked: asyncio.Future[list[str]]) -> None:
        del under_way[place]
        if not asked.cancelled():
            asked.exception()  # seen, also where nobody waits any more

    async def ask(host: str, port: int) -> list[str]:
        asked = under_way.get((host, port))
        if asked is None:
            asked = under_way[host, port] = asyncio.ensure_future(lookup(host, port))
            asked.add_done_callback(partial(done, (host, port)))
        return await asyncio.shield(asked)

    return ask


async def resolve(host: str, port: int, *, private: bool, lookup: Lookup = system_lookup) -> list[str]:
    """The addresses to dial for `host`, in the resolver's order, at most 16.

    Raises `DeniedError` (where ``address``) if any of them is not public and `private` is false:
    a name that mixes both is a name that rebinds. Raises `ProviderError` if it has none.
    """
    normal = normalise_host(host)
    if normal.address is not None:
        texts = [str(normal.address)]
    else:
        try:
            texts = await asyncio.wait_for(lookup(normal.name, port), _TIMEOUT)
        except (OSError, UnicodeError, TimeoutError):
            raise ProviderError(f"the name {normal.name} can't be resolved", where=normal.name) from None
    addresses = list(dict.fromkeys(texts))[:_MOST]
    if not addresses:
        raise ProviderError(f"the name {normal.name} has no address", where=normal.name)
    if not private:
        for text in addresses:
            _vet(normal.name, text)
    return addresses


def _vet(name: str, text: str) -> None:
    try:
        why = why_not_public(ip_address(text))
    except ValueError:
        why = "not an address"
    if why:
        raise DeniedError(
            f"{name} leads to {text[:60]}, which is not public: {why}",
            where="address",
            hint="Only an operator can open a private address: `private = true`, and the weakening"
            " `private_network` in the policy.",
        )

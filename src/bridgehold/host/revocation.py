"""What ends with a tenant that is revoked: sessions, warm processes, submissions, tokens and keys."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from bridgehold.errors import BridgeholdError, NotFoundError
from bridgehold.host.front.tenants import TokenFiles
from bridgehold.keeper.client import KeeperClient
from bridgehold.policies.tokens import Token
from bridgehold.protocol.tenants import Part

_BY_HAND = "It makes nobody until this host restarts. Before that remove it, or its file by hand."
EndAll = Callable[[str, str], Awaitable[int]]
"""(tenant, reason) → how many have ended, once they have."""


class Ending(msgspec.Struct, frozen=True, kw_only=True):
    """What ends with a tenant, in this order; each says how many there were."""

    sessions: EndAll
    zygotes: EndAll
    warm_pool: EndAll
    """Sandboxes that stand ready for it."""


class AtRest(msgspec.Struct, frozen=True, kw_only=True):
    """What lies of a tenant on the disk."""

    submissions: EndAll
    """Bridges of its own that wait for an operator, or are being checked: they go with it."""
    artifacts: Callable[[str, bool], Awaitable[tuple[int, int]]]
    """(tenant, whether they go) → how many there are, and their bytes: no part of `revoke`."""
    proposals: Callable[[str], Awaitable[None]]
    """Rules that were asked for and approved for it go when it is removed: whoever is created anew under its
    name is somebody else."""
    ends: Callable[[str], None]
    """How its sessions ended and what they wrote last: likewise."""


class Revocation:
    """One per host."""

    def __init__(
        self,
        tokens: TokenFiles,
        ending: Ending,
        at_rest: AtRest,
        keeper: KeeperClient,
        look_up_again: Callable[[], Awaitable[None]],
    ) -> None:
        """`look_up_again`: who is connected may be somebody else now, or nobody."""
        self._tokens = tokens
        self._ending = ending
        self._at_rest = at_rest
        self._keeper = keeper
        self._look_up_again = look_up_again

    async def end(self, tenant: str, reason: str) -> dict[str, Part]:
        """Every part, also where one before it can't be ended; the first failure is raised then."""
        acts: dict[str, Callable[[], Awaitable[int]]] = {
            "sessions": lambda: self._ending.sessions(tenant, reason),
            "zygotes": lambda: self._ending.zygotes(tenant, reason),
            "warm_pool": lambda: self._ending.warm_pool(tenant, reason),
            "submissions": lambda: self._at_rest.submissions(tenant, reason),
            "tokens": lambda: self._end_tokens(tenant),
            "keys": lambda: self._keeper.forget(tenant),
        }

        async def timed(act: Callable[[], Awaitable[int]]) -> Part:
            begun = time.monotonic()
            return Part(ended=await act(), ms=milliseconds(begun))

        found = await asyncio.gather(*map(timed, acts.values()), return_exceptions=True)
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return dict(zip(acts, (one for one in found if isinstance(one, Part)), strict=True))

    async def end_keys(self, tenant: str) -> None:
        """Whatever could not be let go of when it was revoked. Raises why it still can't be."""
        await self._keeper.forget(tenant)

    async def _end_tokens(self, tenant: str) -> int:
        """Those of this tenant alone are removed; others lose it."""
        ended = 0
        fault: BridgeholdError | None = None
        for name in await self._tokens.settled():
            try:
                scope = self._tokens.of(name).scope
            except BridgeholdError:  # it makes nobody
                continue
            if tenant not in scope.tenants:
                continue
            left = tuple(one for one in scope.tenants if one != tenant)
            try:
                if left:
                    await self._tokens.change(name, _narrowed(left))
                else:
                    await self._tokens.remove(name)
            except NotFoundError:
                continue
            except BridgeholdError as error:
                self._tokens.hold(name)
                error.hint = _BY_HAND
                fault = fault or error
            ended += 1
        await self._look_up_again()
        if fault is not None:
            raise fault
        return ended


def _narrowed(tenants: tuple[str, ...]) -> Callable[[Token], Token]:
    """The edit that leaves a token these."""

    def edit(token: Token) -> Token:
        return msgspec.structs.replace(token, scope=msgspec.structs.replace(token.scope, tenants=tenants))

    return edit


def milliseconds(begun: float) -> int:
    """Since `begun`, of the monotonic clock."""
    return round((time.monotonic() - begun) * 1000)

"""What the front tells the keeper of cells' sessions and tenants: whom a cell may ask for what.

Over the host's own channel, which no cell has. One that is taken over gains no endpoint, path, key or budget.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Protocol

from bridgehold.config.settings import Settings
from bridgehold.errors import BridgeholdError
from bridgehold.host.shares.cell_wire import Spent
from bridgehold.keeper.accounts import allowed_part, tools_of
from bridgehold.keeper.protocol import AllowSession, AllowTenant
from bridgehold.policies.decide import decide_tool
from bridgehold.policies.model import Grant
from bridgehold.policies.tenants import Tenant


class Keeper(Protocol):
    """The keeper's client, as the front's word needs it."""

    async def allow_session(self, said: AllowSession) -> None:
        """See `KeeperClient.allow_session`."""

    async def end_session(self, tenant: str, session: str) -> None:
        """See `KeeperClient.end_session`."""

    async def allow_tenant(self, said: AllowTenant) -> None:
        """See `KeeperClient.allow_tenant`."""


class Allowances:
    """Of all cells."""

    def __init__(self, keeper: Keeper, settings: Settings, tenant_of: Callable[[str], Tenant]) -> None:
        """`tenant_of`: as its file says it now; raises where that can't be told."""
        self._keeper = keeper
        self._settings = settings
        self._tenant_of = tenant_of
        self._told: dict[str, Tenant] = {}
        self._grants: dict[tuple[str, str], Grant] = {}
        """Of sessions that are allowed."""
        self._owed: set[tuple[str, str]] = set()
        """Ends that the keeper has not confirmed."""

    async def begin(self, tenant: str, spent: Spent) -> None:
        """Before the tenant's cell is there. Raises `PolicyError`, `HostUnavailableError`."""
        rules = self._tenant_of(tenant)
        await self._keeper.allow_tenant(
            AllowTenant(tenant=tenant, rules=rules, requests=spent.providers, periods=spent.periods)
        )
        self._told[tenant] = rules

    async def look(self, tenant: str) -> None:
        """Tell of the tenant's rules, where they are others now. What can't be told now is told later."""
        with contextlib.suppress(BridgeholdError):
            rules = self._tenant_of(tenant)
            if tenant in self._told and self._told[tenant] != rules:
                await self._keeper.allow_tenant(AllowTenant(tenant=tenant, rules=rules))
                self._told[tenant] = rules

    async def allow(self, tenant: str, session: str, grant: Grant) -> None:
        """The session may ask for what its grant says. Raises `LimitError`, `HostUnavailableError`."""
        self._grants[tenant, session] = grant
        self._owed.discard((tenant, session))
        await self._keeper.allow_session(
            AllowSession(tenant=tenant, session=session, grant=allowed_part(grant), tools=self._tools(grant))
        )

    def _tools(self, grant: Grant) -> dict[str, bool]:
        tools = self._settings.now.tools.items()
        return tools_of(
            {
                name: (tool.provider, tool.path, tool.names_model)
                for name, tool in tools
                if tool.provider and decide_tool(grant, name).allowed
            }
        )

    async def again(self) -> None:
        """The operator's tools may be others: say of each session what holds."""
        for (tenant, session), grant in list(self._grants.items()):
            if (tenant, session) in self._grants:
                with contextlib.suppress(BridgeholdError):
                    await self.allow(tenant, session, grant)

    async def over(self, tenant: str, session: str = "") -> None:
        """Nothing more goes out for the session; without one, for none of the tenant's."""
        gone = [key for key in self._grants if key[0] == tenant and session in ("", key[1])]
        for key in gone:
            del self._grants[key]
        self._owed.update(gone)
        await self.end_owed()

    async def end_owed(self) -> None:
        """Tell of each end that the keeper doesn't know of. What can't be told now is told later."""
        for key in list(self._owed):
            with contextlib.suppress(BridgeholdError):
                await self._keeper.end_session(*key)
                self._owed.discard(key)

"""`Upstream`, made for the first provider: its libraries are half of what a keeper's start would cost."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from bridgehold.config.providers import ProviderEntry
from bridgehold.keeper.places import Turns
from bridgehold.keeper.resolve import Lookup
from bridgehold.keeper.values import KeeperConfig

if TYPE_CHECKING:
    from bridgehold.keeper.upstream import Upstream


class Carrier:
    """Holds the one `Upstream` of a keeper, once there is one."""

    def __init__(
        self, config: KeeperConfig, providers: Mapping[str, ProviderEntry], lookup: Lookup, turns: Turns
    ) -> None:
        """Parameters: those of `Upstream`. Of a host that lasts it is made here."""
        self._limits, self._providers, self._lookup, self._turns = config.limits, providers, lookup, turns
        self._made: Upstream | None = None
        if config.lasts:
            self.load()

    def load(self) -> Upstream:
        """Makes it, the first time."""
        if self._made is None:
            from bridgehold.keeper.upstream import Upstream

            self._made = Upstream(self._limits, self._providers, self._lookup, self._turns)
        return self._made

    def drop(self, names: Collection[str]) -> None:
        """See `Upstream.drop`."""
        if self._made is not None:
            self._made.drop(names)

    async def close(self) -> None:
        """See `Upstream.close`."""
        if self._made is not None:
            await self._made.close()

"""What an operator has drained: no session is opened there, until the way is opened again."""

from __future__ import annotations

from bridgehold.errors import BusyError


class Cordons:
    """Pairs of tenant and bridge, each of them empty for any."""

    def __init__(self) -> None:
        self._pairs: set[tuple[str, str]] = set()

    def add(self, tenant: str, bridge: str) -> None:
        """Close the way within tenant and bridge."""
        self._pairs.add((tenant, bridge))

    def take_back(self, tenant: str, bridge: str) -> int:
        """Open what lies within tenant and bridge; how many cordons there were."""
        within = {one for one in self._pairs if tenant in ("", one[0]) and bridge in ("", one[1])}
        self._pairs -= within
        return len(within)

    def demand(self, tenant: str, bridge: str) -> None:
        """Raise `BusyError` where the way is closed."""
        for one, other in self._pairs:
            if one in ("", tenant) and other in ("", bridge):
                drained = " of ".join(name for name in (other, one) if name) or "this host"
                raise BusyError(
                    f"no session with {bridge} is opened: an operator has drained {drained}",
                    hint="An operator opens the way again with `bridgehold sessions resume`.",
                )

"""``attack.told``: that an operator's hostile acts begin, and what came of them, in the audit."""

from __future__ import annotations

from bridgehold.host.admin_log import AdminLog
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.ids import parse_name
from bridgehold.protocol.attacks import AttackParams
from bridgehold.protocol.values import Principal


class Attacks:
    """The handler. One per host."""

    def __init__(self, log: AdminLog) -> None:
        self._log = log

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {"attack.told": Method(AttackParams, self.told, operator=True)}

    async def told(self, principal: Principal, params: AttackParams, _emit: Emit) -> dict[str, str]:
        """Durably written when it returns."""
        tenant, bridge = parse_name(params.tenant, "tenant"), parse_name(params.bridge, "bridge")
        counts = {name: str(count) for name, count in sorted(params.counts.items())[:8]}

        async def act() -> dict[str, str]:
            return {}

        details = {"grant": params.grant, **counts}
        action = f"attack.{params.phase}"
        return await self._log.audited(principal, action, f"{tenant}/{bridge}", details, act, tenant=tenant)

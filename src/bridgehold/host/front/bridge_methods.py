"""The socket's methods that touch no guest: bridges and their environments, grants, the host's end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Protocol

from bridgehold.host.front.environments import Environments
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.front.scans import scan
from bridgehold.ids import parse_name
from bridgehold.protocol.frames import (
    BridgeParams,
    BuildParams,
    NamedBridgeParams,
    NoParams,
    ScanParams,
    StopParams,
)
from bridgehold.protocol.values import Principal


class AskStop(Protocol):
    """Has the host stop; `now`: without waiting for what runs; `again`: another one takes its place."""

    async def __call__(self, reason: str, *, now: bool, again: bool) -> None:
        """Begin to stop, for `reason`."""


class Audited(Protocol):
    """See `AdminLog.audited`."""

    async def __call__(
        self,
        principal: Principal,
        action: str,
        subject: str,
        details: Mapping[str, object],
        act: Callable[[], Awaitable[None]],
    ) -> None:
        """`act`, between a durable intent and its outcome."""


class BridgeMethods:
    """Handlers; each takes (principal, params, emit)."""

    def __init__(
        self, registry: Registry, environments: Environments, stop: AskStop, audited: Audited
    ) -> None:
        self._registry = registry
        self._environments = environments
        self._stop = stop
        self._audited = audited

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "bridges": Method(NoParams, self.bridges, reads=True),
            "bridge.build": Method(BuildParams, self.build, operator=True),
            "bridge.verify": Method(NamedBridgeParams, self.verify, operator=True),
            "bridge.scan": Method(ScanParams, self.scan, operator=True),
            "bridge.gc": Method(NoParams, self.collect, operator=True),
            "grant": Method(BridgeParams, self.grant, reads=True),
            "stop": Method(StopParams, self.stop, operator=True),
        }

    async def bridges(self, principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """The bridges that the caller may use."""
        seen = self._registry.visible(principal.may_act_for)
        return [self._registry.describe(entry) for entry in seen if principal.may_use(entry.name)]

    async def build(self, principal: Principal, params: BuildParams, emit: Emit) -> object:
        """Build a bridge's environment now."""
        found = await self._registry.granted(params.tenant, parse_name(params.bridge, "bridge"))
        built = await self._environments.ensure(found.manifest, emit, grant=found.grant, anew=params.anew)
        return {
            "bridge": found.manifest.name,
            "digest": built.digest,
            "packages": built.packages,
            "lacks": built.lacks,
        }

    async def verify(self, _principal: Principal, params: NamedBridgeParams, _emit: Emit) -> object:
        """Read every byte of environments, and compare it with what was sealed."""
        if params.bridge:
            return await self._environments.verify(
                [self._registry.manifest(params.bridge, params.tenant or "")]
            )
        return await self._environments.verify(self._registry.manifests(), others=True)

    async def scan(self, principal: Principal, params: ScanParams, _emit: Emit) -> object:
        """Look at what environments consist of: hashes, wheels, licences, advisories."""
        if params.bridge:
            manifests = [self._registry.manifest(params.bridge, params.tenant or "")]
        else:
            manifests = self._registry.manifests()
        return await scan(
            self._environments, manifests, params.fail_on, principal.name, others=not params.bridge
        )

    async def collect(self, _principal: Principal, _params: NoParams, _emit: Emit) -> object:
        """Remove environments that no bridge needs."""
        found = await self._environments.collect(self._registry.manifests)
        stuck = [{"path": str(path), "reason": why} for path, why in found.stuck.items()]
        return {"removed": [path.name for path in found.removed], "stuck": stuck}

    async def grant(self, principal: Principal, params: BridgeParams, _emit: Emit) -> object:
        """What a tenant is granted for a bridge, and by which rules."""
        tenant = parse_name(params.tenant, "tenant")
        return await self._registry.grant(tenant, parse_name(params.bridge, "bridge"))

    async def stop(self, principal: Principal, params: StopParams, _emit: Emit) -> object:
        """Once what runs has finished, or its time for that is over; `now`: at once.

        For another one only where that could begin its audit: it would end at once, and nobody be served.
        """
        if params.again:
            stop = partial(self._stop, "replaced by a new host", now=params.now, again=True)
            await self._audited(principal, "stop", "host", {"again": True}, stop)
        else:
            await self._stop("asked by an operator", now=params.now, again=False)
        return {"status": "stopping"}

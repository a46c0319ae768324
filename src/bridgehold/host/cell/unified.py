"""The unified interface: the same six verbs for every bridge, by what its manifest declares."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from bridgehold.errors import BridgeholdError, NotFoundError, UsageError
from bridgehold.host.cell.commands.dispatch import Dispatch
from bridgehold.host.cell.commands.resources import Act, Resources, choose
from bridgehold.host.front.method import Method
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.ids import ANONYMOUS_SESSION, LOCAL_TENANT, parse_name
from bridgehold.policies.decide import decide_operation, decide_resource
from bridgehold.protocol.frames import CommandRequest
from bridgehold.protocol.values import Principal, Reply, ResourceRef


class _Where(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    tenant: str = LOCAL_TENANT
    bridge: str = ""
    """The default bridge, if empty."""


class CreateParams(_Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `resource.create` and `resource.configure`."""

    kind: str = ""
    arguments: dict[str, object] = {}
    session: str = ANONYMOUS_SESSION
    operation: str = ""
    deadline_ms: int = 0


class ResourceParams(_Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `resource.execute` and `resource.delete`: the resource by id, whichever session has it."""

    id: str
    kind: str = ""
    arguments: dict[str, object] = {}
    session: str = ""
    operation: str = ""
    deadline_ms: int = 0


class ListParams(_Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `resource.list`."""

    kind: str = ""
    session: str = ""


class DescribeParams(_Where, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `describe`."""


class Unified:
    """Handlers of ``resource.*`` and ``describe``; every act is a command like any other."""

    def __init__(
        self,
        dispatch: Dispatch,
        registry: Registry,
        resources: Resources,
        why_missing: Callable[[Callable[[str], bool], str], BridgeholdError],
    ) -> None:
        """`why_missing`: of a session that is not there, as `Sessions` tells it."""
        self._why_missing = why_missing
        self._dispatch = dispatch
        self._registry = registry
        self._resources = resources

    def table(self) -> dict[str, Method]:
        """The methods by name."""
        return {
            "resource.create": Method(CreateParams, self.create),
            "resource.configure": Method(CreateParams, self.configure),
            "resource.execute": Method(ResourceParams, self.execute),
            "resource.delete": Method(ResourceParams, self.delete),
            "resource.list": Method(ListParams, self.list, reads=True),
            "describe": Method(DescribeParams, self.describe, reads=True),
        }

    async def create(self, principal: Principal, params: CreateParams, _emit: Emit) -> Reply:
        """Create a resource by the bridge's operation for its kind."""
        return await self._new(principal, params, "create")

    async def configure(self, principal: Principal, params: CreateParams, _emit: Emit) -> Reply:
        """Run the bridge's `configure` operation for a kind."""
        return await self._new(principal, params, "configure")

    async def execute(self, principal: Principal, params: ResourceParams, _emit: Emit) -> Reply:
        """Run a resource by the bridge's operation for its kind."""
        return await self._on(principal, params, "execute")

    async def delete(self, principal: Principal, params: ResourceParams, _emit: Emit) -> Reply:
        """Delete a resource by the bridge's operation for its kind."""
        return await self._on(principal, params, "delete")

    async def list(self, principal: Principal, params: ListParams, _emit: Emit) -> list[ResourceRef]:
        """What the policy lets nobody work on isn't shown either."""
        found = [
            *self._resources.listed(
                _seen(principal, params.tenant),
                bridge=params.bridge,
                kind=params.kind,
                session=params.session,
            )
        ]
        grants = {one.bridge: await self._registry.grant(params.tenant, one.bridge) for one in found}
        return [
            one
            for one in found
            if principal.may_use(one.bridge) and decide_resource(grants[one.bridge], one.kind).allowed
        ]

    async def describe(self, principal: Principal, params: DescribeParams, _emit: Emit) -> object:
        """Resources and operations with their schemas, and which of them the tenant is granted."""
        bridge = parse_name(params.bridge or self._registry.default_bridge, "bridge")
        principal.demand_bridge(bridge)
        found = await self._registry.granted(params.tenant, bridge)
        manifest, grant = found.manifest, found.grant
        return {
            "name": bridge,
            "version": manifest.version,
            "summary": manifest.summary,
            "resources": [
                {**msgspec.to_builtins(kind), "granted": decide_resource(grant, kind.name).allowed}
                for kind in manifest.resources.values()
            ],
            "operations": [
                {
                    **msgspec.to_builtins(operation),
                    "granted": decide_operation(
                        grant, bridge, operation.name, (operation.resource,) if operation.resource else ()
                    ).allowed,
                }
                for operation in manifest.operations.values()
            ],
            "providers": [endpoint.provider for endpoint in grant.endpoints],
            "limits": grant.limits,
        }

    async def _new(self, principal: Principal, params: CreateParams, act: Act) -> Reply:
        bridge = parse_name(params.bridge or self._registry.default_bridge, "bridge")
        operation = choose(self._registry.manifest(bridge, params.tenant), act, params.kind, params.operation)
        request = CommandRequest(
            operation=f"{bridge}:{operation.name}",
            arguments=params.arguments,
            tenant=params.tenant,
            session=params.session,
            deadline_ms=params.deadline_ms,
        )
        return await self._dispatch.run(principal, request)

    async def _on(self, principal: Principal, params: ResourceParams, act: Act) -> Reply:
        try:
            found = self._resources.find(
                _seen(principal, params.tenant),
                params.id,
                bridge=params.bridge,
                kind=params.kind,
                session=params.session,
            )
        except NotFoundError:
            session = self._resources.gone_with(params.tenant, params.id)
            if not session or not principal.may_act_for(params.tenant):
                raise
            raise self._why_missing(_seen(principal, params.tenant), session) from None
        operation = choose(
            self._registry.manifest(found.bridge, found.tenant), act, found.kind, params.operation
        )
        if params.arguments.get(operation.id_field, found.id) != found.id:
            raise UsageError(f"the arguments name another {operation.id_field} than the request")
        request = CommandRequest(
            operation=f"{found.bridge}:{operation.name}",
            arguments={**params.arguments, operation.id_field: found.id},
            tenant=found.tenant,
            session=found.session,
            deadline_ms=params.deadline_ms,
        )
        return await self._dispatch.run(principal, request)


def _seen(principal: Principal, tenant: str) -> Callable[[str], bool]:
    """Only the tenant that is asked for, and only where the principal may act for it."""
    return lambda one: one == tenant and principal.may_act_for(one)

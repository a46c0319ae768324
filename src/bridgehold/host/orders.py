"""From (tenant, bridge) to everything a start needs: grant, environment, sandbox spec."""

from __future__ import annotations

from typing import Protocol

from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import SecretError
from bridgehold.host.environments import Environments
from bridgehold.host.machine import system_paths
from bridgehold.host.registry import Registry
from bridgehold.host.starts import GATEWAY_PORT, StartOrder
from bridgehold.policies.model import Grant
from bridgehold.sandbox.spec import worker_spec


class Revealer(Protocol):
    """Gives a secret that its owner allowed to be revealed (weakening ``env_secret`` only)."""

    async def reveal(self, tenant: str, name: str) -> str: ...


class Orders:
    """Makes start orders. Builds the environment on the way if it is not there."""

    def __init__(self, registry: Registry, environments: Environments, secrets: Revealer) -> None:
        self._registry = registry
        self._environments = environments
        self._secrets = secrets

    async def make(self, tenant: str, bridge: str, session: str, session_name: str) -> StartOrder:
        """Raises `PolicyError`, `UnsupportedError`, `EnvironmentBuildError`, `DependencyError`."""
        manifest = self._registry.manifest(bridge)
        grant = await self._registry.grant(tenant, bridge)
        environment = await self._environments.ensure(manifest, grant=grant)
        paths = system_paths(environment=environment.path, bridge=manifest.folder)
        return StartOrder(
            session=session,
            session_name=session_name,
            manifest=manifest,
            grant=grant,
            spec=worker_spec(grant, paths, gateway_port=GATEWAY_PORT),
            environment_digest=environment.digest,
            bridge_folder=manifest.folder,
            env_secrets=await self._revealed(tenant, grant, manifest),
        )

    async def _revealed(self, tenant: str, grant: Grant, manifest: Manifest) -> tuple[tuple[str, str], ...]:
        found = []
        for secret in grant.secrets:
            if secret.how == "env":
                try:
                    found.append((secret.variable, await self._secrets.reveal(tenant, secret.name)))
                except SecretError as error:
                    raise SecretError(
                        f"{manifest.name} needs the secret {secret.name!r}: {error.message}", hint=error.hint
                    ) from error
        return tuple(found)

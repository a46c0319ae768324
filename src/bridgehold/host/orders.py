"""From (tenant, bridge) to everything a start needs: grant, environment, sandbox spec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Protocol

from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import ConfigError, SecretError
from bridgehold.host.boots import GATEWAY_PORT, StartOrder
from bridgehold.host.environments import Environments
from bridgehold.host.machine import system_paths
from bridgehold.host.registry import Registry
from bridgehold.policies.model import Grant
from bridgehold.sandbox.spec import worker_spec


class Revealer(Protocol):
    """Gives a secret that its owner allowed to be revealed (weakening ``env_secret`` only)."""

    async def reveal(self, tenant: str, name: str) -> str: ...


def paths_inside(weights: tuple[str, ...], read: tuple[str, ...]) -> tuple[str, ...]:
    """Where the sandbox sees the operator's weights (pure). `ConfigError` names one that it can't see."""
    found = []
    for weight in weights:
        path = PurePosixPath(weight)
        below = [index for index, folder in enumerate(read) if path.is_relative_to(folder)]
        if not below or ".." in path.parts:
            raise ConfigError(
                f"the weights {weight} are below no folder that the policy lets be read",
                where="[bridges] weights",
                hint="Name their folder in the policy's `[filesystem] read`.",
            )
        found.append(f"/data/{below[0]}/{path.relative_to(read[below[0]])}".removesuffix("/."))
    return tuple(found)


class Orders:
    """Makes start orders. Builds the environment on the way if it is not there."""

    def __init__(
        self,
        registry: Registry,
        environments: Environments,
        secrets: Revealer,
        weights: Mapping[str, tuple[str, ...]] | None = None,
        shapes: Mapping[str, str] | None = None,
        scripts: Mapping[str, str] | None = None,
    ) -> None:
        """By bridge: the host paths of what the operator has loaded ahead; a foreign one's scripts.

        `shapes`: by provider, how its interface looks.
        """
        self._scripts = scripts or {}
        self._weights = weights or {}
        self._shapes = shapes or {}
        self._registry = registry
        self._environments = environments
        self._secrets = secrets

    async def make(self, tenant: str, bridge: str, session: str, session_name: str) -> StartOrder:
        """Raises `PolicyError`, `UnsupportedError`, `EnvironmentBuildError`, `DependencyError`."""
        manifest = self._registry.manifest(bridge)
        grant = await self._registry.grant(tenant, bridge)
        environment = await self._environments.ensure(manifest, grant=grant)
        folder = manifest.folder
        if manifest.foreign:
            folder = Path(self._scripts.get(bridge, manifest.folder))
        paths = system_paths(environment=environment.path, bridge=folder)
        return StartOrder(
            session=session,
            session_name=session_name,
            manifest=manifest,
            grant=grant,
            spec=worker_spec(grant, paths, gateway_port=GATEWAY_PORT, start=grant.sandbox.start),
            environment_digest=environment.digest,
            bridge_folder=folder,
            weights=paths_inside(self._weights.get(bridge, ()), grant.read),
            shapes={
                endpoint.provider: self._shapes[endpoint.provider]
                for endpoint in grant.endpoints
                if endpoint.provider in self._shapes
            },
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

"""From (tenant, bridge) to everything a start needs: grant, environment, sandbox spec."""

from __future__ import annotations

import asyncio
from pathlib import Path, PurePosixPath
from typing import Protocol

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import SecretChanged
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.machine import real_folders, system_paths
from bridgehold.config.sections import BridgeSection
from bridgehold.config.settings import Settings
from bridgehold.errors import BusyError, ConfigError, DependencyError, SecretError
from bridgehold.host.front.boots import GATEWAY_PORT, StartOrder
from bridgehold.host.front.environments import Environments
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.cell_wire import AskOrder
from bridgehold.policies.limits_request import NOTHING, narrowed
from bridgehold.policies.model import Grant
from bridgehold.sandbox.spec import worker_spec

_MOST_TRIES = 4


class Secrets(Protocol):
    """What orders ask of the keeper."""

    async def reveal(self, tenant: str, name: str) -> str:
        """A secret that its owner allowed to be revealed (weakening ``env_secret`` only)."""

    async def missing(self, tenant: str, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of `names` the tenant doesn't have."""


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
        secrets: Secrets,
        settings: Settings,
        journal: JournalClient,
    ) -> None:
        self._journal = journal
        self._settings = settings
        self._registry = registry
        self._environments = environments
        self._secrets = secrets

    async def grant(self, tenant: str, bridge: str) -> Grant:
        """As it is resolved and written down now. Raises `PolicyError`, `NotFoundError`."""
        return await self._registry.grant(tenant, bridge)

    async def make(self, tenant: str, ask: AskOrder) -> StartOrder:
        """What `ask` takes to start.

        Raises `PolicyError`, `UnsupportedError`, `EnvironmentBuildError`, `DependencyError`; `DeniedError`
        for what is `asked` beyond the policy."""
        for _ in range(_MOST_TRIES):
            manifest = self._registry.manifest(ask.bridge, tenant)
            section = self._settings.bridge(ask.bridge)
            await self._check_required(tenant, manifest, section)
            grant = self._startable(await self._registry.grant(tenant, ask.bridge))
            own = narrowed(grant, ask.asked, manifest.needs.limits) if ask.asked != NOTHING else grant
            environment = await self._environments.ensure(manifest, grant=grant)
            if await self._holds(tenant, manifest, grant) and self._settings.bridge(ask.bridge) == section:
                break
        else:
            raise BusyError(
                f"what {tenant} has of {ask.bridge} changes while a start of it is made", retry="later"
            )
        shapes = {name: provider.shape for name, provider in self._settings.now.providers.items()}
        folder: Path = manifest.folder
        further: tuple[str, ...] = ()
        if manifest.foreign and section.scripts:
            first, *others = await asyncio.to_thread(real_folders, section.scripts)
            folder, further = Path(first), tuple(others)
        paths = system_paths(environment.path, folder, environment.python_prefix, further)
        return StartOrder(
            session=ask.session,
            session_name=ask.session_name,
            manifest=manifest,
            grant=own,
            asked=ask.asked,
            spec=worker_spec(
                grant,
                paths,
                gateway_port=GATEWAY_PORT,
                start=grant.sandbox.start,
                environment=section.environment,
            ),
            environment_digest=environment.digest,
            bridge_folder=folder,
            weights=paths_inside(section.weights, grant.read),
            shapes={
                endpoint.provider: shapes[endpoint.provider]
                for endpoint in grant.endpoints
                if endpoint.provider in shapes
            },
            env_secrets=await self._revealed(ask.session, ask.principal, grant, manifest),
        )

    async def of_trial(self, manifest: Manifest, grant: Grant, session: str) -> StartOrder:
        """For a bridge that is in no catalogue: cold, with what `grant` says and nothing beside it.

        Raises `EnvironmentBuildError`, `DependencyError`."""
        environment = await self._environments.ensure(manifest, grant=grant)
        paths = system_paths(environment.path, manifest.folder, environment.python_prefix)
        return StartOrder(
            session=session,
            session_name="",
            manifest=manifest,
            grant=grant,
            spec=worker_spec(grant, paths, gateway_port=GATEWAY_PORT, start="cold"),
            environment_digest=environment.digest,
            bridge_folder=manifest.folder,
        )

    async def _holds(self, tenant: str, manifest: Manifest, grant: Grant) -> bool:
        """Whether both are what the tenant has now: an environment may take minutes to build."""
        now = self._registry.manifest(manifest.name, tenant)
        same = (now.digest, now.folder) == (manifest.digest, manifest.folder)
        return same and self._startable(await self._registry.grant(tenant, manifest.name)) == grant

    def _startable(self, grant: Grant) -> Grant:
        """The grant, with a cold start where forks are switched off for its tenant."""
        if self._settings.features.on("fork", grant.tenant):
            return grant
        return msgspec.structs.replace(grant, sandbox=msgspec.structs.replace(grant.sandbox, start="cold"))

    async def _check_required(self, tenant: str, manifest: Manifest, section: BridgeSection) -> None:
        """Every demand of the operator's that isn't met, at once."""
        problems = await self._environments.unmet(manifest, section)
        if section.required_secrets:
            missing = await self._secrets.missing(tenant, section.required_secrets)
            problems += [f"{tenant} has no secret {name!r}" for name in missing]
        if problems:
            raise DependencyError(
                f"{manifest.name} can't run as this host demands: {'; '.join(problems)}",
                where=f"[bridges.{manifest.name}]",
                hint="Lock it anew (`bridgehold bridge lock`), set the secrets, or demand less.",
            )

    async def _revealed(
        self, session: str, principal: str, grant: Grant, manifest: Manifest
    ) -> tuple[tuple[str, str], ...]:
        """What goes into the sandbox's environment. `session` empty: nothing is started, nothing told."""
        found = []
        for secret in grant.secrets:
            if secret.how == "env":
                try:
                    found.append((secret.variable, await self._secrets.reveal(grant.tenant, secret.name)))
                except SecretError as error:
                    raise SecretError(
                        f"{manifest.name} needs the secret {secret.name!r}: {error.message}", hint=error.hint
                    ) from error
                if session:
                    event = SecretChanged(
                        tenant=grant.tenant,
                        principal=principal,
                        session=session,
                        name=secret.name,
                        action="revealed",
                    )
                    await self._journal.append(event)
        return tuple(found)


def ordered(order: StartOrder) -> cell_wire.Ordered:
    """What the front says of an order of its."""
    return cell_wire.Ordered(
        manifest=order.manifest.digest,
        grant=order.grant,
        spec=order.spec,
        environment=order.environment_digest,
        folder=str(order.bridge_folder),
        weights=order.weights,
        shapes=order.shapes,
        env_secrets=order.env_secrets,
    )

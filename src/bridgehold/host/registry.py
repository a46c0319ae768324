"""Bridges, policies and tenants of this host: from names to manifests and grants.

Files are read when they are needed and read again when they change, so that a new bridge or a
narrowed policy takes effect without a restart. A grant is written to the audit once per digest.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.events import GrantResolved, PolicyLoaded
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import NotFoundError, PolicyError
from bridgehold.host.config import Config
from bridgehold.host.layout import Layout
from bridgehold.ids import digest_bytes, is_name
from bridgehold.policies import shipped
from bridgehold.policies.compose import compose, compose_tenant
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Grant, Machine, Policy

ReadPolicy = Callable[[str], "tuple[str, str] | None"]
"""Policy name → (text, file name), or None."""


_LOOK_SECONDS = 0.25


class Registry:
    """What this host knows by name. Reads the layout's folders; runs nothing.

    Without a `journal` it only resolves, for a command line that looks at policies.
    """

    def __init__(
        self, layout: Layout, config: Config, machine: Machine, journal: JournalClient | None
    ) -> None:
        self._layout = layout
        self._config = config
        self._machine = machine
        self._journal = journal
        self._catalogue = Catalogue.load([])
        self._seen: tuple[tuple[str, int], ...] = ()
        self._written: set[str] = set()
        self._known_stamp: tuple[tuple[str, int], ...] = ()
        self._look_again = 0.0
        self._grants: dict[tuple[str, str], tuple[tuple[tuple[str, int], ...], Grant]] = {}

    def replace(self, config: Config) -> None:
        """From now on this configuration; grants are resolved anew."""
        self._config = config
        self._grants.clear()

    @property
    def default_bridge(self) -> str:
        return self._config.default_bridge

    def names(self) -> list[str]:
        self._refresh()
        return [entry.name for entry in self._catalogue.list() if self._enabled(entry.name)]

    def manifest(self, bridge: str) -> Manifest:
        """Raises `NotFoundError`, or `ManifestError` where its file is broken."""
        self._refresh()
        if not self._enabled(bridge):
            raise NotFoundError(f"the bridge {bridge!r} is switched off here")
        try:
            return self._catalogue.get(bridge)
        except NotFoundError:
            self._look_again = 0.0  # it may have come a moment ago
            self._refresh()
            return self._catalogue.get(bridge)

    def describe(self, bridge: str) -> dict[str, object]:
        """One entry of `bridgehold bridge list`."""
        entry = next(entry for entry in self._catalogue.list() if entry.name == bridge)
        manifest = entry.manifest
        return {
            "name": bridge,
            "version": manifest.version if manifest else "",
            "summary": manifest.summary if manifest else "",
            "shipped": entry.shipped,
            "fault": entry.fault,
            "operations": [f"{bridge}:{name}" for name in manifest.operations] if manifest else [],
            "problems": [problem.message for problem in self._catalogue.validate(bridge)],
        }

    async def grant(self, tenant: str, bridge: str) -> Grant:
        """The resolved grant, cached until a file it rests on changes. Raises `PolicyError`."""
        manifest = self.manifest(bridge)
        stamp = self._stamp()
        cached = self._grants.get((tenant, bridge))
        if cached is not None and cached[0] == stamp:
            return cached[1]
        grant = self.resolve_grant(tenant, manifest)
        await self._write_once(grant)
        self._grants[tenant, bridge] = (stamp, grant)
        return grant

    def resolve_grant(self, tenant: str, manifest: Manifest) -> Grant:
        """The grant, resolved from the files as they are now; writes nothing."""
        policy = self.policy(self.policy_name(manifest.name))
        return resolve(
            manifest.needs,
            policy,
            self.ceiling(tenant, manifest.name),
            self._machine,
            tenant=tenant,
            bridge=manifest.name,
            version=manifest.version,
            private_providers=[name for name, entry in self._config.providers.items() if entry.private],
        )

    def policy(self, name: str) -> Policy:
        return compose(name, self._read_policy)

    def ceiling(self, tenant: str, bridge: str) -> Policy | None:
        """The tenant's own upper bounds for `bridge`, if it has a file."""
        if not is_name(tenant):
            raise NotFoundError("no such tenant")
        path = self._layout.tenants / f"{tenant}.toml"
        if not path.exists():
            return None
        return compose_tenant(tenant, _text(path), str(path), bridge, self._read_policy)

    def policy_name(self, bridge: str) -> str:
        """Which policy the bridge runs under."""
        section = self._config.bridges.get(bridge)
        if section is not None and section.policy:
            return section.policy
        if (self._layout.policies / f"{bridge}.toml").exists() or bridge in shipped.names():
            return bridge
        return "baseline"

    def _read_policy(self, name: str) -> tuple[str, str] | None:
        path = self._layout.policies / f"{name}.toml"
        if is_name(name) and path.exists():
            return _text(path), str(path)
        return shipped.read(name)

    def _enabled(self, bridge: str) -> bool:
        section = self._config.bridges.get(bridge)
        return section is None or section.enabled

    async def _write_once(self, grant: Grant) -> None:
        if self._journal is None or grant.digest in self._written:
            return
        text = self._read_policy(grant.policy)
        if text is not None:
            loaded = PolicyLoaded(
                tenant=grant.tenant, name=grant.policy, digest=digest_bytes(text[0].encode()), file=text[1]
            )
            await self._journal.append(loaded, durable=False)
        facts = msgspec.to_builtins(grant)
        facts["sources"] = {key: str(source) for key, source in grant.sources.items()}
        await self._journal.append(GrantResolved(tenant=grant.tenant, digest=grant.digest, grant=facts))
        self._written.add(grant.digest)

    def _refresh(self) -> None:
        stamp = self._stamp()
        if stamp != self._seen or not self._catalogue.list():
            folders = [self._layout.bridges] if self._layout.bridges.is_dir() else []
            self._catalogue = Catalogue.load(folders)
            self._seen = stamp

    def _stamp(self) -> tuple[tuple[str, int], ...]:
        """Names and change times of every operator file, looked at again after a quarter of a second."""
        now = time.monotonic()
        if now >= self._look_again:
            self._known_stamp = self._read_stamp()
            self._look_again = now + _LOOK_SECONDS
        return self._known_stamp

    def _read_stamp(self) -> tuple[tuple[str, int], ...]:
        patterns = (
            (self._layout.bridges, "*/*"),
            (self._layout.policies, "*.toml"),
            (self._layout.tenants, "*.toml"),
        )
        return tuple(
            sorted(
                (str(path), path.stat().st_mtime_ns)
                for folder, pattern in patterns
                for path in folder.glob(pattern)
                if path.exists()
            )
        )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"can't read the policy: {error}", where=str(path)) from error

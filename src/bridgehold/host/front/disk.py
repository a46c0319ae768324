"""What the environments of a tenant's own bridges take on the disk, beside its ceiling."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from bridgehold.bridges.manifest import Manifest
from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.bridges.releases import RELEASES
from bridgehold.config.layout import Layout
from bridgehold.errors import BridgeholdError, BudgetError
from bridgehold.policies.units import format_size
from bridgehold.sandbox.envs.values import Environment

Built = Callable[[Manifest], list[Environment]]
"""The environments that are there for a bridge's lock."""


class EnvironmentDisk:
    """One per host. Its methods read files: call them from a thread."""

    def __init__(self, layout: Layout, ceiling: Callable[[str], int | None]) -> None:
        self._layout = layout
        self._ceiling = ceiling
        self.waiting: Callable[[str], dict[str, int]] = lambda _: {}
        """Digests and bytes of what was built for bridges that a tenant has handed in, and that wait."""

    def bound(self, manifest: Manifest) -> tuple[str, int] | None:
        """Whose own bridge it is, and its ceiling; None: nothing bounds it. Raises `PolicyError`."""
        tenant = self.owner(manifest)
        most = self._ceiling(tenant) if tenant else None
        return None if most is None else (tenant, most)

    def owner(self, manifest: Manifest) -> str:
        """Whose own bridge it is, handed in or approved; empty: everybody's."""
        for folder in (self._layout.tenants, self._layout.quarantine):
            if manifest.folder.is_relative_to(folder):
                return manifest.folder.relative_to(folder).parts[0]
        return ""

    def demand(
        self, tenant: str, most: int, built: Built, more: Environment | None = None
    ) -> Callable[[int], None]:
        """Raise `BudgetError` where the tenant's own are `most` already, or would be past it with `more`.

        What raises it for so many bytes more comes back.
        """
        found = self.waiting(tenant)
        for manifest in self._own(tenant):
            found |= {one.digest: one.bytes for one in built(manifest)}
        if more is not None:
            found[more.digest] = more.bytes
        used = sum(found.values())

        def room(size: int) -> None:
            if used + size > most:
                raise BudgetError(
                    f"the environments of {tenant}'s own bridges would take more than {format_size(most)}",
                    where="tenant.limits.environments",
                    hint="Ask for fewer packages, or an operator raises it: "
                    f"`bridgehold tenant limit {tenant} environments=…`.",
                    retry="no",
                )

        room(1 if more is None else 0)
        return room

    def _own(self, tenant: str) -> Iterator[Manifest]:
        """Every release of every bridge of the tenant's own."""
        for home in _below(self._layout.own_bridges(tenant)):
            for folder in (home, *_below(home / RELEASES)):
                with contextlib.suppress(BridgeholdError):  # what can't be read is built by nobody
                    yield load_manifest(folder)


def _below(folder: Path) -> list[Path]:
    with contextlib.suppress(OSError):
        return [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
    return []

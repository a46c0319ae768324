"""The index of secret references: names only. Keyrings can't list what they hold, so we do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridgehold.errors import SecretError
from bridgehold.host.keeper.files import read_private, write_private

FILE = "index.json"
_BOUND = 8 * 1024 * 1024


class Reference(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """That a secret exists, and what it may be used for. Never its value."""

    tenant: str
    name: str
    provider: str = ""
    """The only provider it may go to; empty: the one whose configuration names it."""
    allow_env: bool = False
    """Whether it may be put into a sandbox's environment (weakening ``env_secret``)."""
    created: str = ""
    """UTC, ISO 8601, to the second."""
    store: str = ""
    version: int = 1
    """Another one after each `set`, so that whoever holds the older value knows."""


class Index(msgspec.Struct, frozen=True, kw_only=True):
    v: int = 1
    generation: int = 0
    secrets: tuple[Reference, ...] = ()

    def find(self, tenant: str, name: str) -> Reference | None:
        for reference in self.secrets:
            if (reference.tenant, reference.name) == (tenant, name):
                return reference
        return None

    def having(self, reference: Reference) -> Index:
        """With `reference` in place of an older one of that name (pure)."""
        return self._replace((*self._without(reference.tenant, reference.name), reference))

    def without(self, tenant: str, name: str) -> Index:
        return self._replace(self._without(tenant, name))

    def _without(self, tenant: str, name: str) -> tuple[Reference, ...]:
        return tuple(r for r in self.secrets if (r.tenant, r.name) != (tenant, name))

    def _replace(self, secrets: tuple[Reference, ...]) -> Index:
        return Index(generation=self.generation + 1, secrets=tuple(sorted(secrets)))


def read_index(folder: Path) -> Index:
    """The index in `folder`; an empty one where there is none. Raises `SecretError`."""
    data = read_private(folder / FILE, _BOUND)
    if data is None:
        return Index()
    try:
        return msgspec.json.decode(data, type=Index)
    except (msgspec.DecodeError, ValueError) as error:
        raise SecretError(
            "is not an index of secrets", where=str(folder / FILE), hint="Restore it, or set secrets anew."
        ) from error


def write_index(folder: Path, index: Index) -> None:
    write_private(folder / FILE, msgspec.json.encode(index))


def stamp(folder: Path) -> tuple[int, int, int]:
    """Changes whenever the index does: inode, time and size of the file. Cheap."""
    try:
        facts = (folder / FILE).lstat()
    except OSError:
        return (0, 0, 0)
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)

"""The index of secret references: names only. Keyrings can't list what they hold, so we do."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridgehold.audit.encodings import MARK
from bridgehold.errors import SecretError
from bridgehold.keeper.files import read_private, write_private

FILE = "index.json"
_BOUND = 8 * 1024 * 1024
_MARKED = 16
"""Characters of a value that is long enough for four of them to be known."""


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
    """The names of all secrets, without a value: the file that the keeper and `bridgehold secrets` share."""

    v: int = 1
    generation: int = 0
    secrets: tuple[Reference, ...] = ()
    begins: dict[str, str] = {}
    """By ``TENANT/NAME/VERSION``, what the host may know of the value (`begin`): no store is asked for it."""

    def begin_of(self, reference: Reference) -> str | None:
        """None: the index doesn't say."""
        return self.begins.get(_place(reference.tenant, reference.name) + str(reference.version))

    def find(self, tenant: str, name: str) -> Reference | None:
        """The reference of that name, or None."""
        for reference in self.secrets:
            if (reference.tenant, reference.name) == (tenant, name):
                return reference
        return None

    def having(self, reference: Reference, begins: str) -> Index:
        """With `reference` in place of an older one of that name; its value `begins` so (pure)."""
        place = _place(reference.tenant, reference.name)
        without = self.without(reference.tenant, reference.name)
        return Index(
            generation=self.generation + 1,
            secrets=tuple(sorted((*without.secrets, reference))),
            begins={**without.begins, f"{place}{reference.version}": begins},
        )

    def without(self, tenant: str, name: str) -> Index:
        """Without the reference of that name (pure)."""
        place = _place(tenant, name)
        return Index(
            generation=self.generation + 1,
            secrets=tuple(r for r in self.secrets if (r.tenant, r.name) != (tenant, name)),
            begins={key: said for key, said in self.begins.items() if not key.startswith(place)},
        )

    def without_tenant(self, tenant: str) -> Index:
        """Without any reference of the tenant's (pure)."""
        return Index(
            generation=self.generation + 1,
            secrets=tuple(one for one in self.secrets if one.tenant != tenant),
            begins={key: said for key, said in self.begins.items() if not key.startswith(f"{tenant}/")},
        )


def begin(value: bytes) -> str:
    """What the host may know of a value: its first characters, and nothing of a short one (pure)."""
    return value[:MARK].decode("ascii", "replace") if len(value) >= _MARKED else ""


def _place(tenant: str, name: str) -> str:
    return f"{tenant}/{name}/"


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
    """Replace the index in `folder`, readable by its owner alone. Raises `SecretError`."""
    write_private(folder / FILE, msgspec.json.encode(index))


def stamp(folder: Path) -> tuple[int, int, int]:
    """Changes whenever the index does: inode, time and size of the file. Cheap."""
    try:
        facts = (folder / FILE).lstat()
    except OSError:
        return (0, 0, 0)
    return (facts.st_ino, facts.st_mtime_ns, facts.st_size)

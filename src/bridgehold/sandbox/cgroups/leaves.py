"""What the parents of both versions do with their leaves: make, tidy up, end."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.cgroups import files, owned, tenants
from bridgehold.sandbox.values import Resources, TenantShare


class _Leaf(Protocol):
    path: str
    tenant: str

    @property
    def gone(self) -> bool: ...
    @property
    def left_over(self) -> bool: ...
    def make(self, resources: Resources) -> None: ...
    def lift(self) -> None: ...
    def kill(self, *, most: int | None = ...) -> None: ...
    def remove(self, seconds: float = ...) -> None: ...


L = TypeVar("L", bound=_Leaf)


class Leaves(abc.ABC, Generic[L]):
    """Of one instance: a leaf for each session, below a folder for each tenant."""

    _locks: owned.Locks

    def __init__(self, folders: Iterable[Path]) -> None:
        """`folders`: the instance's own, the one that tells whose it is first."""
        self._tops = tuple(dict.fromkeys(folders))
        self._leaves: list[L] = []
        self._tenants = tenants.Tenants(self._tops, self._limit_tenant)

    @abc.abstractmethod
    def _leaf(self, tenant: str, name: str) -> L:
        """One that is not made yet, below the tenant's folder of that name."""

    @abc.abstractmethod
    def _limit_tenant(self, name: str, tenant: str, share: TenantShare) -> None:
        """Write a share into the tenant's folder of that name. Raises `OSError`, `BusyError`."""

    def create(self, name: str, resources: Resources, *, tenant: str, share: TenantShare | None = None) -> L:
        """A leaf with its limits, read back. `UnsupportedError` where one does not hold."""
        self.tidy()
        leaf_name = owned.leaf_name(name)
        try:
            own = self._tenants.enter(tenant, share)
        except OSError as error:
            raise UnsupportedError(f"no cgroup for {name}: {error}", where=str(self._tops[0])) from error
        leaf = self._leaf(own, leaf_name)
        try:
            leaf.make(resources)
        except BaseException as error:
            leaf.remove()
            if isinstance(error, OSError):
                raise UnsupportedError(f"no cgroup for {name}: {error}", where=leaf.path) from error
            raise
        self._leaves.append(leaf)
        return leaf

    def close(self) -> None:
        """End every session that is left, and remove the instance's folders: the locked one last."""
        for leaf in self._leaves:
            if not leaf.gone:
                leaf.lift()
                with contextlib.suppress(OSError):  # the others are ended all the same
                    leaf.kill(most=None)
                leaf.remove(seconds=0.5)
        self._tenants.keep(set())
        for folder in reversed(self._tops):
            files.remove(folder)
        self._locks.close()

    def share_out(self, tenant: str, share: TenantShare) -> None:
        """As `CgroupParent.share_out`."""
        self._tenants.enter(tenant, share)

    def tidy(self) -> None:
        """As `CgroupParent.tidy`."""
        for leaf in self._leaves:
            if leaf.left_over:
                leaf.remove()
        self._leaves = [leaf for leaf in self._leaves if not leaf.gone]
        self._tenants.keep({leaf.tenant for leaf in self._leaves})

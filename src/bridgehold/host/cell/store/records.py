"""Records on the disk: a JSON file each, in a folder of the host's own for each tenant. Its methods block."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from bridgehold import clock, reads, writes
from bridgehold.errors import NotFoundError
from bridgehold.ids import is_name, parse_name

SUFFIX = ".json"


class _Record(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def tenant(self) -> str: ...
    @property
    def at(self) -> str: ...


R = TypeVar("R", bound=_Record)


class Records(Generic[R]):
    """All tenants' records of one kind below one folder."""

    _kind: type[R]
    _id: re.Pattern[str]
    _longest: int
    """Bytes of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _nothing(self, name: str) -> NotFoundError:
        """The same, whether it never was or is another tenant's."""
        raise NotImplementedError

    def _as_of(self, now: float, one: R) -> R:
        """The record itself, unless time has changed what it says."""
        raise NotImplementedError

    def find(self, name: str) -> R:
        """As it is now, whosever it is. Raises `NotFoundError`."""
        if self._id.fullmatch(name):
            for tenant in self.tenants():
                with contextlib.suppress(NotFoundError):
                    return self._as_of(clock.now(), self._read(self._of(tenant) / f"{name}{SUFFIX}"))
        raise self._nothing(name)

    def of(self, tenant: str) -> list[R]:
        """As they are now, the newest last."""
        now = clock.now()
        return [self._as_of(now, one) for one in self._kept(tenant)]

    def tenants(self) -> tuple[str, ...]:
        """Those of whom anything is known still."""
        folders = sorted(self._folder.iterdir()) if self._folder.is_dir() else []
        return tuple(
            one.name for one in folders if is_name(one.name) and one.is_dir() and not one.is_symlink()
        )

    def write(self, one: R) -> None:
        """The record as it is now, durably; its tenant's folder is there."""
        writes.replace(self._path(one), msgspec.json.encode(one), mode=0o600)

    def _kept(self, tenant: str) -> list[R]:
        """As they are written, the newest last."""
        found, folder = [], self._of(tenant)
        for path in folder.glob(f"*{SUFFIX}") if folder.is_dir() else ():
            with contextlib.suppress(NotFoundError):
                found.append(self._read(path))
        return sorted(found, key=lambda one: (one.at, one.id))

    def _of(self, tenant: str) -> Path:
        return self._folder / parse_name(tenant, "tenant")

    def _path(self, one: R, suffix: str = SUFFIX) -> Path:
        return self._of(one.tenant) / f"{one.id}{suffix}"

    def _read(self, path: Path) -> R:
        data = reads.read_bytes(path, NotFoundError, most=self._longest)
        try:
            found = msgspec.json.decode(data, type=self._kind)
        except (msgspec.MsgspecError, ValueError):
            raise self._nothing(path.stem) from None
        if (found.tenant, found.id) != (path.parent.name, path.stem):
            raise self._nothing(path.stem)
        return found

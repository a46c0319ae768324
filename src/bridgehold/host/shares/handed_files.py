"""What a cell knows of its tenant's own files, which it may not open: its ceilings and its bridges.

The front reads the file, or says what holds in its place; it is asked again whenever the file's own facts
differ, or the front says that something has changed. So no rule is older than its file here either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from bridgehold.bridges.catalogue import Entry
from bridgehold.bridges.manifest_file import parse_manifest
from bridgehold.errors import BridgeholdError, PolicyError
from bridgehold.host.shares.openings import Openings, OwnBridge
from bridgehold.policies.files import TICK_NS, Kind, PolicyFiles, Text

Ask = Callable[[], tuple[str | None, int]]
"""What the front has of the tenant's file now, and how many tenants there are. Raises what it refuses."""
_Stamp = tuple[int, int, int, int] | None


class HandedFiles(PolicyFiles):
    """As `PolicyFiles`, for one tenant."""

    def __init__(self, policies: Path, tenants: Path, tenant: str, ask: Ask) -> None:
        super().__init__(policies, tenants)
        self._file = tenants / f"{tenant}.toml"
        self._tenant = tenant
        self._ask = ask
        self._stamp: _Stamp = None
        self._text: Text | None = None
        self._settled = False
        self._tenants = 1

    def look_again(self) -> None:
        """The front has something else now, whatever the file's facts are."""
        self._settled = False

    def names(self, kind: Kind) -> tuple[str, ...]:
        """See `PolicyFiles.names`; of tenants there is one."""
        return (self._tenant,) if kind == "tenant" else super().names(kind)

    def count_with(self, kind: Kind, names: Iterable[str]) -> int:
        """See `PolicyFiles.count_with`; of tenants as the front has said last."""
        return self._tenants if kind == "tenant" else super().count_with(kind, names)

    def own(self, kind: Kind, names: Iterable[str], *, on_disk: bool = False) -> list[Text | None]:
        """See `PolicyFiles.own`."""
        if kind == "policy":
            return super().own(kind, names, on_disk=on_disk)
        return [self._of(name) for name in names]

    def _of(self, name: str) -> Text | None:
        if name != self._tenant:
            raise PolicyError(f"this is the cell of {self._tenant}", where=name)
        stamp, told = _stamp(self._file)
        if not (self._settled and told) or stamp != self._stamp:
            text, self._tenants = self._ask()
            self._text = None if text is None else Text(text, str(self._file))
            self._stamp = stamp
            self._settled = stamp is None or time.time_ns() - max(stamp[2:]) > TICK_NS
        return self._text


def _stamp(file: Path) -> tuple[_Stamp, bool]:
    """None: it isn't there; and whether that can be told."""
    try:
        facts = file.stat()
    except FileNotFoundError:
        return None, True
    except OSError:
        return None, False
    return (facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns), True


class HandedBridges:
    """The bridges that are one tenant's alone, of whose folder its cell sees nothing."""

    def __init__(self, tenant: str, openings: Openings) -> None:
        self._tenant = tenant
        self._openings = openings
        self._digest = ""
        self._entries: tuple[Entry, ...] = ()

    def __call__(self, anew: bool) -> tuple[Entry, ...]:
        """As the front has them, which looks `anew`: the same value for as long as they are the same."""
        digest, found = self._openings.bridges(self._digest, anew)
        if digest != self._digest:
            self._entries, self._digest = tuple(map(self._entry, found)), digest
        return self._entries

    def _entry(self, own: OwnBridge) -> Entry:
        folder, manifest, fault = Path(own.folder), None, own.fault
        if not fault:
            try:
                manifest = parse_manifest(own.text, folder)
                manifest = msgspec.structs.replace(manifest, release=own.release)
            except BridgeholdError as error:
                fault = error.message
        return Entry(
            name=own.name, folder=folder, shipped=False, tenant=self._tenant, manifest=manifest, fault=fault
        )

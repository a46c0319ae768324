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
from bridgehold.bridges.releases import CURRENT
from bridgehold.errors import BridgeholdError, PolicyError
from bridgehold.host.shares.openings import Openings, OwnBridge
from bridgehold.policies.files import TICK_NS, Kind, PolicyFiles, Text
from bridgehold.policies.reviewed import SUFFIX

Ask = Callable[[], tuple[str | None, str | None, int]]
"""What the front has of the tenant's file and of its review now, and how many tenants there are. Raises what
it refuses."""
_SETTLED_NS = 2_000_000_000
"""What changed within this time may change again under the same time stamp."""
_Stamp = tuple[int, int, int, int] | None


class HandedFiles(PolicyFiles):
    """As `PolicyFiles`, for one tenant."""

    def __init__(self, policies: Path, tenants: Path, tenant: str, ask: Ask) -> None:
        super().__init__(policies, tenants)
        self._files = {name: tenants / f"{name}.toml" for name in (tenant, f"{tenant}{SUFFIX}")}
        self._tenant = tenant
        self._ask = ask
        self._facts: list[_Stamp] = []
        """Of the files, and of their folder: one that can't be read any more refuses what lies in it."""
        self._texts: dict[str, Text | None] = {}
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
        if kind != "tenant":
            return super().own(kind, names, on_disk=on_disk)
        return [self._of(name) for name in names]

    def _of(self, name: str) -> Text | None:
        if name not in self._files:
            raise PolicyError(f"this is the cell of {self._tenant}", where=name)
        seen = [_stamp(path) for path in self._files.values()]
        stamps = [*(stamp for stamp, _ in seen), _stamp(self._files[self._tenant].parent)[0]]
        if not (self._settled and all(told for _, told in seen)) or stamps != self._facts:
            own, review, self._tenants = self._ask()
            self._texts = {
                name: None if text is None else Text(text, str(path))
                for (name, path), text in zip(self._files.items(), (own, review), strict=True)
            }
            self._facts = stamps
            newest = max((each for one in stamps if one for each in one[2:]), default=0)
            self._settled = time.time_ns() - newest > TICK_NS
        return self._texts[name]


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
    """The bridges that are one tenant's alone: of their folder a cell sees only that it has changed."""

    def __init__(self, folder: Path, tenant: str, openings: Openings) -> None:
        """`folder`: where they lie."""
        self._folder = folder
        self._tenant = tenant
        self._openings = openings
        self._digest = ""
        self._entries: tuple[Entry, ...] = ()
        self._facts: list[tuple[_Stamp, bool]] = []
        self._settled = False

    def __call__(self, anew: bool) -> tuple[Entry, ...]:
        """As the front has them, which looks `anew`: the same value for as long as they are the same."""
        stamps = self._look()
        if anew or not self._settled or stamps != self._facts:
            digest, found = self._openings.bridges(self._digest, anew or stamps != self._facts)
            if digest != self._digest:
                self._entries, self._digest = tuple(map(self._entry, found)), digest
                stamps = self._look()
            newest = max((one for stamp, _ in stamps if stamp for one in stamp[2:]), default=0)
            self._facts, self._settled = stamps, time.time_ns() - newest > _SETTLED_NS
        return self._entries

    def _look(self) -> list[tuple[_Stamp, bool]]:
        """Facts of all that they are read from, and may come to be."""
        own = [(self._folder / entry.name, entry.folder) for entry in self._entries]
        files = [path for place, folder in own for path in (place, place / CURRENT, folder / "bridge.toml")]
        return [_stamp(path) for path in (self._folder.parent, self._folder, *files)]

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

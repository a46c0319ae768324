"""The bridges of this host's folders, read again where their files have changed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from bridgehold.bridges.catalogue import TENANTS_BRIDGES, Catalogue, Entry
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.layout import Layout
from bridgehold.ids import is_name

_LOOK_SECONDS = 0.25
_SETTLED_SECONDS = 2.0
"""A file that changed within this time may change again under the same time stamp."""

Stamp = tuple[tuple[str, int, int, int, int], ...]


class SeenBridges:
    """One per registry. `refresh` before `catalogue`, where it is `due`."""

    def __init__(self, layout: Layout, own: Callable[[bool], tuple[Entry, ...]] | None) -> None:
        """`own`: see `Registry`."""
        self._layout = layout
        self._of_tenants = own
        self.catalogue = Catalogue.load([])
        self.due = 0.0
        """When the folders are looked at again; 0: at the next question."""
        self._seen: Stamp | None = None
        self._seen_own: tuple[Entry, ...] = ()
        self._own: set[str] = set()
        """The operator's bridges that were seen: where one is gone, no shipped one takes its place."""

    def look_again(self) -> None:
        """One was changed just now: whoever asks next sees it."""
        self._seen, self.due = None, 0.0

    def let_go(self, names: Iterable[str]) -> None:
        """These are gone on purpose."""
        self._own -= set(names)  # one that is back meanwhile is missed again when it goes
        self.look_again()

    def gone(self) -> list[Path]:
        """Of the operator's own, which were here and aren't any more."""
        self.refresh()
        there = {entry.name for entry in self.catalogue.list() if _of_all(entry) and entry.folder.is_dir()}
        return [self._layout.bridges / name for name in sorted(self._own - there)]

    def sound(self) -> list[Manifest]:
        """Of every bridge whose file is sound, as they were seen last."""
        return [entry.manifest for entry in self.catalogue.list() if entry.manifest is not None]

    def describe(self, entry: Entry) -> dict[str, object]:
        """One entry of `bridgehold bridge list`."""
        bridge, manifest = entry.name, entry.manifest
        problems = self.catalogue.validate(bridge, entry.tenant)
        return {
            "name": bridge,
            "tenant": entry.tenant,
            "version": manifest.version if manifest else "",
            "summary": manifest.summary if manifest else "",
            "shipped": entry.shipped,
            "fault": entry.fault,
            "operations": [f"{bridge}:{name}" for name in manifest.operations] if manifest else [],
            "problems": [problem.message for problem in problems],
        }

    def _load(self) -> Catalogue:
        tenants = self._layout.tenants if self._of_tenants is None else None
        entries = Catalogue.load([self._layout.bridges], tenants, self.sound()).list()
        entries += self._seen_own
        self._own |= {entry.name for entry in entries if _of_all(entry)}
        return Catalogue(self._missed(entry) if entry.shipped else entry for entry in entries)

    def _missed(self, shipped: Entry) -> Entry:
        """A shipped bridge, or what is wrong where the operator's own of its name is gone."""
        if shipped.name not in self._own:
            return shipped
        folder = self._layout.bridges / shipped.name
        fault = "it was here and is gone, and no shipped bridge takes its place: put it back, or, if it is "
        return Entry(
            name=shipped.name,
            folder=folder,
            shipped=False,
            fault=f"{fault}gone on purpose, `bridgehold reload`",
        )

    def refresh(self) -> None:
        """Look at the bridges' files again, a quarter of a second after the last time."""
        now = time.monotonic()
        if now < self.due:
            return
        stamp = _stamp(self._layout, self._of_tenants is None)
        own = self._of_tenants(not self.due) if self._of_tenants is not None else ()
        if stamp != self._seen or own is not self._seen_own:
            self._seen_own = own
            self.catalogue = self._load()
            newest = max((changed for *_, changed in stamp), default=0)
            settled = time.time() - newest / 1e9 > _SETTLED_SECONDS
            self._seen = stamp if settled else None
        self.due = now + _LOOK_SECONDS


def _of_all(entry: Entry) -> bool:
    """Whether it is the operator's own for every tenant."""
    return not entry.shipped and not entry.tenant


def _stamp(layout: Layout, of_tenants: bool) -> Stamp:
    """Facts of every bridge's folder and files, in order; what can't be looked at counts as well."""
    homes = _below(layout.tenants) if of_tenants else []
    own = [home / TENANTS_BRIDGES for home in homes if is_name(home.name)]
    places = [place for folder in (layout.bridges, *own) for place in (folder, *_below(folder))]
    return tuple(_facts(path) for place in places for path in (place, *_below(place)))


def _below(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []


def _facts(path: Path) -> tuple[str, int, int, int, int]:
    try:
        facts = path.stat()
    except OSError as error:
        return (str(path), -(error.errno or 1), 0, 0, 0)
    return (str(path), facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)

"""Which bridges there are: shipped, the operator's for all, tenants' own. A broken one stops no other.

A bridge in a tenant's folder (``tenants/NAME/bridges``) is that tenant's alone: nobody else finds it, and it
takes no other bridge's name.
"""

from __future__ import annotations

import importlib.resources
import re
import stat
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bridgehold import reads
from bridgehold.bridges import releases
from bridgehold.bridges.manifest_file import load_manifest
from bridgehold.bridges.releases import CURRENT, RELEASES
from bridgehold.errors import BridgeholdError, ManifestError, NotFoundError, PolicyError
from bridgehold.ids import is_name, nearest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from bridgehold.bridges.frames import ReadyFrame
    from bridgehold.bridges.manifest import Manifest

TENANTS_BRIDGES = "bridges"
"""The folder of a tenant's own bridges, in that tenant's folder."""
_READ: dict[Path, tuple[Entry, ...]] = {}
"""Shipped bridges as this process has read them: they come with the code that it runs."""
WRITE_REQUIREMENTS = "Write what it asks for into it, a package a line; an empty file asks for nothing."
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]{0,199})(?![A-Za-z0-9._-])")
MOST_ASKED_BYTES, MOST_LOCK_BYTES = 256 * 1024, 8 * 1024 * 1024
"""Of files that a bridge's author wrote: as much as is built of them."""
MOST_PACKAGES, MOST_PROBLEMS = 5_000, 20
"""Of one such file; of what is told of a bridge's packages."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One bridge of the catalogue. `fault` says why its manifest can't be used; empty: it can."""

    name: str
    folder: Path
    shipped: bool
    tenant: str = ""
    """Whose alone it is; empty: everybody's."""
    manifest: Manifest | None = None
    fault: str = ""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something that would keep a bridge from starting, and its remedy."""

    kind: Literal["file", "package", "python", "secret", "manifest"]
    message: str
    hint: str = ""


Problems = list[Problem]


class Catalogue:
    """Bridges by tenant and name. An operator's bridge takes the place of a shipped one of its name."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {(entry.tenant, entry.name): entry for entry in entries}

    @classmethod
    def load(
        cls, folders: Iterable[Path] = (), tenants: Path | None = None, known: Iterable[Manifest] = ()
    ) -> Catalogue:
        """The shipped bridges, and every sub-folder of `folders` that holds a ``bridge.toml``.

        `tenants`: a folder with tenants' folders, whose ``bridges`` are theirs alone. `known`: what was found
        before; no text is parsed again that has not changed since.
        """
        earlier = {manifest.folder: manifest for manifest in known}
        entries = list(_shipped(shipped_folder()))
        for folder in folders:
            entries += _entries(folder, earlier, shipped=False)
        shared = {entry.name for entry in entries}
        for folder in tenant_folders(tenants) if tenants is not None else ():
            entries += _tenants_entries(folder, shared, earlier)
        return cls(entries)

    def list(self) -> list[Entry]:
        """All of them by name, broken ones and tenants' own included."""
        return sorted(self._entries.values(), key=lambda entry: (entry.name, entry.tenant))

    def get(self, name: str, tenant: str = "") -> Manifest:
        """As `tenant` sees it. Raises `NotFoundError`, or `ManifestError` where the manifest is broken."""
        entry = self._entry(name, tenant)
        if entry.manifest is None:
            raise ManifestError(entry.fault, where=str(entry.folder / "bridge.toml"))
        return entry.manifest

    def validate(
        self,
        name: str,
        tenant: str = "",
        *,
        pythons: Collection[str] | None = None,
        secrets: Collection[str] | None = None,
    ) -> Problems:
        """What would keep `name` from starting: its files, its lock, its Python, its secrets.

        `pythons` are the versions at hand (``3.11.2``) and `secrets` the names the tenant has; what
        is None is not checked. Reads files, runs nothing. Raises `NotFoundError`.
        """
        entry = self._entry(name, tenant)
        if entry.manifest is None:
            return [Problem(kind="manifest", message=entry.fault)]
        manifest = entry.manifest
        found = problems_of(manifest)
        if pythons is not None:
            found += _python_problems(manifest, pythons)
        if secrets is not None:
            found += [
                Problem(
                    kind="secret",
                    message=f"the secret {secret.name!r} is not set",
                    hint=f"bridgehold secrets set {secret.name}",
                )
                for secret in manifest.needs.secrets
                if secret.name not in secrets
            ]
        return found

    def _entry(self, name: str, tenant: str) -> Entry:
        entry = self._entries.get((tenant, name)) or self._entries.get(("", name))
        if entry is None:
            seen = sorted({name for whose, name in self._entries if whose in ("", tenant)})
            there = f"There are: {', '.join(seen) or 'none'}."
            raise NotFoundError(
                f"there is no bridge {name[:80]!r}{nearest(name, seen)}",
                hint=there if is_name(name) else f"{NO_NAME.capitalize()}.",
            )
        return entry


def problems_of(manifest: Manifest) -> Problems:
    """What its files lack to be started."""
    return [*_file_problems(manifest), *_lock_problems(manifest)]


def lock_command(manifest: Manifest) -> str:
    """What to type for a lock: what lies in a tenant's folder is named with the tenant."""
    own, home, tenants = manifest.folder.parents[:3]
    tenant = f" --tenant {home.name}" if (own.name, tenants.name) == (TENANTS_BRIDGES, "tenants") else ""
    return f"bridgehold bridge lock {manifest.name}{tenant}"


def shipped_folder() -> Path:
    """Where the shipped bridges' folders are."""
    return Path(str(importlib.resources.files("bridgehold.bridges"))) / "shipped"


def check_ready(manifest: Manifest, ready: ReadyFrame) -> None:
    """Raises `ManifestError` where what the code offers is not what the manifest says."""
    faults = []
    if ready.bridge != manifest.name:
        faults.append(f"it calls itself {ready.bridge[:80]!r}")
    if ready.version != manifest.version:
        faults.append(f"its version is {ready.version[:80]!r}, the manifest says {manifest.version!r}")
    offered, declared = set(ready.operations), set(manifest.operations)
    if missing := sorted(declared - offered):
        faults.append(f"the code lacks {', '.join(missing)}")
    if extra := sorted(offered - declared):
        faults.append(f"the manifest lacks {', '.join(extra)}"[:500])
    if len(offered) != len(ready.operations):
        faults.append("it names an operation twice")
    if not _satisfies(ready.python, manifest.python):
        faults.append(f"it runs on Python {ready.python[:40]!r}, the manifest wants {manifest.python!r}")
    if faults:
        raise ManifestError(
            f"the bridge {manifest.name} contradicts its manifest: {'; '.join(faults)}",
            hint="Make the decorated operations and bridge.toml say the same.",
            where=str(manifest.file),
        )


def _shipped(folder: Path) -> tuple[Entry, ...]:
    """Read once, for this process and what is forked from it; again, while one can't be read."""
    found = _READ.get(folder) or tuple(_entries(folder, {}, shipped=True))
    if not any(entry.fault for entry in found):
        _READ[folder] = found
    return found


def _entries(
    folder: Path, known: Mapping[Path, Manifest], *, shipped: bool, submitted: bool = False
) -> Iterable[Entry]:
    """Raises `ManifestError` where `folder` can't be looked at: nobody's bridge takes its bridges' places.

    `submitted`: a bridge's folder may hold releases, one of which is in use (`releases`).
    """
    try:
        places = sorted(folder.iterdir())
    except FileNotFoundError:
        if not folder.is_symlink():
            return
        raise ManifestError("a link that leads nowhere", where=str(folder)) from None
    except OSError as error:
        hint = f"The host's own user must be able to list it: `chmod o+rx {folder}`."
        raise ManifestError(f"can't be read: {error.strerror}", where=str(folder), hint=hint) from error
    for place in places:
        try:
            used = _in_use(place) if submitted else None
            if not _holds_bridge(place) if used is None else not used:
                continue
            lies = releases.folder_of(place, used) if used else place
            manifest = load_manifest(lies, known.get(lies))
            if manifest.name != place.name:
                raise ManifestError(f"{place.name} holds a bridge that calls itself {manifest.name!r}")
        except BridgeholdError as error:
            if is_name(place.name):
                yield Entry(name=place.name, folder=place, shipped=shipped, fault=error.message)
            continue
        if used:
            manifest = msgspec.structs.replace(manifest, release=used)
        yield Entry(name=place.name, folder=manifest.folder, shipped=shipped, manifest=manifest)


def _in_use(place: Path) -> str | None:
    """The digest of the release of `place` that is in use; empty: none is; None: it has no releases.

    Raises `ManifestError`, `PolicyError`.
    """
    file = place / CURRENT
    text = reads.read_text(file, PolicyError, or_none=True) if place.is_dir() else ""
    if not text:
        return None
    if file.is_symlink() or (place / RELEASES).is_symlink():
        raise ManifestError("is a link: a tenant's bridge lies in its own folder")
    if (place / "bridge.toml").exists():
        raise ManifestError(f"a bridge that is kept by hand, and {CURRENT} beside it: one of them has to go")
    return releases.parse(text, str(file)).digest


def tenant_folders(tenants: Path) -> Iterable[Path]:
    """Folders of tenants, which are named as they are.

    None where that can't be seen: nothing takes their bridges' places, and no ceiling is read there either.
    """
    try:
        return [place for place in sorted(tenants.iterdir()) if is_name(place.name) and place.is_dir()]
    except OSError:
        return []


def passed_over(bridges: Path, tenants: Path) -> Iterable[tuple[Path, str]]:
    """Folders that lie where bridges do, or tenants', and are none: (place, why nothing reads it).

    None where that can't be seen; hidden ones are nobody's mistake.
    """
    own = [home / TENANTS_BRIDGES for home in tenant_folders(tenants)]
    for folder in (bridges, *own):
        for place in _folders(folder):
            holds = {CURRENT} if folder != bridges else set()
            try:
                holds = (holds | {"bridge.toml"}) & {one.name for one in place.iterdir()}
            except OSError:
                continue  # a fault of the catalogue's, where it is a bridge's
            if not holds:
                yield place, "it holds no bridge.toml"
            elif not is_name(place.name):
                yield place, NO_NAME
    for home in _folders(tenants):
        if not is_name(home.name) and (home / TENANTS_BRIDGES).is_dir():
            yield home, NO_NAME.replace("bridge's", "tenant's")


NO_NAME = "its name is no bridge's: lower-case letters, digits, '-', '_', starting with a letter; at most 63"


def _folders(folder: Path) -> list[Path]:
    try:
        return [one for one in sorted(folder.iterdir()) if one.name[0] not in "._" and one.is_dir()]
    except OSError:
        return []


def _tenants_entries(home: Path, shared: Collection[str], known: Mapping[Path, Manifest]) -> Iterable[Entry]:
    """A tenant's own bridges. Whatever is wrong with its folder is wrong for this tenant alone.

    A link could lead to another tenant's bridge, and a name that all have means the bridge of all.
    """
    folder = home / TENANTS_BRIDGES
    broken = Entry(name=TENANTS_BRIDGES, folder=folder, shipped=False, tenant=home.name)
    if any(place.is_symlink() for place in (home, folder)):
        yield msgspec.structs.replace(broken, fault="is a link: a tenant's bridges lie in its own folder")
        return
    try:
        found = list(_entries(folder, known, shipped=False, submitted=True))
    except ManifestError as error:
        yield msgspec.structs.replace(broken, fault=error.message)
        return
    for entry in found:
        fault = entry.fault
        if entry.folder.is_symlink() or (folder / entry.name).is_symlink():
            fault = "is a link: a tenant's bridge lies in its own folder"
        elif entry.name in shared:
            fault = f"every tenant has a bridge {entry.name!r}: give this one another name"
        manifest = None if fault else entry.manifest
        yield msgspec.structs.replace(entry, tenant=home.name, fault=fault, manifest=manifest)


def _holds_bridge(place: Path) -> bool:
    """Raises `ManifestError` where that can't be seen: a shipped bridge must not take its place then."""
    try:
        facts = place.stat()
        return stat.S_ISDIR(facts.st_mode) and (place / "bridge.toml") in place.iterdir()
    except FileNotFoundError:
        raise ManifestError(f"{place} is a link that leads nowhere") from None
    except OSError as error:
        raise ManifestError(f"{place} can't be read: {error.strerror}") from error


def _file_problems(manifest: Manifest) -> Iterable[Problem]:
    if manifest.foreign:
        yield from _lock_files(manifest)
        return
    module = manifest.entry.partition(":")[0].split(".")
    base = manifest.folder.joinpath(*module)
    if not (base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()):
        yield Problem(
            kind="file",
            message=f"the entry {manifest.entry!r} has no file in {manifest.folder}",
            hint=f"Put the class into {module[-1]}.py beside bridge.toml.",
        )
    yield from _lock_files(manifest)


def _lock_files(manifest: Manifest) -> Iterable[Problem]:
    for path, hint in (
        (manifest.lock_path, lock_command(manifest)),
        (manifest.requirements_path, WRITE_REQUIREMENTS),
    ):
        if path is not None and (path.is_symlink() or not path.is_file()):
            yield Problem(kind="file", message=f"{path} is no regular file", hint=hint)


def _lock_problems(manifest: Manifest) -> Iterable[Problem]:
    hint = lock_command(manifest)
    try:
        asked = _requirements(manifest.requirements_path, MOST_ASKED_BYTES)
        locked = _requirements(manifest.lock_path, MOST_LOCK_BYTES)
    except ManifestError as error:
        yield Problem(kind="file", message=f"{error.where} {error.message}", hint=hint)
        return
    missing = (name for name in sorted(asked.keys() - locked.keys()) if ";" not in asked[name])
    lines = [f"{name} is asked for and not in the lock" for name in islice(missing, MOST_PROBLEMS)]
    unhashed = (name for name, line in locked.items() if "--hash=sha256:" not in line)
    lines += [f"{name} stands in the lock without a hash" for name in islice(unhashed, MOST_PROBLEMS)]
    yield from (Problem(kind="package", message=line, hint=hint) for line in lines[:MOST_PROBLEMS])


def _requirements(path: Path | None, most: int) -> dict[str, str]:
    """Canonical name to logical line; comments and options are left out. Raises `ManifestError`."""
    if path is None or path.is_symlink() or not path.is_file():
        return {}
    data = reads.read_bytes(path, ManifestError, most=most)
    found: dict[str, str] = {}
    for line in data.decode("utf-8", "replace").replace("\\\n", " ").splitlines():
        if match := _REQUIREMENT.match(line.strip()):
            found[canonicalize_name(match[1])] = line
            if len(found) > MOST_PACKAGES:
                raise ManifestError(f"names more than {MOST_PACKAGES} packages", where=str(path))
    return found


def _python_problems(manifest: Manifest, pythons: Collection[str]) -> Iterable[Problem]:
    if not any(_satisfies(version, manifest.python) for version in pythons):
        yield Problem(
            kind="python",
            message=f"no Python {manifest.python} is at hand, only {', '.join(sorted(pythons)) or 'none'}",
            hint="Install one, for example with `uv python install`, or widen `python` in bridge.toml.",
        )


def _satisfies(version: str, specifier: str) -> bool:
    try:
        return SpecifierSet(specifier).contains(Version(version), prereleases=True)
    except InvalidVersion:
        return False

"""The operator's policies and tenants, from their folders: read whole, or refused.

That a file is not there must be certain before anything takes its place: a folder or a file that
can't be looked at, a link that leads nowhere, half a file and an empty one are refusals, and so is a
file that was here: only an operator's word says that it is gone on purpose. No text is kept between two
readings, so that no reading is older than the file.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import msgspec

from bridgehold.error_texts import placed
from bridgehold.errors import PolicyError
from bridgehold.ids import Digest, digest_bytes, is_name
from bridgehold.policies import shipped
from bridgehold.policies.load import MAX_BYTES

Kind = Literal["policy", "tenant", "approved", "review", "ceiling"]
"""The last three lie beside what they are of, under its name: approved rules and reviews of policies, and
reviews of tenants' ceilings."""
_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_SUFFIX = ".toml"
_BESIDE: dict[Kind, tuple[Kind, str]] = {
    "approved": ("policy", ".approved"),
    "review": ("policy", ".review"),
    "ceiling": ("tenant", ".review"),
}
"""In whose folder, and what their names end in."""
_FORMS: dict[Kind, str] = {"policy": "NAME.toml or BRIDGE@TENANT.toml", "tenant": "NAME.toml"}
TICK_NS = 50_000_000
"""A folder that changed within this time may change again under the same time stamp."""
_GONE = "it was here and is gone"
_MEND = "Nothing runs under other rules meanwhile: mend it, then `bridgehold policy check`."
_FILE_GONE = "Nothing takes its place: put it back, or, if it is gone on purpose, `bridgehold reload`."
_FOLDER_GONE = "Nothing takes its place: put it back, or, if it is gone on purpose, start the host anew."


class Text(msgspec.Struct, frozen=True):
    """One file's text and where it stands: a path, or ``shipped:NAME.toml``."""

    text: str
    file: str

    @property
    def digest(self) -> Digest:
        """SHA-256 of the text in UTF-8."""
        return digest_bytes(self.text.encode())


class PolicyFiles:
    """Two folders, and which files were ever seen in them since this was made.

    A file that was seen and is gone is a refusal until it is back or `let_go`; a folder until it is back.
    """

    def __init__(self, policies: Path, tenants: Path) -> None:
        self._folders: dict[Kind, Path] = {"policy": policies, "tenant": tenants}
        self._seen: set[Kind] = set()
        self._known: dict[Kind, set[str]] = {"policy": set(), "tenant": set()}
        self._stamps: dict[Kind, tuple[int, int]] = {}
        self._instead: dict[tuple[Kind, str], str] = {}
        self.on_instead: Callable[[Kind, str], None] = _ignored
        """Told of each name that something else is put, or no longer put, in the place of."""
        for kind in self._folders:
            with contextlib.suppress(PolicyError):  # whoever reads is told
                self._listed(kind)

    def read(self, kind: Kind, name: str) -> Text | None:
        """The operator's file of that name; of policies else the shipped one. None: there is neither.

        Raises `PolicyError` where that can't be told, or the file can't be read.
        """
        own = self.own(kind, [name])[0] if is_file_of(kind, name) else None
        return own or _shipped(kind, name)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """Names of the operator's own files, sorted. Raises `PolicyError`."""
        folder, end = _BESIDE.get(kind, (kind, ""))
        listed, end = self._listed(folder), end + _SUFFIX
        names = (name.removesuffix(end) for name in listed if name.endswith(end))
        return tuple(sorted(name for name in names if is_file_of(kind, name)))

    def count_with(self, kind: Kind, names: Iterable[str]) -> int:
        """How many there are, `names` included: as it was seen last, and without a look."""
        return len(self._known[kind].union(names))

    def put_instead(self, kind: Kind, name: str, text: str) -> None:
        """Every reader has `text` in place of the file, which can't be written, nor, perhaps, be read; empty:
        no more of that.
        """
        if text:
            self._instead[kind, name] = text
        else:
            self._instead.pop((kind, name), None)
        self.on_instead(kind, name)

    def gone(self) -> tuple[Path, ...]:
        """Files that were seen and are not there, sorted; none of a folder that can't be listed."""
        found = []
        for kind, folder in self._folders.items():
            with contextlib.suppress(PolicyError):
                left = self._known[kind] - _stems(kind, self._listed(kind))
                found += [folder / f"{name}{_SUFFIX}" for name in left]
        return tuple(sorted(found))

    def let_go(self, files: Iterable[Path]) -> None:
        """An operator says of some of `gone` that it is so on purpose: from now on they never were.

        One that is back meanwhile stays known, and so do all where that can't be told.
        """
        left = set(files).intersection(self.gone())
        for kind, folder in self._folders.items():
            names = {path.stem for path in left if path.parent == folder}
            self._known[kind] -= names
            for name in names:
                self.put_instead(kind, name, "")
            self._stamps.pop(kind, None)

    def faults(self, kind: Kind) -> Iterator[str]:
        """What in the folder can't be read, or would never be: ``PLACE: what is wrong``."""
        try:
            listed = self._listed(kind)
        except PolicyError as error:
            yield placed(error)
            return
        for name in sorted(listed):
            if name.startswith("."):
                continue
            if kind == "tenant" and is_name(name) and (self._folders[kind] / name).is_dir():
                continue  # its own bridges
            if name.removesuffix(_SUFFIX) in _stems(kind, [name]) and not _is_file_name(kind, name):
                continue  # what lies beside a policy is looked at with it
            if not _is_file_name(kind, name):
                yield f"{self._folders[kind] / name}: nothing reads this: a {kind}'s file is {_FORMS[kind]}"
                continue
            try:
                self.own(kind, [name.removesuffix(_SUFFIX)])
            except PolicyError as error:
                yield placed(error)

    def _listed(self, kind: Kind) -> list[str]:
        path = self._folders[kind]
        try:
            folder = os.open(path, _FLAGS | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.ENOENT or kind in self._seen or path.is_symlink():
                raise _unreadable(path, error, _FOLDER_GONE) from error
            return []
        self._seen.add(kind)
        try:
            listed = os.listdir(folder)  # noqa: PTH208 - of an open folder, so that it is the one that was opened
        except OSError as error:
            raise _unreadable(self._folders[kind], error) from error
        finally:
            os.close(folder)
        self._known[kind].update(_stems(kind, listed))
        return listed

    def _notice(self, kind: Kind, stamp: tuple[int, int]) -> None:
        """Remember what is in the folder, which has changed: anything may rest on it later."""
        self._listed(kind)
        if time.time_ns() - max(stamp) > TICK_NS:
            self._stamps[kind] = stamp

    def own(self, kind: Kind, names: Iterable[str], *, on_disk: bool = False) -> list[Text | None]:
        """The operator's own files of these names, as its folder has them; None for each that is not there.

        `on_disk`: whatever was put in place of files. Raises `PolicyError` where that can't be told, or one
        can't be read. From any thread.
        """
        names, path = tuple(names), self._folders[kind]
        held: dict[str, str] = {}
        if self._instead and not on_disk:
            held = {name: text for name in names if (text := self._instead.get((kind, name)))}
        try:
            folder = os.open(path, _FLAGS | os.O_DIRECTORY)
        except OSError as error:
            if error.errno != errno.ENOENT or kind in self._seen or path.is_symlink():
                raise _unreadable(path, error, _FOLDER_GONE) from error
            if not held:
                return [None] * len(names)
            return [
                Text(held[name], str(path / f"{name}{_SUFFIX}")) if name in held else None for name in names
            ]
        self._seen.add(kind)
        found: list[Text | None] = []
        try:
            facts = os.fstat(folder)
            stamp = (facts.st_mtime_ns, facts.st_ctime_ns)
            if self._stamps.get(kind) != stamp:
                self._notice(kind, stamp)
            for name in names:
                path = self._folders[kind] / f"{name}{_SUFFIX}"
                if name in held:
                    found.append(Text(held[name], str(path)))
                    continue
                try:
                    os.stat(path.name, dir_fd=folder, follow_symlinks=False)
                except FileNotFoundError:
                    if name in self._known[kind]:
                        raise FileNotFoundError(errno.ENOENT, _GONE) from None
                    found.append(None)
                else:
                    found.append(Text(_read(path, folder), str(path)))
        except OSError as error:
            raise _unreadable(path, error, _FILE_GONE) from error
        finally:
            os.close(folder)
        return found


class Readings:
    """What one decision rests on: everything that was looked for, and what was found."""

    def __init__(self, files: PolicyFiles) -> None:
        self._files = files
        self._found: dict[tuple[Kind, str], Text | None] = {}
        self._own: dict[Kind, dict[str, Text | None]] = {}
        """Of what was found, the operator's own: what else there is comes with the package."""
        self.until = 0
        """When something of it counts no more, in seconds of the epoch; 0: never."""

    def read(self, kind: Kind, name: str) -> Text | None:
        """As `PolicyFiles.read`, once: one decision sees one text of each name."""
        key = (kind, name)
        if key not in self._found:
            own = None
            if is_file_of(kind, name):
                folder, end = _BESIDE.get(kind, (kind, ""))  # one look at it tells of all that is there
                file = f"{name}{end}"
                (own,) = self._files.own(folder, [file])
                self._own.setdefault(folder, {})[file] = own
            self._found[key] = own or _shipped(kind, name)
        return self._found[key]

    def policy(self, name: str) -> tuple[str, str] | None:
        """As `compose` takes it: (text, file)."""
        found = self.read("policy", name)
        return None if found is None else (found.text, found.file)

    @property
    def found(self) -> Mapping[tuple[Kind, str], Text | None]:
        """What was read so far, by kind and name; None where there was no such file. Read-only."""
        return MappingProxyType(self._found)

    def still_true(self) -> bool:
        """Whether reading everything again gives the same. Raises `PolicyError` as reading does."""
        return all(self._files.own(kind, own) == [*own.values()] for kind, own in self._own.items())

    def sources(self) -> tuple[str, ...]:
        """``FILE sha256:…`` of every text, sorted."""
        texts = (text for text in self._found.values() if text is not None)
        return tuple(sorted(f"{text.file} {text.digest}" for text in texts))

    def digest(self) -> Digest:
        """Of `sources`: it changes with any byte of the chain and of the ceiling."""
        return digest_bytes(msgspec.json.encode(self.sources()))


def _ignored(_kind: Kind, _name: str) -> None:
    return None


def of_tenant(bridge: str, tenant: str) -> str:
    """The name of a policy that the bridge runs under for this tenant alone."""
    return f"{bridge}@{tenant}"


def is_file_of(kind: Kind, name: str) -> bool:
    """Whether a file of the operator's can have that name: of policies also ``BRIDGE@TENANT``."""
    bridge, at, tenant = name.partition("@")
    alone = kind in {"tenant", "ceiling"}
    return is_name(bridge) and ((not at and kind != "approved") or (not alone and is_name(tenant)))


def _stems(kind: Kind, files: Iterable[str]) -> set[str]:
    """Of files that are read, or would be, in the kind's folder."""
    found = {name.removesuffix(_SUFFIX) for name in files if name.endswith(_SUFFIX)}
    beside = [(other, end) for other, (folder, end) in _BESIDE.items() if folder == kind]
    return {
        stem
        for stem in found
        if is_file_of(kind, stem)
        or any(stem.endswith(end) and is_file_of(other, stem.removesuffix(end)) for other, end in beside)
    }


def _is_file_name(kind: Kind, name: str) -> bool:
    return name.endswith(_SUFFIX) and is_file_of(kind, name.removesuffix(_SUFFIX))


def _shipped(kind: Kind, name: str) -> Text | None:
    given = shipped.read(name) if kind == "policy" else None
    return Text(*given) if given is not None else None


def _read(path: Path, folder: int) -> str:
    """Raises `OSError`, and `PolicyError` for what is no whole text."""
    opened = os.open(path.name, _FLAGS, dir_fd=folder)
    try:
        before = os.fstat(opened)
        if not stat.S_ISREG(before.st_mode):
            raise PolicyError("is no regular file", where=str(path))
        if before.st_size > MAX_BYTES:
            raise PolicyError(f"longer than {MAX_BYTES} bytes", where=str(path))
        data = os.read(opened, MAX_BYTES + 1)
        after = os.fstat(opened)
    finally:
        os.close(opened)
    facts = [(one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in (before, after)]
    if facts[0] != facts[1] or len(data) != after.st_size:
        raise PolicyError(
            "changes while it is read", where=str(path), hint="Write a new file beside it and rename it."
        )
    if not data:
        raise PolicyError(
            "is empty", where=str(path), hint="A file that says nothing on purpose holds a comment."
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PolicyError(f"is not UTF-8: {error.reason}", where=str(path)) from error


def _unreadable(path: Path, error: OSError, gone: str = _MEND) -> PolicyError:
    """`gone`: what to do where it is not there at all."""
    why, hint = error.strerror or type(error).__name__, _MEND
    if isinstance(error, PermissionError):
        hint = f"Let the host's user, uid {os.geteuid()}, read it (`chmod a+r`). " + _MEND
    if error.errno == errno.ENOENT:
        why, hint = ("a link that leads nowhere", _MEND) if path.is_symlink() else (_GONE, gone)
    return PolicyError(f"can't be read: {why}", where=str(path), hint=hint)

"""The wheel folder: ``<sha256>/<filename>``, shared by every environment of a state folder. What is fetched
for a tenant's own bridge lies in ``.own-<id>/`` while its environment is built, and goes then: the disk is
everybody's.

A file gets its name only after all its bytes were hashed; ``listings/`` remembers what a source
offered for a pin, so that a later build chooses the same wheel without asking anybody.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.errors import EnvironmentBuildError
from bridgehold.ids import digest_bytes
from bridgehold.sandbox.envs.index import Candidate, choose, file_sha256
from bridgehold.sandbox.envs.values import Pin, Wheel

_LISTINGS = "listings"
_LEFT = re.compile(r"[0-9a-f]{64}|\.own-[0-9a-f]{16}")
_FETCHED_SECONDS = 86_400.0


@dataclass
class Collected:
    """What a collection of left-overs came to."""

    removed: list[Path] = field(default_factory=list)
    stuck: dict[Path, str] = field(default_factory=dict)
    """What nobody needs and can't be removed → why."""


class WheelFolder:
    """Reads and writes of one wheel folder. Safe for several threads and processes at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, wheel: Wheel) -> Path:
        """Where a wheel lies, by its hash."""
        return self.root / wheel.sha256 / wheel.filename

    def cached(self, pin: Pin, tags: Sequence[str]) -> Wheel | None:
        """The wheel that was chosen before, if its bytes are still there and still its own."""
        try:
            known = msgspec.json.decode(self._listing(pin).read_bytes(), type=list[Candidate])
        except (OSError, msgspec.MsgspecError):
            return None
        candidate = choose(pin, known, tags)
        return None if candidate is None else self.present(pin, candidate)

    def own(self) -> WheelFolder:
        """A new one below this, for one build; `remove` it then."""
        return WheelFolder(self.root / f".own-{secrets.token_hex(8)}")

    def remove(self) -> None:
        """All of it; what can't go is `collect`'s, later."""
        shutil.rmtree(self.root, ignore_errors=True)

    def linked(self, pin: Pin, tags: Sequence[str], beside: WheelFolder) -> Wheel | None:
        """The wheel that `beside` has for `pin`, as one of this folder's too. None where there is none."""
        wheel = beside.cached(pin, tags)
        if wheel is not None:
            try:
                writes.make_folder(self.path(wheel).parent)
                writes.add_name(self.path(wheel), beside.path(wheel))
            except OSError:
                return None  # it is fetched
        return wheel

    def present(self, pin: Pin, candidate: Candidate) -> Wheel | None:
        """`candidate` as a wheel of this folder; a file whose bytes changed is removed."""
        file = self.root / candidate.sha256 / candidate.filename
        try:
            size = file.stat().st_size
            if file_sha256(file) != candidate.sha256:
                file.unlink()
                return None
        except OSError:
            return None
        return _wheel(pin, candidate, size)

    def remember(self, pin: Pin, candidates: Iterable[Candidate]) -> None:
        """Keep which files an index had for `pin`, so that it is not asked again."""
        data = msgspec.json.encode(list(candidates))
        writes.make_folder(self.root / _LISTINGS)
        writes.replace(self._listing(pin), data)

    def add(self, pin: Pin, candidate: Candidate, blocks: Iterable[bytes], cap: int) -> Wheel:
        """Store a wheel from its bytes, hashed as they come.

        Raises `EnvironmentBuildError` past `cap` bytes, or where they are not what the lock says.
        """
        content, size = hashlib.sha256(), 0
        final = self.root / candidate.sha256 / candidate.filename
        writes.make_folder(final.parent)
        with writes.replacing(final) as file:
            for block in blocks:
                size += len(block)
                if size > cap:
                    raise EnvironmentBuildError(
                        f"{candidate.filename} is larger than {cap} bytes",
                        hint="Raise the limit of a wheel's size, if this package may be so large.",
                    )
                content.update(block)
                file.write(block)
            if content.hexdigest() != candidate.sha256:
                raise EnvironmentBuildError(
                    f"hash mismatch: {candidate.filename} has sha256 {content.hexdigest()}, "
                    f"the lock says {candidate.sha256}",
                    hint="The file was replaced, or damaged on its way. Keep the lock until you know.",
                )
        return _wheel(pin, candidate, size)

    def collect(self, kept: Collection[str], found: Collected) -> None:
        """Remove wheels whose sha256 is not in `kept`, but those that a build may have fetched just now."""
        for folder in self.root.iterdir() if self.root.is_dir() else ():
            try:
                old = time.time() - folder.stat().st_mtime > _FETCHED_SECONDS
                if not old or folder.name in kept or not _LEFT.fullmatch(folder.name):
                    continue
                shutil.rmtree(folder)
            except FileNotFoundError:
                continue  # another process is at it
            except OSError as error:
                found.stuck[folder] = error.strerror or str(error)
                continue
            found.removed.append(folder)

    def _listing(self, pin: Pin) -> Path:
        key = digest_bytes(" ".join((pin.name, pin.version, *pin.hashes)).encode()).removeprefix("sha256:")
        return self.root / _LISTINGS / f"{key}.json"


def counted(blocks: Iterable[bytes], count: Callable[[int], None]) -> Iterable[bytes]:
    """`blocks`, with `count` told the length of each."""
    for block in blocks:
        count(len(block))
        yield block


def _wheel(pin: Pin, candidate: Candidate, size: int) -> Wheel:
    return Wheel(
        name=pin.name,
        version=pin.version,
        filename=candidate.filename,
        sha256=candidate.sha256,
        size=size,
    )

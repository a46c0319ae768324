"""The values of an environment's way from lock to tree. Frozen; they cross to the fetcher as JSON."""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.error_info import ErrorInfo
from bridgehold.ids import Digest

MIB = 1024 * 1024
GIB = 1024 * MIB
DRAWS = "matplotlib"
"""The package that keeps a list of the machine's fonts."""

Phase = Literal["wait", "resolve", "fetch", "scan", "install", "compile", "fonts", "seal", "verify"]
Unit = Literal["packages", "bytes", "files", "seconds"]


class BuildProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a build is. `total` 0: not known yet."""

    phase: Phase
    done: int = 0
    total: int = 0
    unit: Unit = "packages"
    note: str = ""


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a lock: what may be installed, and the bytes it may consist of."""

    name: str
    """Canonical: lower case, dashes."""
    version: str
    marker: str = ""
    hashes: tuple[str, ...]
    """Lower-case hexadecimal sha256 of every file that is allowed, sorted."""
    line: int = 0


class Lock(msgspec.Struct, frozen=True, kw_only=True):
    """A lock file that was read: exact versions, each with its hashes."""

    file: str
    pins: tuple[Pin, ...]
    digest: Digest
    """Of the pins, their markers and hashes; comments, order and layout don't count."""


class Interpreter(msgspec.Struct, frozen=True, kw_only=True):
    """The base Python of an environment, as a sandbox sees it, and what wheels fit it."""

    version: str
    """Full, such as ``3.11.2``."""
    prefix: str
    """Its prefix on the host; below /usr it is part of the sandbox's /usr."""
    inside: str
    """Absolute path of its executable inside a sandbox."""
    platform: str
    """Such as ``linux-x86_64``."""
    tags: tuple[str, ...]
    """Wheel tags, best first."""
    markers: dict[str, str]
    magic: bytes
    """What its bytecode begins with."""

    @property
    def minor(self) -> str:
        """``3.11``"""
        return ".".join(self.version.split(".")[:2])

    @property
    def cache_tag(self) -> str:
        """In names of bytecode, such as ``cpython-311``."""
        return "cpython-" + self.minor.replace(".", "")

    @property
    def site_packages(self) -> str:
        """Relative to the environment."""
        return f"lib/python{self.minor}/site-packages"


class Sources(msgspec.Struct, frozen=True, kw_only=True):
    """Where wheels may come from. The lock's hashes decide what is taken, so that mixing is safe."""

    folders: tuple[str, ...] = ()
    """Folders with wheels in them."""
    own: str = ""
    """A folder that a bridge brings, for what only it has: what others take too is never its choice."""
    indexes: tuple[str, ...] = ()
    """Simple indexes: ``file://`` ones are asked first, then the others in this order."""
    certificates: str = ""
    """File with CA certificates; empty: those of the HTTP library."""


class FetchLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds on what is fetched for one environment; bytes and seconds."""

    wheel_bytes: int = 2 * GIB
    total_bytes: int = 8 * GIB
    unpacked_bytes: int = 32 * GIB
    threads: int = 6
    connect_seconds: float = 10.0
    read_seconds: float = 60.0
    resolve_seconds: float = 600.0
    """For all pages of indexes together."""
    seconds: float = 7200.0
    """For all files together, once the pages are read."""


class Wheel(msgspec.Struct, frozen=True, kw_only=True):
    """A wheel in the wheel folder: ``<sha256>/<filename>``, its bytes checked."""

    name: str
    version: str
    filename: str
    sha256: str
    size: int


class FetchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the fetching process is asked for: pins, the tags that fit, where from, and where to."""

    pins: tuple[Pin, ...]
    tags: tuple[str, ...]
    sources: Sources
    folder: str
    limits: FetchLimits = FetchLimits()
    beside: str = ""
    """Another wheel folder, of which what is there already is taken; empty: none."""


class FetchResult(msgspec.Struct, frozen=True, kw_only=True):
    """The wheels of a request, and how much of it was fetched now."""

    wheels: tuple[Wheel, ...]
    downloaded: int = 0
    """How many were not in the wheel folder before."""
    downloaded_bytes: int = 0


class FetchLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the fetcher's output."""

    progress: BuildProgress | None = None
    wheel: Wheel | None = None
    """One that is there, as soon as it is."""
    result: FetchResult | None = None
    error: ErrorInfo | None = None


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is wrong with a wheel: the rule, the member and what was seen."""

    rule: str
    file: str
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.detail or self.rule} [{self.rule}]"


class WheelFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a wheel installs: path below the environment, content."""

    path: str
    sha256: str
    size: int
    executable: bool = False
    member: str = ""
    """Of the wheel, whose bytes it has; empty: it has `content`."""
    content: bytes = b""
    """What we make of what the wheel says: a command, RECORD."""


class ScanReport(msgspec.Struct, frozen=True, kw_only=True):
    """What reading a wheel without running it has shown. No findings: it may be installed."""

    wheel: str
    name: str = ""
    version: str = ""
    findings: tuple[Finding, ...] = ()
    files: tuple[WheelFile, ...] = ()
    """All that is to be laid down of it, commands and RECORD included."""


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """One installed distribution, and the wheel it came from."""

    name: str
    version: str
    wheel: str = ""
    sha256: str = ""


class Environment(msgspec.Struct, frozen=True, kw_only=True):
    """A built environment: ``environment.json``, but for its place."""

    digest: Digest
    """Of the tree; names the folder."""
    lock_digest: Digest
    key: str
    """Of lock, Python and platform: what a lookup asks for."""
    python: str
    platform: str
    interpreter: str
    """Absolute path inside a sandbox that ``bin/python`` points to."""
    packages: tuple[Package, ...]
    files: int
    bytes: int
    weakenings: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    """What could not be made with it, and why: sessions do without."""


class TreeSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A finished tree: its digest and its size."""

    digest: Digest
    files: int
    """Files, folders and links."""
    bytes: int

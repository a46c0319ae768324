"""A lock file, read strictly (pure): exact pins with sha256 hashes, and nothing else.

Installers take options inside requirements files, an ``--index-url`` line among them, even where
they are told to require hashes. So the file never reaches one.
"""

from __future__ import annotations

import re
from pathlib import Path

from packaging.markers import Marker, UndefinedEnvironmentName
from packaging.utils import canonicalize_name
from packaging.version import Version

from bridgehold import reads
from bridgehold.errors import DependencyError
from bridgehold.ids import digest_bytes
from bridgehold.sandbox.envs.values import Interpreter, Lock, Pin

MAX_BYTES = 8 * 1024 * 1024
MAX_PINS = 2_000
REMEDY = "Make the lock anew: `bridgehold bridge lock NAME`."
_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?:\[[A-Za-z0-9._,\s-]*\])?\s*==\s*"
    r"(?P<version>[^\s;=@,*]+)\s*(?:;\s*(?P<marker>.+?))?(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})+)"
)
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_COMMENT = re.compile(r"(?:^|\s)#.*$")


def parse_lock(text: str, file: str) -> Lock:
    """The pins of `text`. Raises `DependencyError` with ``file:line`` and the remedy. Empty is fine."""
    if len(text) > MAX_BYTES:
        raise DependencyError(f"the lock has more than {MAX_BYTES} characters", where=file)
    pins = tuple(_pin(number, line, file) for number, line in _logical_lines(text))
    if len(pins) > MAX_PINS:
        raise DependencyError(f"the lock has more than {MAX_PINS} pins", where=file)
    canonical = "".join(sorted(f"{_requirement(pin)} {' '.join(pin.hashes)}\n" for pin in pins))
    return Lock(file=file, pins=pins, digest=digest_bytes(canonical.encode()))


def active_pins(lock: Lock, interpreter: Interpreter) -> tuple[Pin, ...]:
    """The pins whose markers hold for `interpreter`, by name. Two of one name are a `DependencyError`."""
    chosen: dict[str, Pin] = {}
    for pin in lock.pins:
        if not _holds(pin, interpreter, lock.file):
            continue
        if pin.name in chosen:
            raise DependencyError(
                f"{pin.name} is pinned twice for Python {interpreter.version}: lines "
                f"{chosen[pin.name].line} and {pin.line}",
                where=f"{lock.file}:{pin.line}",
                hint=REMEDY,
            )
        chosen[pin.name] = pin
    return tuple(chosen[name] for name in sorted(chosen))


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """(number of the first line, content) with continuations joined and comments dropped."""
    found: list[tuple[int, str]] = []
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        line = _COMMENT.sub("", raw).strip()
        if not parts:
            start = number
        continued = line.endswith("\\")
        parts.append(line.removesuffix("\\").strip())
        if not continued:
            found.append((start, " ".join(part for part in parts if part)))
            parts = []
    if parts:
        found.append((start, " ".join(part for part in parts if part)))
    return [(number, line) for number, line in found if line]


def _pin(number: int, line: str, file: str) -> Pin:
    where = f"{file}:{number}"
    match = _LINE.fullmatch(line)
    if match is None:
        raise DependencyError(_refusal(line), where=where, hint=REMEDY)
    try:
        Version(match["version"])
    except ValueError as error:  # too many digits are none, too
        raise DependencyError(f"{match['version'][:80]!r} is no version", where=where, hint=REMEDY) from error
    marker = match["marker"] or ""
    try:
        marker = str(Marker(marker)) if marker else ""
    except (ValueError, RecursionError) as error:
        raise DependencyError(f"{marker[:80]!r} is no marker", where=where, hint=REMEDY) from error
    return Pin(
        name=canonicalize_name(match["name"]),
        version=match["version"],
        marker=marker,
        hashes=tuple(sorted(set(_HASH.findall(match["hashes"])))),
        line=number,
    )


def _refusal(line: str) -> str:
    """Why a line that is no pin is refused, in the words of what its author wanted."""
    shown = line[:80]
    requirement = line.split("--hash", 1)[0]
    if line.startswith("-"):
        return f"the option {shown.split('=', 1)[0].split(maxsplit=1)[0]} is not allowed in a lock"
    if "@" in requirement or "://" in requirement or requirement.startswith((".", "/")):
        return f"{shown!r} is a path or URL; only pins with hashes are taken"
    if "==" not in requirement or "===" in requirement or "*" in requirement:
        return f"{shown!r} does not pin one exact version"
    if "--hash=" not in line:
        return f"{requirement.split(';')[0].strip()[:80]!r} has no hash"
    return f"{shown!r} is not `name==version --hash=sha256:…`"


def _holds(pin: Pin, interpreter: Interpreter, file: str) -> bool:
    if not pin.marker:
        return True
    try:
        return Marker(pin.marker).evaluate({**interpreter.markers, "extra": ""})
    except (UndefinedEnvironmentName, ValueError, RecursionError) as error:  # or a comparison, or a number
        raise DependencyError(
            f"the marker {pin.marker[:80]!r} can't be answered", where=f"{file}:{pin.line}", hint=REMEDY
        ) from error


def _requirement(pin: Pin) -> str:
    return f"{pin.name}=={pin.version}" + (f" ; {pin.marker}" if pin.marker else "")


def read_lock(path: Path | None) -> Lock:
    """The lock in `path`; None is a bridge without packages. Raises `DependencyError`."""
    if path is None:
        return parse_lock("", "")
    return parse_lock(reads.read_text(path, DependencyError, most=MAX_BYTES, hint=REMEDY), str(path))

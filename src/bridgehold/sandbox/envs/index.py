"""Which wheel to take for a pin: among the files that the lock's hashes allow, the best for this Python.

Folders and ``file://`` indexes are asked first and together, then each remote index in its order,
until one has a file that fits. Source distributions are never looked at: building one runs its code.
A bridge's own folder is asked for what has one file alone, and last for all else: an environment is
everybody's who has the same lock, and a bridge chooses nothing for others.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from urllib.parse import unquote, urlsplit

import msgspec
from packaging.tags import parse_tag
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from bridgehold.errors import EnvironmentBuildError
from bridgehold.sandbox.envs.sources import shown
from bridgehold.sandbox.envs.values import Pin, Sources

if TYPE_CHECKING:  # it brings `requests` along: 0.2 s that only a build takes
    from pypi_simple import ProjectPage

_SHOWN_TAGS = 12
MAX_PAGE_BYTES = 64 * 1024 * 1024
_REMOTE = re.compile(r"https?://", re.ASCII | re.IGNORECASE)
_MOST_TAGS = 1_000
"""That one wheel's name stands for: each is a product of three lists. (Packages: at most some dozens.)"""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """A file that a source offers for a pin. `sha256` empty: the source doesn't say."""

    filename: str
    url: str
    sha256: str
    size: int = 0
    """0: the source doesn't say."""


class PageGetter(Protocol):
    """The network side: a project's page of a remote index, or `NoSuchProjectError`."""

    def __call__(self, index: str, project: str) -> ProjectPage:
        """The page of `project`. Raises `EnvironmentBuildError`."""


def choose(pin: Pin, candidates: Iterable[Candidate], tags: Sequence[str]) -> Candidate | None:
    """The candidate with a hash of the lock and the best tag, or None (pure)."""
    rank = {tag: place for place, tag in enumerate(tags)}
    best: tuple[int, str, Candidate] | None = None
    for candidate in candidates:
        if candidate.sha256 not in pin.hashes or not _is_wheel_of(pin, candidate.filename):
            continue
        places = [rank[tag] for tag in wheel_tags(candidate.filename) if tag in rank]
        if places:
            offer = (min(places), candidate.filename, candidate)
            best = offer if best is None or offer[:2] < best[:2] else best
    return None if best is None else best[2]


def wheel_tags(filename: str) -> tuple[str, ...]:
    """Every tag that a wheel's name stands for, sorted; none where those are more than anybody needs."""
    return tuple(sorted(tags("-".join(filename.removesuffix(".whl").split("-")[-3:]))))


def tags(words: str) -> set[str]:
    """What ``py2.py3-none-any`` stands for; nothing where that is more than anybody needs."""
    if math.prod(part.count(".") + 1 for part in words.split("-")) > _MOST_TAGS:
        return set()
    return set(map(str, parse_tag(words)))


def parse_wheel_name(filename: str) -> tuple[str, Version] | None:
    """Name and version of a wheel's file; None where it is no wheel's name."""
    if not filename.endswith(".whl") or "/" in filename:
        return None
    try:
        named = parse_wheel_filename(filename)[:2] if wheel_tags(filename) else None
    except ValueError:  # a number of too many digits is one, too
        return None
    return named


def resolve(
    pin: Pin, sources: Sources, tags: Sequence[str], get_page: PageGetter
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The wheel to take for `pin`, and all that the lock would have allowed, for other Pythons.

    None are allowed beside one of a bridge's own. Raises `EnvironmentBuildError` that tells what was looked
    for, and where.
    """
    own = choose(pin, _in_folder(pin, Path(sources.own)), tags) if sources.own else None
    if own is not None and len(pin.hashes) == 1:
        return own, ()
    try:
        return _offered(pin, sources, tags, get_page)
    except EnvironmentBuildError:
        if own is None:
            raise
        return own, ()


def _offered(
    pin: Pin, sources: Sources, tags: Sequence[str], get_page: PageGetter
) -> tuple[Candidate, tuple[Candidate, ...]]:
    asked: list[str] = []
    seen: list[Candidate] = []
    local = [url for url in sources.indexes if url.startswith("file://")]
    offered = [c for folder in sources.folders for c in _in_folder(pin, Path(folder))]
    offered += [c for url in local for c in _in_local_index(pin, url)]
    asked += [*sources.folders, *local]
    seen += offered
    found = choose(pin, offered, tags)
    for index in sources.indexes:
        if found is not None:
            break
        if index in local:
            continue
        asked.append(shown(index))
        from pypi_simple import NoSuchProjectError

        try:
            page = get_page(index, pin.name)
        except NoSuchProjectError:
            continue
        offered = [one for one in _on_page(page) if _REMOTE.match(one.url)]  # and no file of this machine's
        seen += offered
        found = choose(pin, offered, tags)
    if found is None:
        raise _missing(pin, seen, asked, tags)
    return found, tuple(candidate for candidate in seen if candidate.sha256 in pin.hashes)


def _in_folder(pin: Pin, folder: Path) -> list[Candidate]:
    """Wheels of the pin in a folder; each is hashed, for a folder says nothing about its files."""
    try:
        files = [file for file in folder.iterdir() if _is_wheel_of(pin, file.name)]
        return [
            Candidate(
                filename=f.name, url=f.absolute().as_uri(), sha256=file_sha256(f), size=f.stat().st_size
            )
            for f in files
        ]
    except OSError:
        return []  # named by a setting, but not on this machine


def _in_local_index(pin: Pin, index: str) -> list[Candidate]:
    from pypi_simple import ProjectPage

    page = Path(unquote(urlsplit(index).path)) / pin.name / "index.html"
    try:
        if page.stat().st_size > MAX_PAGE_BYTES:
            return []
        html = page.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return []
    return _on_page(ProjectPage.from_html(pin.name, html, base_url=page.parent.absolute().as_uri() + "/"))


def _on_page(page: ProjectPage) -> list[Candidate]:
    return [
        Candidate(
            filename=package.filename,
            url=package.url,
            sha256=package.digests.get("sha256", "").lower(),
            size=package.size or 0,
        )
        for package in page.packages
    ]


def _is_wheel_of(pin: Pin, filename: str) -> bool:
    return parse_wheel_name(filename) == (pin.name, Version(pin.version))


def _missing(
    pin: Pin, seen: Sequence[Candidate], asked: Sequence[str], tags: Sequence[str]
) -> EnvironmentBuildError:
    """The error that says which of the four ways it is missing."""
    what = f"{pin.name} {pin.version}"
    where = ", ".join(asked) or "nowhere: no index is set"
    wheels = [c for c in seen if _is_wheel_of(pin, c.filename)]
    locked = [c for c in wheels if c.sha256 in pin.hashes]
    if not seen:
        message = f"{what}: no index has a package of this name"
        hint = "Check the name in the lock, or name the index that has it (`index` in config.toml)."
    elif not wheels and any(_is_sdist_of(pin, c.filename) for c in seen):
        message = f"{what}: only a source distribution exists, and building one would run its code here"
        hint = "Pin a version that has wheels, or put a wheel of your own into a `find-links` folder."
    elif not wheels:
        message = f"{what}: the package exists, this version has no wheel there"
        hint = "Make the lock anew; the version may have been removed."
    elif not locked:
        message = f"{what}: hash mismatch: none of {len(wheels)} wheels has a hash of the lock"
        hint = (
            "Either the lock is of another index, or the files were replaced: compare before making it anew."
        )
    else:
        offered = sorted({tag for c in locked for tag in wheel_tags(c.filename)})
        more = f" and {len(offered) - _SHOWN_TAGS} more" if len(offered) > _SHOWN_TAGS else ""
        message = (
            f"{what}: no wheel fits {tags[0] if tags else 'this Python'}; "
            f"there are: {', '.join(offered[:_SHOWN_TAGS])}{more}"
        )
        hint = "Use a Python or a platform that one of these tags names, or pin another version."
    return EnvironmentBuildError(message, where=where, hint=hint)


def _is_sdist_of(pin: Pin, filename: str) -> bool:
    stem = filename.removesuffix(".zip").removesuffix(".tar.gz")
    name, _, version = stem.rpartition("-")
    return stem != filename and canonicalize_name(name) == pin.name and version == pin.version


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

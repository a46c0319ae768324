"""One advisory in the OSV format, of which what is said about packages of Python is kept (pure).

What can't be told counts against the package: an end of a range that is no version never comes, an
advisory that names no version means all, one without severity is as grave as any.
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from typing import Any

import msgspec
from packaging.utils import canonicalize_name, canonicalize_version
from packaging.version import Version

from bridgehold.sandbox.supply.severity import Known, cvss3_score, gravest, in_words, of_score

ECOSYSTEM = "PyPI"
MAX_VERSIONS = 20_000
"""Versions, and ends of ranges, of one advisory."""
MAX_ALIASES = 200
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,99}")
_MAX_VERSION = 100
_MAX_SUMMARY = 200
_RANGES = ("ECOSYSTEM", "SEMVER")


class Bound(msgspec.Struct, frozen=True):
    """One end of a range: what kind it is, and where. `at` None: it is no version."""

    kind: str
    """``introduced``, ``fixed``, ``last_affected`` or ``limit``."""
    text: str
    at: Version | None


class Affected(msgspec.Struct, frozen=True, kw_only=True):
    """What an advisory says of one package."""

    name: str
    """Canonical."""
    versions: frozenset[str] = frozenset()
    """Canonical, as far as they are versions."""
    ranges: tuple[tuple[Bound, ...], ...] = ()
    untold: bool = False
    """It names no version at all: all are meant."""


class Advisory(msgspec.Struct, frozen=True, kw_only=True):
    """One advisory that is in force, with the packages of Python that it is about."""

    id: str
    aliases: tuple[str, ...]
    severity: Known
    summary: str
    modified: str
    affected: tuple[Affected, ...]
    file: str = ""


class _Event(msgspec.Struct):
    introduced: str | None = None
    fixed: str | None = None
    last_affected: str | None = None
    limit: str | None = None


class _Range(msgspec.Struct):
    type: str = ""
    events: list[_Event] | None = None


class _Package(msgspec.Struct):
    ecosystem: str = ""
    name: str = ""


class _Severity(msgspec.Struct):
    type: str = ""
    score: str = ""


class _Affected(msgspec.Struct):
    package: _Package | None = None
    ranges: list[_Range] | None = None
    versions: list[str] | None = None
    severity: list[_Severity] | None = None


class _File(msgspec.Struct):
    id: str
    modified: str = ""
    withdrawn: str | None = None
    aliases: list[str] | None = None
    summary: str | None = None
    severity: list[_Severity] | None = None
    affected: list[_Affected] | None = None
    database_specific: dict[str, Any] | None = None


_DECODER = msgspec.json.Decoder(_File)


class NoAdvisoryError(ValueError):
    """The bytes are no advisory that can be read; the text says why, in one line."""


def parse_advisory(data: bytes, file: str = "", names: Container[str] | None = None) -> Advisory | None:
    """The advisory in `data`; None where it was withdrawn, or is about no package of Python.

    `names`: canonical; what is said of any other package is left out, unless it is None.

    Raises `NoAdvisoryError`. Who calls it bounds `data`.
    """
    try:
        said = _DECODER.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise NoAdvisoryError(f"is no advisory: {str(error)[:150]}") from None
    except RecursionError:
        raise NoAdvisoryError("nested too deeply") from None
    if not _ID.fullmatch(said.id):
        raise NoAdvisoryError("its id is none")
    if said.withdrawn:
        return None
    mine = [one for one in said.affected or () if one.package is not None and _is_ours(one.package)]
    if not mine:
        return None
    if len(said.aliases or ()) > MAX_ALIASES or _size(mine) > MAX_VERSIONS:
        raise NoAdvisoryError(f"has more than {MAX_VERSIONS} versions or {MAX_ALIASES} aliases")
    word = in_words((said.database_specific or {}).get("severity"))
    vectors = [*(said.severity or ()), *(more for one in mine for more in one.severity or ())]
    return Advisory(
        id=said.id,
        aliases=tuple(one for one in said.aliases or () if _ID.fullmatch(one)),
        severity=word if word != "unknown" else gravest(map(_of_vector, vectors)),
        summary=" ".join((said.summary or "").split())[:_MAX_SUMMARY],
        modified=said.modified[:40],
        affected=tuple(_affected(one) for one in mine if names is None or _name(one) in names),
        file=file,
    )


def is_affected(version: str, affected: Affected) -> bool:
    """Whether `version` of the package is meant. One that can't be compared is."""
    if affected.untold:
        return True
    if _canonical(version) in affected.versions:
        return True
    at = _version(version)
    if at is None:
        return bool(affected.ranges)
    return any(_in_range(at, bounds) for bounds in affected.ranges)


def fixes(affected: Affected) -> tuple[str, ...]:
    """Versions that mend it, as the ranges say them."""
    return tuple(
        dict.fromkeys(
            bound.text for bounds in affected.ranges for bound in bounds if bound.kind == "fixed" and bound.at
        )
    )


def _in_range(at: Version, bounds: Sequence[Bound]) -> bool:
    """As the format's own evaluation has it: events in the order of versions, the last one decides.

    At one version an introduction counts after an end.
    """
    limits = [bound.at for bound in bounds if bound.kind == "limit" and bound.text != "*"]
    if limits and all(limit is not None and at >= limit for limit in limits):
        return False
    inside = False
    for bound in bounds:
        if bound.at is None:
            inside = inside or bound.kind == "introduced"
        elif bound.kind == "introduced" and at >= bound.at:
            inside = True
        elif (bound.kind == "fixed" and at >= bound.at) or (bound.kind == "last_affected" and at > bound.at):
            inside = False
    return inside


def _is_ours(package: _Package) -> bool:
    return package.ecosystem.partition(":")[0] == ECOSYSTEM and bool(package.name)


def _size(several: Sequence[_Affected]) -> int:
    return sum(
        len(one.versions or ()) + sum(len(span.events or ()) for span in one.ranges or ()) for one in several
    )


def _affected(said: _Affected) -> Affected:
    ranges = tuple(
        _bounds(span.events or ()) for span in said.ranges or () if span.type in _RANGES and span.events
    )
    versions = frozenset(map(_canonical, said.versions or ()))
    return Affected(
        name=_name(said),
        versions=versions,
        ranges=ranges,
        untold=not (versions or ranges),
    )


def _name(said: _Affected) -> str:
    """Canonical."""
    return canonicalize_name(said.package.name[:_MAX_SUMMARY]) if said.package is not None else ""


def _bounds(events: Sequence[_Event]) -> tuple[Bound, ...]:
    found = []
    for event in events:
        for kind in ("fixed", "last_affected", "introduced", "limit"):  # at one version, in this order
            text = getattr(event, kind)
            if text is not None:
                at = _version("0.dev0" if kind == "introduced" and text == "0" else text)
                found.append(Bound(kind, text[:_MAX_VERSION], at))
    kinds = ("fixed", "last_affected", "introduced", "limit")
    # What begins at no version has begun before all; what ends at none never does.
    return tuple(
        sorted(
            found,
            key=lambda one: (
                one.at is not None,
                one.at if one.at is not None else Version("0"),
                kinds.index(one.kind),
            ),
        )
    )


def _version(text: str) -> Version | None:
    """Without its local part, so that a build of one's own is not beyond the last that is affected."""
    if len(text) > _MAX_VERSION:
        return None
    try:
        return Version(Version(text).public)
    except ValueError:  # too many digits are none, too
        return None


def _canonical(text: str) -> str:
    found = _version(text)
    return text[:_MAX_VERSION] if found is None else canonicalize_version(found)


def _of_vector(said: _Severity) -> Known:
    score = cvss3_score(said.score) if said.type == "CVSS_V3" else None
    return "unknown" if score is None else of_score(score)

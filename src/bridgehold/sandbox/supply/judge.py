"""Packages against advisories: what hits, each once, and whether a threshold is reached (pure)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import msgspec

from bridgehold.sandbox.supply.advisories import Advisories
from bridgehold.sandbox.supply.osv import Advisory, fixes, is_affected
from bridgehold.sandbox.supply.severity import SEVERITIES, Known, Severity, gravest, reaches


class Hit(msgspec.Struct, frozen=True, kw_only=True):
    """A package that advisories say is vulnerable: one for all those that are one another's aliases."""

    package: str
    version: str
    id: str
    aliases: tuple[str, ...]
    severity: Known
    summary: str
    fixed: tuple[str, ...]
    """Versions that mend it; empty: none is known."""
    accepted: bool
    """The operator accepts each of its advisories."""
    file: str


def judge(
    packages: Iterable[tuple[str, str]], advisories: Advisories, accepted: Collection[str] = ()
) -> tuple[Hit, ...]:
    """Hits of (canonical name, version) pairs, the gravest first.

    `accepted`: ids, or aliases, of advisories. A group counts as accepted only where each advisory in it is:
    else one that calls itself an alias of two could have the other accepted.
    """
    hits = []
    for name, version in packages:
        found = [
            advisory
            for advisory in advisories.by_name.get(name, ())
            if any(one.name == name and is_affected(version, one) for one in advisory.affected)
        ]
        hits += [_hit(name, version, group, accepted) for group in _groups(found)]
    return tuple(sorted(hits, key=lambda one: (_rank(one.severity), one.package, one.id)))


def blocking(hits: Iterable[Hit], threshold: Severity) -> tuple[Hit, ...]:
    """Those that are as grave as `threshold`, or graver, and not accepted."""
    return tuple(one for one in hits if not one.accepted and reaches(one.severity, threshold))


def _hit(name: str, version: str, group: Sequence[Advisory], accepted: Collection[str]) -> Hit:
    severity = gravest(one.severity for one in group)
    first = min(group, key=lambda one: (one.severity != severity, one.id))
    ids = {one.id for one in group} | {alias for one in group for alias in one.aliases}
    mended = [
        text
        for one in group
        for affected in one.affected
        if affected.name == name
        for text in fixes(affected)
    ]
    return Hit(
        package=name,
        version=version,
        id=first.id,
        aliases=tuple(sorted(ids - {first.id})),
        severity=severity,
        summary=first.summary,
        fixed=tuple(dict.fromkeys(mended)),
        accepted=all({one.id, *one.aliases} & set(accepted) for one in group),
        file=first.file,
    )


def _groups(found: Sequence[Advisory]) -> list[list[Advisory]]:
    """Those that share an id or an alias, over however many steps."""
    above: dict[str, str] = {}

    def root(name: str) -> str:
        while above.setdefault(name, name) != name:
            above[name] = name = above[above[name]]
        return name

    for advisory in found:
        for alias in advisory.aliases:
            above[root(alias)] = root(advisory.id)
    groups: dict[str, list[Advisory]] = {}
    for advisory in found:
        groups.setdefault(root(advisory.id), []).append(advisory)
    return list(groups.values())


def _rank(severity: Known) -> int:
    return -1 if severity == "unknown" else SEVERITIES.index(severity)

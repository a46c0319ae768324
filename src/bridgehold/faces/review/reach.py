"""Frameworks × powers: what was granted, and how much of it was used (pure).

Each power that can be seen from outside is counted: requests, tools, commands, barriers that were given up.
Of files and devices nobody is told what a bridge reads: they are granted, and that is all that is known.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.usage import told_again
from bridgehold.faces.report.gather import texts
from bridgehold.faces.review.question import REFUSED, Question
from bridgehold.policies import globs
from bridgehold.policies.lint_rules import Severity
from bridgehold.policies.model import Grant
from bridgehold.policies.posture import POWERS, posture

COLUMNS = ("operations", *POWERS)
_UNSEEN = ("files", "devices")
_MOST = 10_000
_SHADES = (1, 10, 100, 1_000)
Key = tuple[str, str, str, str]
"""Tenant, framework, power, name."""


class Use(NamedTuple):
    """How often, and the newest event of it."""

    number: int = 0
    last: str = ""
    ref: str = ""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is granted, or was used without being granted any more."""

    label: str
    used: int | None
    """None: it can't be seen from outside."""
    granted: bool = True
    link: str = ""

    @property
    def shade(self) -> int:
        """0: never used; 1 to 4 by how often, tenfold each."""
        return sum((self.used or 0) >= bound for bound in _SHADES)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One framework of a tenant."""

    tenant: str
    framework: str
    policy: str
    digest: str
    gravest: Severity | None
    cells: dict[str, tuple[Item, ...]]
    """By `COLUMNS`."""
    refused: int
    refusals: str
    """The link to them."""


class Uses:
    """Takes hits, oldest first."""

    def __init__(self) -> None:
        self.of: dict[Key, Use] = {}
        self.refused: dict[tuple[str, str], int] = {}

    def add(self, hit: Hit) -> None:
        """Count what one event tells of."""
        entry, whose = hit.entry, (hit.entry.tenant, hit.framework)
        if told_again(entry):
            return
        if entry.kind in ("egress.outcome", "egress.ended") and entry.fields.get("unsent") is not True:
            provider = entry.text("provider")
            self._count(hit, "providers" if provider else "tunnels", provider or entry.text("host"))
        elif entry.kind == "tool.outcome":
            self._count(hit, "tools", entry.text("tool"))
        elif entry.kind == "worker.started":
            for name in texts(entry, "weakenings"):
                self._count(hit, "weakenings", name)
        elif entry.kind in REFUSED:
            self.refused[whose] = self.refused.get(whose, 0) + 1

    def _count(self, hit: Hit, power: str, name: str) -> None:
        key = (hit.entry.tenant, hit.framework, power, name)
        if key in self.of or len(self.of) < _MOST:
            self.of[key] = Use(self.of.get(key, Use()).number + 1, hit.entry.time, hit.entry.ref)


def matrix(
    grants: Mapping[tuple[str, str], Grant], uses: Uses, operations: Mapping[tuple[str, str, str], int]
) -> tuple[Row, ...]:
    """A row of each grant. `operations`: how often each was allowed, by tenant, framework and its name."""
    return tuple(_row(grants[key], uses, operations) for key in sorted(grants))


def _row(grant: Grant, uses: Uses, operations: Mapping[tuple[str, str, str], int]) -> Row:
    whose = (grant.tenant, grant.bridge)
    base = Question(tenant=grant.tenant, framework=grant.bridge)
    cells = {power: tuple(_items(grant, power, uses, base)) for power in POWERS}
    row = posture(grant)
    return Row(
        tenant=grant.tenant,
        framework=grant.bridge,
        policy=grant.policy,
        digest=grant.digest,
        gravest=row.gravest,
        cells={"operations": tuple(_operations(grant, operations, base)), **cells},
        refused=uses.refused.get(whose, 0),
        refusals=base.url(view="refusals"),
    )


def _operations(grant: Grant, counts: Mapping[tuple[str, str, str], int], base: Question) -> Iterator[Item]:
    mine = {name: n for (*whose, name), n in counts.items() if tuple(whose) == (grant.tenant, grant.bridge)}
    for pattern in grant.operations.allow:
        fitting = {name: number for name, number in mine.items() if globs.matches(pattern, name)}
        mine = {name: number for name, number in mine.items() if name not in fitting}
        yield Item(label=pattern, used=sum(fitting.values()), link=base.url(view="commands"))


def _items(grant: Grant, power: str, uses: Uses, base: Question) -> Iterator[Item]:
    labels = posture(grant).powers[power]
    seen = {
        name: use
        for (*whose, of, name), use in uses.of.items()
        if whose == [grant.tenant, grant.bridge] and of == power
    }
    names = _names(grant, power)
    for label, name in zip(labels, names, strict=True):
        if power in _UNSEEN:
            yield Item(label=label, used=None)
        elif power == "keys":
            yield Item(
                label=label, used=_of_key(grant, name, uses), link=base.url(q=_asks("providers", name))
            )
        elif power == "tools":
            fitting = [one for one in seen if globs.matches(name, one)]
            used = sum(seen.pop(one).number for one in fitting)
            yield Item(label=label, used=used, link=base.url(view="tools"))
        else:
            yield Item(label=label, used=seen.pop(name, Use()).number, link=base.url(q=_asks(power, name)))
    for name, use in seen.items():
        yield Item(label=name, used=use.number, granted=False, link=base.url(q=_asks(power, name)))


def _names(grant: Grant, power: str) -> tuple[str, ...]:
    """What uses are counted by, in the order of posture's words."""
    return {
        "providers": tuple(one.provider for one in grant.endpoints),
        "keys": tuple(one.provider for one in grant.secrets),
        "tunnels": tuple(f"{one.host}:{one.port}" for one in grant.connects),
        "files": grant.read,
        "devices": grant.devices,
        "tools": grant.tools.allow,
        "weakenings": grant.weakenings,
    }[power]


def _of_key(grant: Grant, provider: str, uses: Uses) -> int | None:
    """Requests that the key was put into; None: it is inside, where nobody sees its use."""
    if not provider:
        return None
    return uses.of.get((grant.tenant, grant.bridge, "providers", provider), Use()).number


def _asks(power: str, name: str) -> str:
    field = {"providers": "provider", "tunnels": "host", "weakenings": "weakenings", "tools": "tool"}[power]
    return f"{field} = {quoted(name)}" if name else ""


def quoted(text: str) -> str:
    """A value in quotation marks, for a question."""
    marked = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{marked}"'

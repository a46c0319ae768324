"""Tenants of which nobody has said anything, named by a program: what looks like a slip opens nothing.

A tenant needs no file, so the measure is strict: one typing error away from a name that somebody declared.
What people type is judged more loosely, before it is sent (`faces.cli.known`).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Collection

from bridgehold.config.layout import Layout
from bridgehold.errors import BridgeholdError, NotFoundError
from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies import tokens

_SHORTEST = 4
"""Of shorter names many are near each other, and none of them is a slip."""
_PARTS = re.compile(r"[-_]")


def demand_no_slip(layout: Layout, name: str, configured: Collection[str]) -> None:
    """Raise `NotFoundError` where `name` is a slip for a tenant that a file, `configured` or `local` names.

    What a token says is looked at only where that would refuse. What can't be read declares nobody.
    """
    if name == LOCAL_TENANT or name in configured or len(name) < _SHORTEST:
        return
    known = {LOCAL_TENANT, *configured}
    with contextlib.suppress(OSError), os.scandir(layout.tenants) as found:
        known.update(entry.name.removesuffix(".toml") for entry in found)
    if name in known:
        return
    near = next((one for one in sorted(known) if is_slip(name, one)), "")
    if near and name not in tenants_of_tokens(layout):
        raise NotFoundError(
            f"there is no tenant {name!r} (nearest: {near!r})",
            hint=f"`bridgehold tenant create {name}` makes it, if another than {near} is meant.",
        )


def is_slip(name: str, known: str) -> bool:
    """Whether one typing error leads to `name`: a letter too many, too few, another, or two swapped.

    Names of a row are none: those that differ in a number, or in a part of one letter (``team-a``).
    """
    if min(len(name), len(known)) < _SHORTEST or abs(len(name) - len(known)) > 1:
        return False
    begin = _same(name, known)
    end = _same(name[begin:][::-1], known[begin:][::-1])
    one, other = name[begin : len(name) - end], known[begin : len(known) - end]
    if any(map(str.isdigit, one + other)) or _of_a_row(name, known):
        return False
    return max(len(one), len(other)) == 1 or (len(one) == 2 and one == other[::-1])


def _same(one: str, other: str) -> int:
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _of_a_row(name: str, known: str) -> bool:
    parts, others = _PARTS.split(name), _PARTS.split(known)
    if len(parts) != len(others):
        return min(map(len, {*parts} ^ {*others})) <= 1
    return any(one != other and len(one) == len(other) == 1 for one, other in zip(parts, others, strict=True))


def tenants_of_tokens(layout: Layout) -> set[str]:
    """Whoever a token is for; of what can't be read nothing is known."""
    known: set[str] = set()
    with contextlib.suppress(OSError):
        for path in layout.tokens.glob("*.toml"):
            with contextlib.suppress(OSError, BridgeholdError):
                known.update(tokens.parse(path.stem, path.read_text(), str(path)).scope.tenants)
    return known

"""What one grant can do that another can't: capabilities gained and lost, by meaning, not by text (pure)."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from bridgehold.policies.downloads import shown_repo
from bridgehold.policies.limits_table import LIMITS, show
from bridgehold.policies.model import Endpoint, Grant, Limits, Rate
from bridgehold.policies.units import format_size

Pair = tuple[str, str]
_MOST, _LONGEST = 40, 300
"""Of what an event names, and characters of each."""


class Capability(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that a grant lets a bridge do, in the words of a policy."""

    key: str
    value: str
    new: bool = False
    """No other bridge of its tenant has it."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """From one grant to another."""

    gained: tuple[Capability, ...] = ()
    lost: tuple[Capability, ...] = ()


def compare(before: Grant | None, after: Grant | None, others: tuple[Grant, ...] = ()) -> Changes:
    """`before` None: there was none, and no limit is named that is a policy's default. `others`: of the same
    tenant's other bridges."""
    had, has = (_capabilities(one) if one is not None else set() for one in (before, after))
    known: set[Pair] = set().union(*(_capabilities(one) for one in others))
    bounds = [_bounds(one) if one is not None else _DEFAULTS for one in (before, after)]
    more = {key: (old, bounds[1][key]) for key, old in bounds[0].items() if bounds[1][key] != old}
    gained = [
        Capability(key=key, value=value, new=(key, value) not in known) for key, value in sorted(has - had)
    ]
    lost = [Capability(key=key, value=value) for key, value in sorted(had - has)]
    for key, (old, new) in more.items():
        one = Capability(key=key, value=f"{_shown(key, old)} → {_shown(key, new)}")
        (gained if _reaches(new) > _reaches(old) else lost).append(one)
    return Changes(gained=tuple(gained), lost=tuple(lost))


def named(changes: Changes) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What is gained and what is lost, for an event: ``KEY VALUE`` of the first ones, and how many more."""
    return _few(changes.gained), _few(changes.lost)


def _few(several: tuple[Capability, ...]) -> tuple[str, ...]:
    shown = [f"{one.key} {one.value}"[:_LONGEST] for one in several[:_MOST]]
    more = len(several) - len(shown)
    return (*shown, f"and {more} more") if more else tuple(shown)


def _capabilities(grant: Grant) -> set[Pair]:
    return set(_each(grant))


def _each(grant: Grant) -> Iterator[Pair]:
    for endpoint in grant.endpoints:
        yield from _of_endpoint(endpoint)
    for connect in grant.connects:
        private = ", private addresses too" if connect.private else ""
        yield "network.connect", f"{connect.host}:{connect.port}{private}"
    for secret in grant.secrets:
        way = (
            f"put in at {secret.provider}"
            if secret.how == "gateway"
            else f"in its environment, {secret.variable}"
        )
        yield f"secrets.{secret.name}", way
    for table in ("operations", "tools", "resources"):
        rules = getattr(grant, table)
        denied = f", but {', '.join(sorted(rules.deny))}" if rules.deny else ""
        yield from ((table, f"{one}{denied}") for one in rules.allow)
    yield from (("filesystem.read", path) for path in grant.read)
    yield from (("filesystem.devices", path) for path in grant.devices)
    yield from (("weakenings", name) for name in grant.weakenings)
    if grant.inline_keys == "pass":
        yield "inline_keys", "pass"


def _of_endpoint(endpoint: Endpoint) -> Iterator[Pair]:
    key = f"network.endpoints.{endpoint.provider}"
    if endpoint.repos is not None:
        digests = "" if endpoint.digests is None else f" of {len(endpoint.digests)} digests"
        size = f"{format_size(endpoint.file_bytes)} each, {format_size(endpoint.total_bytes)} in all"
        for repo in endpoint.repos:
            yield f"{key}.repos", f"{shown_repo(repo)}: {', '.join(endpoint.files)}{digests}, {size}"
        return
    yield from ((key, f"{method} {path}") for method in endpoint.methods for path in endpoint.paths or ())
    if endpoint.remote_content:
        yield f"{key}.remote_content", "true"
    yield from ((f"{key}.fields", field) for field in endpoint.fields)


def _bounds(grant: Grant) -> dict[str, int | None]:
    return _numbers(grant.limits, grant.rate)


def _numbers(limits: Limits, rate: Rate) -> dict[str, int | None]:
    found: dict[str, int | None] = {f"limits.{fact.key}": getattr(limits, fact.field) for fact in LIMITS}
    return found | {f"rate.{field}": getattr(rate, field) for field in rate.__struct_fields__}


_DEFAULTS = _numbers(Limits(), Rate())
_UNITS = {f"limits.{fact.key}": fact.unit for fact in LIMITS}


def _shown(key: str, value: int | None) -> str:
    if value is None:
        return "any"
    return show(_UNITS[key], value) if key in _UNITS else str(value)


def _reaches(value: int | None) -> float:
    return float("inf") if value is None else value

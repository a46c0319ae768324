"""A refusal to the smallest rule that would have allowed it, or why there is none (pure).

The smallest: without it the act is refused, with it allowed, and nothing else changes, as capabilities tell
(`policies.changes`). An endpoint is methods × paths: a rule that would open another pair too is none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from bridgehold.errors import DeniedError, PolicyError, UsageError
from bridgehold.policies.approved import NAMEABLE, Grants, checked
from bridgehold.policies.changes import Capability, compare
from bridgehold.policies.lint import Finding, lint
from bridgehold.policies.model import Grant, Policy
from bridgehold.policies.names import normalise_path
from bridgehold.policies.simulate import Act, decide

Resolved = Callable[[Policy | None], Grant]
"""What the bridge is granted now, and what it would be with such an addition. Raises `PolicyError`."""
_BY_HAND = (
    "A person can widen the policy by hand: `bridgehold policy diff --policy FILE` shows what that changes."
)


class Smallest(msgspec.Struct, frozen=True, kw_only=True):
    """What would have allowed an act."""

    grants: dict[str, tuple[str, ...]]
    """Dotted key of a policy to the items that are added there."""
    gained: tuple[Capability, ...]
    risk: tuple[Finding, ...]
    """What `policy lint` finds with it, and doesn't find without it."""


def smallest(act: Act, resolved: Resolved, weakenings: tuple[str, ...] = ()) -> Smallest:
    """The rule for `act`; `weakenings`: those that it may bring, by name.

    Raises `UsageError` where the act is allowed already, and `DeniedError` where no such rule is to be had.
    """
    if unknown := [name for name in weakenings if name not in NAMEABLE]:
        raise UsageError(
            f"no approved rule brings the weakening {unknown[0][:40]!r}",
            hint=f"It may be {' or '.join(NAMEABLE)}.",
        )
    before = resolved(None)
    refused = decide(before, act)
    if refused.allowed:
        raise UsageError(
            f"{act.name[:120]} is allowed by now: {refused.rule} ({refused.source})",
            hint="Nothing needs to change.",
        )
    if ".deny[" in refused.rule:
        hint = f"What a policy denies no proposal opens. {_BY_HAND}"
        raise DeniedError(f"{refused.reason} ({refused.source})", where=refused.rule, hint=hint)
    why: DeniedError | None = None
    for grants in _candidates(act, weakenings):
        try:
            return _tried(act, before, resolved, grants, weakenings)
        except DeniedError as error:
            why = error
    raise why or DeniedError(f"no rule can allow this: {refused.reason}", where=refused.rule, hint=_BY_HAND)


def _tried(
    act: Act, before: Grant, resolved: Resolved, grants: Grants, weakenings: tuple[str, ...]
) -> Smallest:
    """Raises `DeniedError` where it doesn't allow the act, or opens something else.

    A weakening that the policy names and that nothing used comes with the rule, too: asked for, or refused.
    """
    plain, adds = checked(grants)
    try:
        after = resolved(adds)
    except PolicyError as error:
        raise DeniedError(error.message, where=error.where, hint=error.hint) from None
    decision = decide(after, act)
    if not decision.allowed:
        withheld = [one for one in after.withheld if one not in before.withheld]
        because = f"; the grant withholds {'; '.join(withheld)[:300]}" if withheld else ""
        hint = (
            "A tenant's ceiling, and what the bridge asks for, bind every rule: `policy explain` shows both."
        )
        raise DeniedError(
            f"a rule would not help: {decision.reason} ({decision.source}){because}",
            where=decision.rule,
            hint=hint,
        )
    changes = compare(before, after)
    more = [one for one in changes.gained if not _asked(act, one, weakenings)]
    if changes.lost or more:
        shown = "; ".join(f"{one.key} {one.value}" for one in (*more, *changes.lost))
        raise DeniedError(
            f"no rule allows this alone: it would also change what nobody asked about ({shown[:300]})",
            where=next(iter(plain)),
            hint=_BY_HAND,
        )
    known = {_kind_of(one) for one in lint(before)}
    risk = tuple(one for one in lint(after) if _kind_of(one) not in known)
    return Smallest(grants=plain, gained=changes.gained, risk=risk)


def _kind_of(one: Finding) -> tuple[str, str, str]:
    return one.rule, one.key.partition("[")[0], one.value


def _asked(act: Act, gained: Capability, weakenings: tuple[str, ...]) -> bool:
    """Whether that is what was asked for, and no more."""
    name = gained.value.partition(", but ")[0]
    if gained.key == "weakenings":
        return name in weakenings
    match act.what:
        case "operation":
            return (gained.key, name) == ("operations", act.name) or (
                gained.key == "resources" and name in act.kinds
            )
        case "egress":
            provider, method, path = act.name.split(" ", 2)
            return (gained.key, name) == (f"network.endpoints.{provider}", f"{method} {normalise_path(path)}")
        case "connect":
            return gained.key == "network.connect" and name.partition(", ")[0] == act.name
    return (gained.key, name) == (f"{act.what}s", act.name)


def _candidates(act: Act, weakenings: tuple[str, ...]) -> Iterator[Grants]:
    """Rules that may do, each with no more than the one after it."""
    match act.what:
        case "operation":
            name = {"operations.allow": (act.name,)}
            yield name
            if act.kinds:
                kinds = {"resources.allow": act.kinds}
                yield kinds
                yield {**name, **kinds}
        case "tool":
            yield {"tools.allow": (act.name,)}
        case "resource":
            yield {"resources.allow": (act.name,)}
        case "egress":
            yield from _of_egress(act.name)
        case "connect":
            yield from _of_connect(act.name, weakenings)


def _of_egress(name: str) -> Iterator[Grants]:
    provider, _, rest = name.partition(" ")
    method, _, path = rest.partition(" ")
    key = f"network.endpoints.{provider}"
    yield {f"{key}.paths": (path,)}
    yield {f"{key}.methods": (method,)}
    yield {f"{key}.methods": (method,), f"{key}.paths": (path,)}


def _of_connect(name: str, weakenings: tuple[str, ...]) -> Iterator[Grants]:
    named = [tuple(one for one in NAMEABLE if one in weakenings and one in some) for some in _SOME]
    for private in ("", " private") if "private_network" in weakenings else ("",):
        for some in dict.fromkeys(named):
            yield {"network.connect": (f"{name}{private}",), **({"weakenings": some} if some else {})}


_SOME: tuple[tuple[str, ...], ...] = ((), ("connect",), ("private_network",), NAMEABLE)

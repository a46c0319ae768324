"""Explaining a grant and checking files: values in, values out. The command line prints them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Literal

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.ids import nearest
from bridgehold.policies import globs, shipped
from bridgehold.policies.approved import SUFFIX
from bridgehold.policies.complete import problems_of
from bridgehold.policies.compose import Read, compose
from bridgehold.policies.downloads import shown_repo
from bridgehold.policies.limits_table import LIMITS, show
from bridgehold.policies.load import parse
from bridgehold.policies.model import Grant, Overruled, Policy, Source
from bridgehold.policies.narrow import DEFAULT, source_of
from bridgehold.policies.problems import Faulty
from bridgehold.policies.units import format_size

By = Literal["policy", "shipped", "baseline", "ceiling", "approved", "default"]
"""Who says a value: the operator's file, a shipped one, the one below all, a tenant's file, an approved rule,
or nobody."""
_BASELINE = f"{shipped.SHIPPED}baseline.toml"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One value of a grant: where it comes from, and what it replaced (the nearest first)."""

    key: str
    value: str
    source: str
    by: By
    losing: tuple[str, ...] = ()
    """``1 GiB (policies/dspy.toml:4)``."""


def explain(grant: Grant | Policy, ceiling: str = "") -> tuple[Row, ...]:
    """Every value of `grant` in the order of docs/reference/policy.md, and what was withheld.

    `ceiling`: the tenant's file, where one bounds it.
    """
    return tuple(
        Row(
            key=key,
            value=value,
            source=str(source := source_of(grant.sources, key)),
            by=_by(source, ceiling),
            losing=tuple(_lost(item) for item in grant.overruled.get(key, ())),
        )
        for key, value in _values(grant)
    )


def _by(source: Source, ceiling: str) -> By:
    if source == DEFAULT:
        return "default"
    if ceiling and source.file == ceiling:
        return "ceiling"
    if source.file.endswith(f"{SUFFIX}.toml"):
        return "approved"
    if not source.file.startswith(shipped.SHIPPED):
        return "policy"
    return "baseline" if source.file == _BASELINE else "shipped"


def _lost(item: Overruled) -> str:
    return f"{item.value} ({item.source})"


def _values(grant: Grant | Policy) -> Iterator[tuple[str, str]]:
    yield "inline_keys", grant.inline_keys
    yield "weakenings", _list(grant.weakenings)
    for fact in LIMITS:
        yield f"limits.{fact.key}", show(fact.unit, getattr(grant.limits, fact.field))
    yield "filesystem.read", _list(grant.read)
    yield "filesystem.devices", _list(grant.devices)
    if not grant.endpoints:
        yield "network.endpoints", "(none: nothing is reachable)"
    for endpoint in grant.endpoints:
        key = f"network.endpoints.{endpoint.provider}"
        if endpoint.repos is not None:
            yield f"{key}.repos", _list(tuple(shown_repo(pattern) for pattern in endpoint.repos))
            yield f"{key}.files", _list(tuple(pattern[1:] for pattern in endpoint.files))
            yield f"{key}.digests", "any" if endpoint.digests is None else _list(endpoint.digests)
            yield f"{key}.file_size", format_size(endpoint.file_bytes)
            yield f"{key}.total_size", format_size(endpoint.total_bytes)
            continue
        yield f"{key}.methods", _list(endpoint.methods)
        yield f"{key}.paths", _list(endpoint.paths or ())
        yield f"{key}.remote_content", str(endpoint.remote_content).lower()
        yield f"{key}.fields", _list(endpoint.fields)
    for index, connect in enumerate(grant.connects):
        private = " (private addresses too)" if connect.private else ""
        yield f"network.connect[{index}]", f"{connect.host}:{connect.port}{private}"
    for secret in grant.secrets:
        way = f"for {secret.provider}" if secret.how == "gateway" else f"as {secret.variable}"
        yield f"secrets.{secret.name}.how", f"{secret.how}, {way}"
    for secret in grant.tool_secrets if isinstance(grant, Grant) else ():
        if secret not in grant.secrets:
            yield f"secrets.{secret.name}.how", f"{secret.how}, for {secret.provider}, in tools alone"
    for table in ("operations", "tools", "resources"):
        rules = getattr(grant, table)
        yield f"{table}.allow", _list(rules.allow)
        yield f"{table}.deny", _list(rules.deny)
    for field in grant.rate.__struct_fields__:
        value = getattr(grant.rate, field)
        yield f"rate.{field}", "any" if value is None else str(value)
    for field in grant.sandbox.__struct_fields__:
        yield f"sandbox.{field}", getattr(grant.sandbox, field)
    for index, text in enumerate(grant.withheld if isinstance(grant, Grant) else ()):
        yield f"withheld[{index}]", text


def _list(items: tuple[str, ...]) -> str:
    return ", ".join(items) or "(none)"


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One problem of a set of policies: ``policy``, ``file:line`` and what is wrong."""

    policy: str
    where: str
    message: str


def check(texts: Mapping[str, tuple[str, str]]) -> tuple[Fault, ...]:
    """Every problem of the policies `texts` (name → (text, file)); shipped ones may be extended."""

    def read(name: str) -> tuple[str, str] | None:
        return texts.get(name) or shipped.read(name)

    found: dict[tuple[str, str], Fault] = {}
    for name in texts:
        for where, message in _faults(name, read):
            found.setdefault((where, message), Fault(policy=name, where=where, message=message))
    return tuple(found.values())


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the names of a policy can mean on this host."""

    operations: tuple[str, ...]
    """``bridge:operation`` of every bridge, or patterns where a bridge doesn't declare them."""
    resources: tuple[str, ...]
    providers: tuple[str, ...]
    unread: tuple[str, ...] = ()
    """Bridges whose manifest is broken: what they offer can't be told."""


def unknown_names(
    text: str, file: str, known: Known, *, tables: Collection[str] | None = None
) -> Iterator[str]:
    """Names of a file that nothing here bears, each with its line: what is misspelt allows or denies nothing.

    `tables`: the file is a tenant's, with tables ``[bridges.NAME]`` of these names. A file that can't be
    read has none.
    """
    for below in ("", *(f"bridges.{name}" for name in tables or ())):
        try:
            draft = parse(text, file, below=below, tenant=tables is not None)
        except Faulty:
            continue
        for key, entry in draft.entries.items():
            items = entry.value if isinstance(entry.value, tuple) else (entry.value,)
            for item, source in zip(items, entry.items or (entry.source,), strict=False):
                fault = unknown_name(key, item, known, table=entry.table)
                if fault:
                    yield f"{source}: {key}: {fault}"


def unknown_name(key: str, item: object, known: Known, *, table: bool) -> str:
    """Why nothing here bears what stands at `key`; empty: something does, or may. `table`: `key` is one."""
    name = str(item)
    match key.split("."):
        case ["operations", _]:
            return _no_operation(name, known)
        case ["resources", _] if not any(globs.meet(name, kind) for kind in known.resources):
            return f"{name!r}: no bridge has resources of this kind{nearest(name, known.resources)}"
        case ["network", "endpoints", provider] if table and provider not in known.providers:
            return f"there is no [providers.{provider}] in config.toml{nearest(provider, known.providers)}"
        case ["secrets", _, "provider"] if name not in known.providers:
            return f"there is no [providers.{name}] in config.toml{nearest(name, known.providers)}"
    return ""


def _no_operation(pattern: str, known: Known) -> str:
    others = (f"{bridge}:*" for bridge in (*known.unread, "common"))
    if any(globs.meet(pattern, one) for one in (*known.operations, *others)):
        return ""
    bridges = {one.partition(":")[0] for one in known.operations}
    bridge, _, operation = pattern.partition(":")
    if not operation and "*" not in bridge:
        return f"{pattern!r} is no operation: write bridge:operation{nearest(pattern, known.operations)}"
    if bridge not in bridges and "*" not in bridge:
        return f"{pattern!r}: there is no bridge {bridge!r}{nearest(bridge, bridges)}"
    return f"{pattern!r}: no bridge has such an operation{nearest(pattern, known.operations)}"


def _faults(name: str, read: Read) -> Iterator[tuple[str, str]]:
    try:
        policy = compose(name, read)
    except PolicyError as error:
        for line in error.message.splitlines():
            where, _, message = line.partition(": ")
            yield where, message
        return
    for problem in problems_of(policy):
        yield str(problem.source), f"{problem.key}: {problem.message}"

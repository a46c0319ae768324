"""`extends` chains to one `Policy`, and a tenant's file to its ceiling (pure: files come by `read`).

A file that extends its own name starts from the shipped policy of that name, which it stands in for.
Tables merge key by key, the file that extends wins. Lists replace, except `deny`, which adds: a
file can't drop what the one below it denies.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import msgspec

from bridgehold.errors import PolicyError
from bridgehold.ids import nearest
from bridgehold.policies import shipped
from bridgehold.policies.limits_table import LIMITS
from bridgehold.policies.load import Draft, Entry, bridge_tables, parse
from bridgehold.policies.model import (
    Endpoint,
    Limits,
    Overruled,
    Policy,
    Rate,
    Rules,
    SandboxRules,
    SecretGrant,
    Source,
)
from bridgehold.policies.narrow import narrow
from bridgehold.policies.problems import Faulty, Problem, policy_error
from bridgehold.policies.shipped import SHIPPED

__all__ = ["Read", "built", "compose", "compose_tenant", "narrow"]

Read = Callable[[str], "tuple[str, str] | None"]
"""Policy name to (text, file name), or None where there is none; ``shipped:NAME`` is the shipped one."""

MAX_DEPTH = 8


class _Merged:
    """Entries of a chain, the winner and the losers of each key."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.overruled: dict[str, tuple[Overruled, ...]] = {}

    def lay(self, draft: Draft) -> None:
        """Put `draft` over what is there."""
        for key, entry in draft.entries.items():
            before = self.entries.get(key)
            self.entries[key] = entry
            if before is None or entry.table:
                continue
            if key.endswith(".deny") and isinstance(before.value, tuple) and isinstance(entry.value, tuple):
                self.entries[key] = Entry(
                    before.value + entry.value,
                    f"{before.shown}, {entry.shown}",
                    entry.source,
                    before.items + entry.items,
                )
                continue
            lost = Overruled(before.shown, before.source)
            self.overruled[key] = (lost, *self.overruled.get(key, ()))


def compose(name: str, read: Read) -> Policy:
    """The policy `name` with everything that it extends.

    Raises `PolicyError`, which names every fault of every file of the chain.
    """
    try:
        return built(name, _chain(name, read))
    except Faulty as faulty:
        raise policy_error(faulty.problems) from None


def compose_tenant(
    tenant: str, text: str, file: str, bridge: str, read: Read, *, known: Collection[str]
) -> Policy:
    """A tenant's ceiling for `bridge`: its file, with the table ``[bridges.NAME]`` laid over it.

    `known`: every bridge's name; a table for another one is a fault. What the file doesn't mention
    stays as the policy has it. Raises `PolicyError`.
    """
    try:
        drafts, own = _tenant_drafts(text, file, bridge, read, known)
        ceiling = built(tenant, drafts)
        return msgspec.structs.replace(ceiling, particular=frozenset(own.entries) if own else frozenset())
    except Faulty as faulty:
        raise policy_error(faulty.problems) from None


def _tenant_drafts(
    text: str, file: str, bridge: str, read: Read, known: Collection[str]
) -> tuple[list[Draft], Draft | None]:
    """The chain, the file, its table for `bridge`; and that table alone. All is checked: raises `Faulty`."""
    problems: list[Problem] = []
    drafts: dict[str, Draft] = {}
    try:
        tables = bridge_tables(text, file, known)
    except Faulty as faulty:
        problems, tables = list(faulty.problems), ()
    for below in ("", *(f"bridges.{name}" for name in tables)):
        try:
            drafts[below] = parse(text, file, below=below, tenant=True)
        except Faulty as faulty:
            problems += faulty.problems
            continue
        if below and drafts[below].extends:
            problems.append(Problem(Source(file), f"{below}.extends", "only the file itself extends"))
    if problems:
        raise Faulty(problems)
    chain = _chain(drafts[""].extends, read, _extends_line(text, file)) if drafts[""].extends else []
    own = drafts.get(f"bridges.{bridge}")
    return [*chain, drafts[""], *([own] if own is not None else [])], own


def _chain(name: str, read: Read, where: Source | None = None) -> list[Draft]:
    """Drafts from the root of the chain to `name`, which `where` names. Every readable file's problems are
    collected.
    """
    drafts: list[Draft] = []
    problems: list[Problem] = []
    seen: list[str] = []
    named, where = where is not None, where or Source("")
    while name:
        if name in seen:
            problems.append(Problem(where, "extends", f"a circle: {' → '.join([*seen, name])}"))
            break
        seen.append(name)
        if len(seen) > MAX_DEPTH:
            problems.append(Problem(where, "extends", f"more than {MAX_DEPTH} policies in a chain"))
            break
        found = read(name)
        if found is None:
            if not drafts and not named:
                raise PolicyError(_no_policy(name), hint="`bridgehold policy check` lists the policies.")
            problems.append(Problem(where, "extends", _no_policy(name)))
            break
        text, file = found
        try:
            draft = parse(text, file)
        except Faulty as faulty:
            problems += faulty.problems
            break
        drafts.append(draft)
        name = f"{SHIPPED}{name}" if draft.extends == name else draft.extends
        where = _extends_line(text, file)
    if problems:
        raise Faulty(problems)
    return drafts[::-1]


def _no_policy(name: str) -> str:
    if not name.startswith(SHIPPED):
        return f"there is no policy {name[:80]!r}{nearest(name, shipped.names())}"
    own = name.removeprefix(SHIPPED)
    return (
        f"{own!r} is this file itself, and no policy of this name is shipped: "
        f"extend one of {', '.join(shipped.names())}, or take the line out"
    )


def _extends_line(text: str, file: str) -> Source:
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("extends"):
            return Source(file, number)
    return Source(file)


def built(name: str, drafts: list[Draft]) -> Policy:
    """The policy of `drafts`, each laid over the one before it."""
    merged = _Merged()
    for draft in drafts:
        merged.lay(draft)
    entries = merged.entries
    sources: dict[str, Source] = {}
    for key, entry in entries.items():
        sources[key] = entry.source
        sources.update({f"{key}[{index}]": source for index, source in enumerate(entry.items)})
    top: dict[str, Any] = {key: entries[key].value for key in ("inline_keys", "weakenings") if key in entries}
    fields = {f"limits.{fact.key}": fact.field for fact in LIMITS}
    return Policy(
        name=name,
        limits=_struct(Limits, {fields[key]: entry for key, entry in entries.items() if key in fields}),
        endpoints=tuple(
            _endpoint(provider, table) for provider, table in _tables(entries, "network.endpoints").items()
        ),
        connects=_value(entries, "network.connect"),
        secrets=tuple(_secret(secret, table) for secret, table in _tables(entries, "secrets").items()),
        operations=_rules(entries, "operations"),
        tools=_rules(entries, "tools"),
        resources=_rules(entries, "resources"),
        read=_value(entries, "filesystem.read"),
        devices=_value(entries, "filesystem.devices"),
        rate=_struct(Rate, _below(entries, "rate")),
        sandbox=_struct(SandboxRules, _below(entries, "sandbox")),
        sources=sources,
        overruled=merged.overruled,
        **top,
    )


def _endpoint(provider: str, table: dict[str, Entry]) -> Endpoint:
    sizes = {"file_size": "file_bytes", "total_size": "total_bytes"}
    named = {sizes.get(key, key): entry for key, entry in table.items()}
    endpoint: Endpoint = _struct(Endpoint, named, provider=provider)
    return endpoint


def _secret(name: str, table: dict[str, Entry]) -> SecretGrant:
    """A gateway secret is bound to the provider of its own name unless the file says otherwise."""
    secret: SecretGrant = _struct(SecretGrant, table, name=name)
    if secret.how == "gateway" and not secret.provider:
        return msgspec.structs.replace(secret, provider=name)
    return secret


def _below(entries: dict[str, Entry], table: str) -> dict[str, Entry]:
    prefix = f"{table}."
    return {
        key.removeprefix(prefix): entry
        for key, entry in entries.items()
        if key.startswith(prefix) and "." not in key.removeprefix(prefix)
    }


def _tables(entries: dict[str, Entry], table: str) -> dict[str, dict[str, Entry]]:
    return {
        name: _below(entries, f"{table}.{name}")
        for name, entry in _below(entries, table).items()
        if entry.table
    }


def _struct(kind: type[Any], table: dict[str, Entry], **fixed: str) -> Any:
    return kind(**fixed, **{field: entry.value for field, entry in table.items()})


def _value(entries: dict[str, Entry], key: str) -> Any:
    entry = entries.get(key)
    return () if entry is None else entry.value


def _rules(entries: dict[str, Entry], table: str) -> Rules:
    return Rules(allow=_value(entries, f"{table}.allow"), deny=_value(entries, f"{table}.deny"))

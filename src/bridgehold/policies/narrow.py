"""A policy narrowed by a tenant's ceiling: of two bounds the lower one holds, and nothing gets wider.

A key is mentioned where the ceiling has a source for it. What a tenant's file says of all bridges is a
ceiling over many policies: it may be above one of them, and what both allow holds. What it says of one
bridge (`Policy.particular`) must lie within that bridge's policy, or it is refused: it could have no
other purpose than to widen. `deny` adds. An empty list allows nothing; where a field takes None, that is
anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec

from bridgehold.policies import globs
from bridgehold.policies.limits_table import LIMITS, show
from bridgehold.policies.model import Connect, Endpoint, Overruled, Policy, Rules, SecretGrant, Source
from bridgehold.policies.names import host_covers, meet_paths, path_covers
from bridgehold.policies.problems import Problem, policy_error
from bridgehold.policies.units import format_size
from bridgehold.policies.vocabulary import ANY

_Item = TypeVar("_Item")
_Meet = Callable[[_Item, _Item], tuple[_Item, ...]]
"""What two items allow together."""
_HUB = ("repos", "files", "digests", "file_size", "total_size")
_PLAIN = ("methods", "paths", "remote_content", "fields")
_ORDER: dict[str, tuple[str, ...]] = {
    "inline_keys": ("refuse", "capture", "pass"),
    "sandbox.start": ("cold", "fork"),
    "sandbox.isolation": ("namespaces",),
    "sandbox.seccomp": ("default",),
    "sandbox.enforcement": ("strict", "weakened"),
}
"""Choices from the narrowest to the widest."""
DEFAULT = Source("default")


def source_of(sources: dict[str, Source], key: str) -> Source:
    """Where `key` was set, or the table around it, or that it is Bridgehold's default.

    A number that its table doesn't mention is a default, wherever the table stands.
    """
    while key:
        if key in sources:
            return sources[key]
        if key.startswith(("limits.", "rate.", "sandbox.")):
            return DEFAULT
        key = key[: key.rindex("[")] if key.endswith("]") else key.rpartition(".")[0]
    return DEFAULT


def narrow(policy: Policy, ceiling: Policy) -> Policy:
    """`policy` within `ceiling`.

    Raises `PolicyError` that names every widening of what is said for this bridge alone, with the line of
    the tenant's file and of the policy's.
    """
    narrower = _Narrower(policy, ceiling)
    narrowed = narrower.run()
    if narrower.problems:
        raise policy_error(
            narrower.problems,
            hint="A tenant's file may only narrow: lower the value, take the item out, or widen the policy.",
        )
    return narrowed


class _Narrower:
    def __init__(self, policy: Policy, ceiling: Policy) -> None:
        self.policy = policy
        self.ceiling = ceiling
        self.problems: list[Problem] = []
        self.sources = dict(policy.sources)
        self.overruled = dict(policy.overruled)

    def run(self) -> Policy:
        limits = {fact.field: f"limits.{fact.key}" for fact in LIMITS}
        rates = {field: f"rate.{field}" for field in self.policy.rate.__struct_fields__}
        sandbox = {field: f"sandbox.{field}" for field in self.policy.sandbox.__struct_fields__}
        return msgspec.structs.replace(
            self.policy,
            limits=self._least("limits", limits),
            rate=self._least("rate", rates),
            sandbox=self._choices("sandbox", sandbox),
            inline_keys=self._choice("inline_keys", self.policy.inline_keys, self.ceiling.inline_keys),
            endpoints=self._endpoints(),
            connects=self._items(
                "network.connect",
                self.policy.connects,
                self.ceiling.connects,
                _connect_covers,
                lambda item: f"{item.host}:{item.port}",
                _connect_meet,
            ),
            secrets=self._secrets(),
            operations=self._rules("operations"),
            tools=self._rules("tools"),
            resources=self._rules("resources"),
            read=self._items("filesystem.read", self.policy.read, self.ceiling.read, _folder_covers, str),
            devices=self._items(
                "filesystem.devices", self.policy.devices, self.ceiling.devices, lambda a, b: a == b, str
            ),
            weakenings=self._items(
                "weakenings", self.policy.weakenings, self.ceiling.weakenings, lambda a, b: a == b, str
            ),
            sources=self.sources,
            overruled=self.overruled,
        )

    def _mentioned(self, key: str) -> bool:
        return key in self.ceiling.sources

    def _widens(self, key: str, wide: str, narrow_: str) -> None:
        """A fault where the ceiling says it for this bridge; the policy's value holds in any case."""
        if key not in self.ceiling.particular:
            return
        source = source_of(self.policy.sources, key)
        self.problems.append(
            Problem(
                source_of(self.ceiling.sources, key), key, f"{wide} widens the policy's {narrow_} ({source})"
            )
        )

    def _take(self, key: str, lost: str) -> None:
        """Note that the ceiling's value of `key` is the one that holds."""
        before = Overruled(lost, source_of(self.policy.sources, key))
        self.sources = {
            name: source for name, source in self.sources.items() if not name.startswith(f"{key}[")
        }
        mine = {
            name: source
            for name, source in self.ceiling.sources.items()
            if name == key or name.startswith(f"{key}[")
        }
        self.sources.update(mine)
        self.overruled[key] = (before, *self.overruled.get(key, ()))

    def _least(self, table: str, keys: dict[str, str]) -> Any:
        ours, theirs = getattr(self.policy, table), getattr(self.ceiling, table)
        changes: dict[str, int | None] = {}
        for field, key in keys.items():
            if not self._mentioned(key):
                continue
            mine, given = getattr(ours, field), getattr(theirs, field)
            if mine is not None and (given is None or given > mine):
                self._widens(key, _number(field, given), _number(field, mine))
            elif given != mine:
                self._take(key, _number(field, mine))
                changes[field] = given
        return msgspec.structs.replace(ours, **changes)

    def _choices(self, table: str, keys: dict[str, str]) -> Any:
        ours, theirs = getattr(self.policy, table), getattr(self.ceiling, table)
        changes = {
            field: self._choice(key, getattr(ours, field), getattr(theirs, field))
            for field, key in keys.items()
        }
        return msgspec.structs.replace(ours, **changes)

    def _choice(self, key: str, mine: str, given: str) -> str:
        if not self._mentioned(key) or given == mine:
            return mine
        order = _ORDER[key]
        if order.index(given) > order.index(mine):
            self._widens(key, given, mine)
            return mine
        self._take(key, mine)
        return given

    def _items(
        self,
        key: str,
        ours: tuple[_Item, ...],
        theirs: tuple[_Item, ...],
        covers: Callable[[_Item, _Item], bool],
        shown: Callable[[_Item], str],
        meet: _Meet[_Item] | None = None,
    ) -> tuple[_Item, ...]:
        """Of a list that is always one: where the policy says nothing, it allows nothing.

        `meet` is of items that may overlap without one covering the other.
        """
        if not self._mentioned(key):
            return ours
        if key not in self.ceiling.particular:
            return self._both(key, ours, theirs, covers, shown, meet)
        for index, item in enumerate(theirs):
            if not any(covers(mine, item) for mine in ours):
                source = source_of(self.policy.sources, key)
                listed = ", ".join(shown(mine) for mine in ours) or "nothing"
                self.problems.append(
                    Problem(
                        source_of(self.ceiling.sources, f"{key}[{index}]"),
                        key,
                        f"{shown(item)} widens the policy, which has {listed[:300]} ({source})",
                    )
                )
        if ours != theirs:
            self._take(key, ", ".join(shown(mine) for mine in ours) or "(none)")
        return theirs

    def _both(
        self,
        key: str,
        ours: tuple[_Item, ...],
        theirs: tuple[_Item, ...],
        covers: Callable[[_Item, _Item], bool],
        shown: Callable[[_Item], str],
        meet: _Meet[_Item] | None,
    ) -> tuple[_Item, ...]:
        """What an item of each allows, with the source of the narrower one."""
        met: dict[_Item, Source] = {}
        for mine, item in enumerate(ours):
            for given, other in enumerate(theirs):
                source = source_of(self.ceiling.sources, f"{key}[{given}]")
                found: tuple[_Item, ...] = ()
                if covers(item, other):
                    found = (other,)
                elif covers(other, item):
                    found, source = (item,), source_of(self.policy.sources, f"{key}[{mine}]")
                elif meet is not None:
                    found = meet(item, other)
                for one in found:
                    met.setdefault(one, source)
        if set(met) == set(ours):
            return ours
        self._take(key, ", ".join(shown(mine) for mine in ours) or "(none)")
        for name in [name for name in self.sources if name.startswith(f"{key}[")]:
            del self.sources[name]
        self.sources.update({f"{key}[{index}]": source for index, source in enumerate(met.values())})
        return tuple(met)

    def _rules(self, table: str) -> Rules:
        ours: Rules = getattr(self.policy, table)
        theirs: Rules = getattr(self.ceiling, table)
        allow = self._items(f"{table}.allow", ours.allow, theirs.allow, globs.covers, str, globs.meet)
        if self._mentioned(f"{table}.deny"):
            for index in range(len(theirs.deny)):
                source = source_of(self.ceiling.sources, f"{table}.deny[{index}]")
                self.sources[f"{table}.deny[{len(ours.deny) + index}]"] = source
            self.sources.setdefault(f"{table}.deny", self.ceiling.sources[f"{table}.deny"])
            return Rules(allow=allow, deny=ours.deny + theirs.deny)
        return Rules(allow=allow, deny=ours.deny)

    def _endpoints(self) -> tuple[Endpoint, ...]:
        if not self._mentioned("network.endpoints"):
            return self.policy.endpoints
        ours = {endpoint.provider: endpoint for endpoint in self.policy.endpoints}
        self._named("network.endpoints", ours, (endpoint.provider for endpoint in self.ceiling.endpoints))
        return tuple(
            self._endpoint(ours[endpoint.provider], endpoint)
            for endpoint in self.ceiling.endpoints
            if endpoint.provider in ours
        )

    def _endpoint(self, mine: Endpoint, given: Endpoint) -> Endpoint:
        key = f"network.endpoints.{mine.provider}"
        hub = mine.repos is not None
        self._unfitting(key, _PLAIN if hub else _HUB, "a hub" if hub else "no hub")
        if hub:
            return self._hub(key, mine, given)
        remote = mine.remote_content
        if self._mentioned(f"{key}.remote_content") and given.remote_content != remote:
            if given.remote_content:
                self._widens(f"{key}.remote_content", "true", "false")
            else:
                self._take(f"{key}.remote_content", "true")
                remote = False
        return Endpoint(
            provider=mine.provider,
            methods=self._items(f"{key}.methods", mine.methods, given.methods, lambda a, b: a == b, str),
            paths=self._items(
                f"{key}.paths", mine.paths or (), given.paths or (), path_covers, str, meet_paths
            ),
            remote_content=remote,
            fields=self._items(f"{key}.fields", mine.fields, given.fields, _field_covers, str),
        )

    def _unfitting(self, key: str, fields: tuple[str, ...], what: str) -> None:
        """A bound that would bound nothing is not taken in silence."""
        for name in (f"{key}.{field}" for field in fields if self._mentioned(f"{key}.{field}")):
            message = f"the policy's endpoint is {what}, and this key bounds nothing of it"
            self.problems.append(Problem(source_of(self.ceiling.sources, name), name, message))

    def _hub(self, key: str, mine: Endpoint, given: Endpoint) -> Endpoint:
        sizes: dict[str, int] = {}
        for field, name in (("file_bytes", "file_size"), ("total_bytes", "total_size")):
            own, wanted = getattr(mine, field), getattr(given, field)
            if not self._mentioned(f"{key}.{name}") or wanted == own:
                continue
            if wanted > own:
                self._widens(f"{key}.{name}", format_size(wanted), format_size(own))
            else:
                self._take(f"{key}.{name}", format_size(own))
                sizes[field] = wanted
        return msgspec.structs.replace(
            mine,
            repos=self._items(
                f"{key}.repos", mine.repos or (), given.repos or (), path_covers, str, meet_paths
            ),
            files=self._items(f"{key}.files", mine.files, given.files, path_covers, str, meet_paths),
            digests=self._pins(f"{key}.digests", mine.digests, given.digests),
            **sizes,
        )

    def _pins(
        self, key: str, mine: tuple[str, ...] | None, given: tuple[str, ...] | None
    ) -> tuple[str, ...] | None:
        """Of a list that may also be anything: any list is within that, and it is within itself alone."""
        if not self._mentioned(key) or given == mine:
            return mine
        if mine is None:
            self._take(key, ANY)
            return given
        if given is None:
            self._widens(key, ANY, ", ".join(mine)[:300] or "nothing")
            return mine
        return self._items(key, mine, given, lambda a, b: a == b, str)

    def _secrets(self) -> tuple[SecretGrant, ...]:
        if not self._mentioned("secrets"):
            return self.policy.secrets
        ours = {secret.name: secret for secret in self.policy.secrets}
        self._named("secrets", ours, (secret.name for secret in self.ceiling.secrets))
        kept = []
        for given in (secret for secret in self.ceiling.secrets if secret.name in ours):
            other = False
            for field in ("how", "provider", "variable"):
                key = f"secrets.{given.name}.{field}"
                mine = getattr(ours[given.name], field)
                if self._mentioned(key) and getattr(given, field) != mine:
                    self._widens(key, getattr(given, field), mine or "(none)")
                    other = True
            if not other:
                kept.append(ours[given.name])
        return tuple(kept)

    def _named(self, table: str, ours: dict[str, Any], given: Iterable[str]) -> None:
        """Every table that the ceiling names for this bridge must be one of the policy's."""
        names = [name for name in given if name in ours or f"{table}.{name}" in self.ceiling.particular]
        for name in names:
            if name not in ours:
                source = source_of(self.policy.sources, table)
                key = f"{table}.{name}"
                self.problems.append(
                    Problem(
                        source_of(self.ceiling.sources, key),
                        key,
                        f"widens the policy, which has {', '.join(ours) or 'none'} ({source})",
                    )
                )
        if set(names) != set(ours):
            before = Overruled(", ".join(ours) or "(none)", source_of(self.policy.sources, table))
            self.overruled[table] = (before, *self.overruled.get(table, ()))
            self.sources[table] = self.ceiling.sources[table]


def _number(field: str, value: int | None) -> str:
    units = {fact.field: fact.unit for fact in LIMITS}
    if value is None:
        return ANY
    return show(units.get(field, "count"), value)


def _connect_covers(wide: Connect, narrow_: Connect) -> bool:
    return (
        host_covers(wide.host, narrow_.host)
        and wide.port == narrow_.port
        and (wide.private or not narrow_.private)
    )


def _connect_meet(one: Connect, other: Connect) -> tuple[Connect, ...]:
    if one.port != other.port:
        return ()
    hosts = {one.host, other.host}
    narrower = [host for host in hosts if all(host_covers(wide, host) for wide in hosts)]
    return tuple(
        Connect(host=host, port=one.port, private=one.private and other.private) for host in narrower
    )


def _field_covers(wide: str, narrow_: str) -> bool:
    return wide in (narrow_, "*") or narrow_.startswith((f"{wide}.", f"{wide}[", f"{wide}="))


def _folder_covers(wide: str, narrow_: str) -> bool:
    return narrow_ == wide or narrow_.startswith(f"{wide}/")

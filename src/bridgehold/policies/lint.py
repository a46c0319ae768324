"""What a reviewer should look at in a grant: each finding with its severity, its line and what to do (pure).

A finding says what the grant makes possible, not that something has happened. What a bridge can't reach
anyway is none: a grant is what is left of policy, manifest, ceiling and machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from bridgehold.policies.lint_rules import BY_NAME, SEVERITIES, Severity
from bridgehold.policies.model import Endpoint, Grant, Policy, Weakening
from bridgehold.policies.narrow import source_of

_SYSTEM = frozenset(
    (
        *("", "/boot", "/dev", "/etc", "/home", "/media", "/mnt", "/opt", "/proc", "/root", "/run", "/srv"),
        *("/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/run"),  # noqa: S108 - names alone
    )
)
_BEYOND = "beyond-machine"
_HARMLESS = frozenset({"GET", "HEAD", "POST"})
_MILD: frozenset[Weakening] = frozenset({"pth", "overcommit"})
_SPANS = ("day", "month")
_BUDGETS = tuple(f"{what}_per_{span}" for what in ("requests", "tokens", "money") for span in _SPANS)


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One rule, met."""

    rule: str
    severity: Severity
    tenant: str
    bridge: str
    key: str
    """Of the policy."""
    value: str
    where: str
    """``file:line``."""

    @property
    def means(self) -> str:
        """What it makes possible."""
        return BY_NAME[self.rule].means

    @property
    def remedy(self) -> str:
        """What to do."""
        return BY_NAME[self.rule].remedy


def lint(grant: Grant, policy: Policy | None = None) -> tuple[Finding, ...]:
    """The findings of a grant, the gravest first; `policy`: what it was resolved from, for what is unused."""
    found = [
        Finding(
            rule=name,
            severity=_severity(name, value),
            tenant=grant.tenant,
            bridge=grant.bridge,
            key=key,
            value=value,
            where=str(grant.overruled[key][0].source if name == _BEYOND else source_of(grant.sources, key)),
        )
        for name, key, value in (*_found(grant), *(_unused(grant, policy) if policy is not None else ()))
    ]
    return tuple(sorted(found, key=lambda one: (SEVERITIES.index(one.severity), one.key, one.value)))


def beyond_machine(grant: Grant) -> tuple[str, ...]:
    """The limits that the grant's machine can't hold: it is given less than its policy says."""
    return tuple(
        key for key, losing in grant.overruled.items() if losing and str(grant.sources.get(key)) == "machine"
    )


def gravest(found: Iterable[Finding]) -> Severity | None:
    """The gravest of all; None: there are none."""
    return min((one.severity for one in found), key=SEVERITIES.index, default=None)


def _severity(rule: str, value: str) -> Severity:
    return "low" if rule == "weakening" and value in _MILD else BY_NAME[rule].severity


_Found = Iterator[tuple[str, str, str]]
"""(rule, key, value)"""


def _found(grant: Grant) -> _Found:
    yield from _of_network(grant)
    yield from _of_machine(grant)
    yield from _of_names(grant)
    for secret in grant.secrets:
        inside = secret.how == "env"
        yield (
            "key-inside" if inside else "key-reach",
            f"secrets.{secret.name}",
            secret.variable if inside else secret.provider,
        )
    if grant.inline_keys == "pass":
        yield "keys-pass", "inline_keys", "pass"


def _of_network(grant: Grant) -> _Found:
    for endpoint in grant.endpoints:
        yield from _of_endpoint(endpoint)
    if grant.endpoints and not _bounded(grant):
        yield "no-budget", "rate.provider_tokens_total", "any"
    for index, connect in enumerate(grant.connects):
        key, value = f"network.connect[{index}]", f"{connect.host}:{connect.port}"
        yield "tunnel", key, value
        if connect.private:
            yield "private-reach", key, value
        if "*" in connect.host:
            yield "wide-host", key, value


def _of_machine(grant: Grant) -> _Found:
    for path in grant.read:
        yield "wide-read" if path.rstrip("/") in _SYSTEM else "read", "filesystem.read", path
    for device in grant.devices:
        yield "device", "filesystem.devices", device
    for weakening in grant.weakenings:
        yield "weakening", "weakenings", weakening
    for key in beyond_machine(grant):
        yield _BEYOND, key, grant.overruled[key][0].value


def _of_names(grant: Grant) -> _Found:
    for rule, table, whole in (
        ("all-operations", "operations", ("*", f"{grant.bridge}:*")),
        ("all-tools", "tools", ("*",)),
    ):
        for index, pattern in enumerate(getattr(grant, table).allow):
            if pattern in whole:
                yield rule, f"{table}.allow[{index}]", pattern


def _of_endpoint(endpoint: Endpoint) -> _Found:
    key = f"network.endpoints.{endpoint.provider}"
    if endpoint.remote_content:
        yield "provider-as-exit", f"{key}.remote_content", "true"
    for field in endpoint.fields:
        yield ("provider-as-exit" if field == "*" else "provider-fields"), f"{key}.fields", field
    if endpoint.repos is not None:
        return
    for path in endpoint.paths or ():
        if "*" in path.split("/"):
            yield "wide-paths", f"{key}.paths", path
    for method in endpoint.methods:
        if method not in _HARMLESS:
            yield "changing-methods", f"{key}.methods", method


def _bounded(grant: Grant) -> bool:
    rate, ceilings = grant.rate, grant.ceilings
    own = rate.provider_tokens_total is not None or rate.provider_requests_total is not None
    return own or any(getattr(ceilings, name) is not None for name in _BUDGETS)


def _unused(grant: Grant, policy: Policy) -> _Found:
    granted = {endpoint.provider for endpoint in grant.endpoints}
    for endpoint in policy.endpoints:
        if endpoint.provider not in granted:
            yield "unused", f"network.endpoints.{endpoint.provider}", endpoint.provider
    kept = {secret.name for secret in (*grant.secrets, *grant.tool_secrets)}
    for secret in policy.secrets:
        if secret.name not in kept:
            yield "unused", f"secrets.{secret.name}", secret.name
    for connect in policy.connects:
        if connect not in grant.connects:
            yield "unused", "network.connect", f"{connect.host}:{connect.port}"

"""Manifest ∩ policy ∩ ceiling ∩ machine, resolved to one frozen, hashed `Grant` (pure).

Deny by default: what the manifest doesn't ask for isn't granted, what the policy doesn't grant is
left out and named in `withheld`, and a barrier that the machine can't give is a refusal.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import get_args

import msgspec

from bridgehold.errors import ManifestError, PolicyError, UnsupportedError
from bridgehold.ids import Digest, digest_bytes
from bridgehold.policies import rules
from bridgehold.policies.complete import problems_of
from bridgehold.policies.limits_table import BY_FIELD, show
from bridgehold.policies.meet import Intersection
from bridgehold.policies.model import Grant, Limits, Machine, Needs, Overruled, Policy, Source, Weakening
from bridgehold.policies.narrow import narrow, source_of
from bridgehold.policies.problems import policy_error

_UNHASHED = frozenset({"sources", "overruled", "ceilings", "until", "then", "digest"})
_MACHINE = Source("machine")
_REMEDIES: dict[Weakening, tuple[str, str]] = {
    "no_cgroup": (
        "no cgroup for its sessions",
        "run the host as a service with Delegate=yes (or as root), so that it owns a cgroup",
    ),
    "shared_uid": (
        "no kernel uid of its own for each session",
        "install uidmap and give the host's user a range in /etc/subuid and /etc/subgid",
    ),
    "no_seccomp": ("no system call filter", "use a kernel with CONFIG_SECCOMP_FILTER"),
}


def resolve(
    needs: Needs,
    policy: Policy,
    ceiling: Policy | None,
    machine: Machine,
    *,
    tenant: str,
    bridge: str,
    version: str,
    private_providers: Collection[str] = (),
) -> Grant:
    """The grant of `tenant` for `bridge` on `machine`.

    `private_providers` are those that the host's configuration places at private addresses; granting
    one demands the weakening ``private_network``. Raises `PolicyError` (a rule that
    can't work, a ceiling that widens, a minimum of the manifest that isn't met), `UnsupportedError`
    (a barrier that this machine can't give) and `ManifestError` (a limit that doesn't exist).
    """
    faults = problems_of(policy, private_providers)
    if faults:
        raise policy_error(faults)
    bounded = policy if ceiling is None else narrow(policy, ceiling)
    _check_barriers(bounded, machine)
    _check_devices(bounded, machine)
    sources = dict(bounded.sources)
    overruled = dict(bounded.overruled)
    limits = _limits(bounded, machine, sources, overruled)
    _check_minimum(needs, limits, sources, bridge)
    intersection = Intersection(needs, bounded, sources, private_providers)
    endpoints = intersection.endpoints()
    grant = Grant(
        tenant=tenant,
        bridge=bridge,
        bridge_version=version,
        policy=bounded.name,
        limits=limits,
        endpoints=endpoints,
        connects=intersection.connects(),
        secrets=intersection.secrets(endpoints),
        tool_secrets=tuple(one for one in bounded.secrets if one.how == "gateway" and bounded.tools.allow),
        operations=intersection.rules("operations", needs.operations),
        tools=bounded.tools,
        resources=intersection.rules("resources", needs.resources),
        read=bounded.read,
        devices=bounded.devices if "devices" in bounded.weakenings else (),
        rate=bounded.rate,
        inline_keys=_inline_keys(bounded),
        sandbox=bounded.sandbox,
        weakenings=(),
        machine=machine,
        sources=intersection.sources,
        withheld=tuple(intersection.withheld),
        overruled=overruled,
    )
    used = _used(grant, bounded, private_providers)
    grant = msgspec.structs.replace(
        grant, weakenings=tuple(name for name in get_args(Weakening) if name in used)
    )
    return msgspec.structs.replace(grant, digest=digest(grant))


def digest(grant: Grant) -> Digest:
    """``sha256:`` of the canonical JSON of everything but sources and ceilings: what is granted, not why."""
    fields = {name: getattr(grant, name) for name in grant.__struct_fields__ if name not in _UNHASHED}
    return digest_bytes(msgspec.json.encode(fields, order="deterministic"))


def _missing(machine: Machine) -> tuple[Weakening, ...]:
    found: list[Weakening] = []
    if machine.cgroup == "none":
        found.append("no_cgroup")
    if machine.uids == "shared":
        found.append("shared_uid")
    if not machine.seccomp:
        found.append("no_seccomp")
    return tuple(found)


def _check_barriers(policy: Policy, machine: Machine) -> None:
    weakened = policy.sandbox.enforcement == "weakened"
    refused = [name for name in _missing(machine) if not (weakened and name in policy.weakenings)]
    if not refused:
        return
    source = source_of(policy.sources, "sandbox.enforcement")
    what = "; ".join(_REMEDIES[name][0] for name in refused)
    flags = ", ".join(f'"{name}"' for name in refused)
    raise UnsupportedError(
        f"the policy {policy.name!r} demands barriers that this machine can't give: {what}",
        where=str(source),
        hint=f"{'; '.join(_REMEDIES[name][1] for name in refused)}. Weaker and audited as such: "
        f'`weakenings = [{flags}]` at the top of the policy, and `enforcement = "weakened"` below '
        "`[sandbox]`.",
    )


def _check_devices(policy: Policy, machine: Machine) -> None:
    missing = [name for name in policy.devices if name not in machine.devices]
    if not missing or "devices" not in policy.weakenings:
        return
    raise UnsupportedError(
        f"the policy {policy.name!r} grants {', '.join(missing)}, which this machine does not have",
        where=str(source_of(policy.sources, "filesystem.devices")),
        hint="Load the device's driver, and name its files in `[host] devices` of config.toml; or take them "
        "out of the policy's `[filesystem] devices`.",
    )


def _limits(
    policy: Policy,
    machine: Machine,
    sources: dict[str, Source],
    overruled: dict[str, tuple[Overruled, ...]],
) -> Limits:
    """The policy's limits; no more memory and cores than the machine has."""
    most = {"cpu_millis": machine.cpus * 1000}
    if machine.memory_bytes:
        most["memory_bytes"] = machine.memory_bytes
    changes: dict[str, int] = {}
    for field, bound in most.items():
        value = getattr(policy.limits, field)
        if value > bound:
            fact = BY_FIELD[field]
            key = f"limits.{fact.key}"
            lost = Overruled(show(fact.unit, value), source_of(sources, key))
            overruled[key] = (lost, *overruled.get(key, ()))
            sources[key] = _MACHINE
            changes[field] = bound
    return msgspec.structs.replace(policy.limits, **changes)


def _check_minimum(needs: Needs, limits: Limits, sources: dict[str, Source], bridge: str) -> None:
    short: list[str] = []
    for field, least in sorted(needs.limits.items()):
        fact = BY_FIELD.get(field)
        if fact is None:
            raise ManifestError(f"the bridge {bridge!r} asks for a limit {field[:60]!r}, which is none")
        given = getattr(limits, field)
        if given < least:
            source = source_of(sources, f"limits.{fact.key}")
            short.append(
                f"{source}: limits.{fact.key}: {show(fact.unit, given)} is less than the "
                f"{show(fact.unit, least)} that the bridge {bridge!r} needs"
            )
    if short:
        raise PolicyError(
            "\n".join(short),
            where=short[0].partition(": ")[0],
            hint="Raise the limit, or use a policy of its own for this bridge.",
        )


def _inline_keys(policy: Policy) -> rules.InlineKeys:
    """``pass`` falls back to ``capture`` where a ceiling took its weakening away."""
    if policy.inline_keys == "pass" and "inline_keys_pass" not in policy.weakenings:
        return "capture"
    return policy.inline_keys


def _used(grant: Grant, policy: Policy, private_providers: Collection[str]) -> set[Weakening]:
    """Weakenings that something of this grant needs; ``overcommit`` and ``pth`` are for other rooms."""
    used: set[Weakening] = {name for name in _missing(grant.machine) if name in policy.weakenings}
    if any(secret.how == "env" for secret in grant.secrets):
        used.add("env_secret")
    if grant.connects:
        used.add("connect")
    if any(connect.private for connect in grant.connects):
        used.add("private_network")
    if any(endpoint.provider in private_providers for endpoint in grant.endpoints):
        used.add("private_network")
    if grant.devices:
        used.add("devices")
    if grant.inline_keys == "pass":
        used.add("inline_keys_pass")
    for name in policy.weakenings:
        if name in ("overcommit", "pth"):
            used.add(name)
    return used

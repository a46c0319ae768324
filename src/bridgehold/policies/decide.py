"""The pure decision: is it allowed, by which rule, and where does the rule stand?

Every `Decision` names its rule (a dotted key of the policy, ``default-deny``, or what Bridgehold
itself refuses), the reason in words, and ``file:line``.
"""

from __future__ import annotations

import json
from collections.abc import Collection

from bridgehold.errors import DeniedError
from bridgehold.policies import rules as matching
from bridgehold.policies.addresses import Address, why_not_public
from bridgehold.policies.content import BodyFacts
from bridgehold.policies.model import Connect, Decision, Endpoint, Grant, Rules, SecretGrant
from bridgehold.policies.names import Host, host_matches, normalise_host, normalise_path, path_matches
from bridgehold.policies.narrow import source_of

COMMON = frozenset({"ping", "get_stats", "get_capabilities", "health"})
"""``common:`` operations that are always allowed: they tell about the worker and change nothing."""
OWN = frozenset({"open", "close", "shutdown", "profile"})
"""``common:`` operations that only the host itself calls."""
DEFAULT_DENY = "default-deny"


def decide_operation(grant: Grant, bridge: str, operation: str, kinds: Collection[str] = ()) -> Decision:
    """Whether `bridge:operation` may run; `kinds` are the kinds of resource that it works on."""
    name = f"{bridge}:{operation}"
    if bridge == "common":
        return _common(operation)
    if bridge != grant.bridge:
        return _no(grant, "bridge", f"this session is for the bridge {grant.bridge!r}", "operations")
    decision = _by_rules(grant, "operations", grant.operations, name, "operation")
    if not decision.allowed:
        return decision
    return next((found for kind in kinds if not (found := decide_resource(grant, kind)).allowed), decision)


def decide_call(grant: Grant, bridge: str, operation: str, target: str) -> Decision:
    """Whether `bridge:operation` may run what it names itself, `target`; empty: it names nothing.

    It has two names then, its own and ``bridge:operation:target``: what is denied by either is denied, and
    what is allowed by either is allowed.
    """
    plain = decide_operation(grant, bridge, operation)
    if not target:
        return plain
    whole = decide_operation(grant, bridge, f"{operation}:{target}")
    denied = next((one for one in (whole, plain) if one.rule.startswith("operations.deny")), None)
    return denied or (whole if whole.allowed or not plain.allowed else plain)


def decide_resource(grant: Grant, kind: str) -> Decision:
    """Whether anything may be done with resources of this kind, and whether they are shown."""
    return _by_rules(grant, "resources", grant.resources, kind, "kind of resource")


def _common(operation: str) -> Decision:
    if operation in COMMON:
        return Decision(allowed=True, rule="common", reason=f"common:{operation} is always allowed")
    what = "is for the host itself" if operation in OWN else "doesn't exist"
    return Decision(allowed=False, rule="common", reason=f"common:{operation[:80]} {what}")


def decide_tool(grant: Grant, tool: str) -> Decision:
    """Whether the bridge may call the tool `tool` of the host's side."""
    return _by_rules(grant, "tools", grant.tools, tool, "tool")


def _by_rules(grant: Grant, table: str, rules: Rules, name: str, what: str) -> Decision:
    found = matching.match(rules, name)
    shown = f"the {what} {name[:120]!r}"
    if found.allowed:
        return _yes(grant, f"{table}.{found.rule}", f"{shown} is allowed")
    if found.rule:
        return _no(grant, f"{table}.{found.rule}", f"{shown} is denied by {found.pattern!r}")
    return _no(grant, DEFAULT_DENY, f"{shown} is not granted to {grant.tenant!r}", f"{table}.allow")


def decide_egress(grant: Grant, provider: str, method: str, path: str, body_facts: BodyFacts) -> Decision:
    """Whether a request to the gateway's `provider` may go out. `path` is below the provider's base."""
    endpoint = next((item for item in grant.endpoints if item.provider == provider), None)
    if endpoint is None:
        reason = f"no endpoint {provider[:63]!r} is granted"
        return _no(grant, DEFAULT_DENY, reason, "network.endpoints")
    key = f"network.endpoints.{provider}"
    try:
        plain = normalise_path(path)
    except DeniedError as error:
        return _no(grant, "names.path", error.message, key)
    if method not in endpoint.methods:
        return _no(grant, f"{key}.methods", f"{method[:20]!r} is none of {', '.join(endpoint.methods)}")
    rule = _path_rule(endpoint, plain)
    if rule is None:
        return _no(
            grant, DEFAULT_DENY, f"{method} {plain[:200]} is none of the granted paths", f"{key}.paths"
        )
    if body_facts.first and not endpoint.remote_content:
        return _inference(grant, key, body_facts)
    return _yes(grant, f"{key}.{rule}", f"{method} {plain[:200]} is granted")


def _inference(grant: Grant, key: str, facts: BodyFacts) -> Decision:
    """The refusal of what isn't known to be inference; it names what grants it."""
    found = facts.finding
    if found is None or facts.unreadable:
        return _no(grant, f"{key}.remote_content", f"{facts.first[:200]}, which isn't granted")
    remedy = f"`[{key}] fields = [{json.dumps(found.grants[0][:120])}]` grants it"
    rule = f"{key}.remote_content" if found.exit else f"{key}.fields"
    return _no(grant, rule, f"{facts.first[:160]}, which isn't granted: {remedy}")


def _path_rule(endpoint: Endpoint, path: str) -> str | None:
    for index, pattern in enumerate(endpoint.paths or ()):
        if path_matches(pattern, path):
            return f"paths[{index}]"
    return None


def decide_connect(grant: Grant, host: str, port: int, provider_hosts: Collection[str] = ()) -> Decision:
    """Whether the bridge may have a tunnel, or plain proxying, to `host`:`port`.

    `provider_hosts` are the normalised hosts of the configured providers: a tunnel to one would go
    around the gateway, and is never granted. What a name resolves to is `decide_address`'s part.
    """
    try:
        plain = normalise_host(host)
    except DeniedError as error:
        return _no(grant, "names.host", error.message, "network.connect")
    if plain.name in provider_hosts:
        reason = f"{plain} has a provider binding: it is reached through the gateway only"
        return _no(grant, "provider-binding", reason, "network.endpoints")
    found = _connect_rule(grant, plain, port)
    if found is None:
        reason = f"no tunnel to {plain}:{port} is granted{_kind(plain)}"
        return _no(grant, DEFAULT_DENY, reason, "network.connect")
    rule, connect = found
    if plain.address is not None:
        return _address(grant, rule, connect, plain.address)
    return _yes(grant, rule, f"a tunnel to {plain}:{port} is granted")


def decide_address(grant: Grant, host: str, port: int, address: Address) -> Decision:
    """Whether the tunnel to `host`, which resolved to `address`, may be dialled there."""
    decision = decide_connect(grant, host, port)
    if not decision.allowed:
        return decision
    found = _connect_rule(grant, normalise_host(host), port)
    assert found is not None  # noqa: S101 - allowed just now, by the same rules
    return _address(grant, *found, address)


def _address(grant: Grant, rule: str, connect: Connect, address: Address) -> Decision:
    why = why_not_public(address)
    if why and not connect.private:
        return _no(grant, "names.public", f"{address} is not public: {why}", rule)
    return _yes(grant, rule, f"{address} may be dialled")


def _kind(host: Host) -> str:
    why = "" if host.address is None else why_not_public(host.address)
    return f" ({why})" if why else ""


def _connect_rule(grant: Grant, host: Host, port: int) -> tuple[str, Connect] | None:
    """The widest of the rules that fit: one that allows private addresses before one that doesn't."""
    fitting = [
        (f"network.connect[{index}]", connect)
        for index, connect in enumerate(grant.connects)
        if connect.port == port and host_matches(connect.host, host)
    ]
    return next((item for item in fitting if item[1].private), fitting[0] if fitting else None)


def secret_of(grant: Grant, provider: str) -> SecretGrant | None:
    """The secret that the gateway puts in for `provider`, if one is granted."""
    bound = (item for item in grant.secrets if item.how == "gateway" and item.provider == provider)
    return next(bound, None)


def tool_secret_of(grant: Grant, provider: str) -> SecretGrant | None:
    """The secret that an operator's tool may have put in for `provider`: the policy's word alone counts."""
    return next((item for item in grant.tool_secrets if item.provider == provider), None)


def _yes(grant: Grant, rule: str, reason: str) -> Decision:
    return Decision(allowed=True, rule=rule, reason=reason, source=str(source_of(grant.sources, rule)))


def _no(grant: Grant, rule: str, reason: str, key: str = "") -> Decision:
    """A refusal; `key` is where the rule that would have allowed it stands, or should."""
    return Decision(
        allowed=False, rule=rule, reason=reason, source=str(source_of(grant.sources, key or rule))
    )

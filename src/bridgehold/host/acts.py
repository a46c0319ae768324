"""What an audit says was asked for, and decided by the names in a policy (pure)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from urllib.parse import urlsplit

import msgspec

from bridgehold.audit.entries import Entry
from bridgehold.config.load import Config
from bridgehold.policies.simulate import Act

_NAMED = ("operations.", "tools.", "resources.", "network.connect")


def hosts_of(config: Config) -> dict[str, str]:
    """Host of a provider → its name; a refusal names the host alone."""
    return {urlsplit(one.base_url).hostname or "": name for name, one in config.providers.items()}


def acts_of(entries: Iterable[Entry], providers: Mapping[str, str], since: str = "") -> Iterator[Act]:
    """Each with its event, tenant and bridge, in the order of the audit. `providers`: names by host."""
    bridges: dict[tuple[str, str], str] = {}
    for entry in entries:
        if entry.kind == "session.opened":
            bridges[entry.tenant, entry.session] = entry.text("bridge")
        bridge = entry.text("bridge") or bridges.get((entry.tenant, entry.session), "")
        told = bridge and entry.time >= since and not entry.text("dropped")  # by a seal, with what was asked
        found = act_of(entry, providers) if told else None
        if found is not None:
            yield msgspec.structs.replace(found, event=entry.ref, tenant=entry.tenant, bridge=bridge)


def act_of(entry: Entry, providers: Mapping[str, str]) -> Act | None:
    """What one event says, but for whose it is; None: nothing of the kind, or nothing that names decide."""
    family, _, how = entry.kind.partition(".")
    if how not in ("intent", "refused"):
        return None
    allowed = how == "intent"
    if not allowed and not _by_names(entry.text("rule")):
        return None
    match family:
        case "command":
            kind = entry.text("resource")
            kinds = (kind,) if kind else ()
            return Act(what="operation", name=entry.text("operation"), allowed=allowed, kinds=kinds)
        case "tool" if entry.text("rule") != "input":  # which needs no grant
            return Act(what="tool", name=entry.text("tool"), allowed=allowed)
        case "egress":
            return _of_egress(entry, providers, allowed=allowed)
    return None


def _of_egress(entry: Entry, providers: Mapping[str, str], *, allowed: bool) -> Act | None:
    host, way = entry.text("host"), entry.text("how")
    if way in ("connect", "proxy") or (not allowed and re.search(r":\d+$", host)):
        return Act(what="connect", name=host, allowed=allowed)
    if allowed and way not in ("gateway", "pass"):
        return None
    provider = entry.text("provider") or providers.get(host, host)
    return Act(what="egress", name=f"{provider} {entry.text('method')} {entry.text('path')}", allowed=allowed)


def _by_names(rule: str) -> bool:
    """Whether a policy's names refused it; what a body held, or came too fast, can't be asked again."""
    if rule.startswith("network.endpoints."):
        return rule.endswith(".methods")
    return rule == "default-deny" or rule.startswith(_NAMED)

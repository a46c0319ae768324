"""What `policies.lint` looks for: each rule with its severity, what it makes possible, and what to do."""

from __future__ import annotations

from typing import Literal, get_args

import msgspec

Severity = Literal["high", "medium", "low", "info"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The gravest first."""


class Rule(msgspec.Struct, frozen=True):
    """One thing that is looked for."""

    name: str
    severity: Severity
    means: str
    """What it makes possible, in a sentence."""
    remedy: str


RULES = (
    Rule(
        "key-inside",
        "high",
        "a key is put into the sandbox's environment: whatever runs there can read it and keep it",
        'Grant it with `how = "gateway"`, where it never goes in.',
    ),
    Rule(
        "keys-pass",
        "high",
        "keys in a caller's arguments reach the bridge as they are",
        'Set `inline_keys = "capture"` or `"refuse"`.',
    ),
    Rule(
        "provider-as-exit",
        "high",
        "requests may have the provider fetch addresses, run tools or keep data: a way out by its servers",
        "Take `remote_content` away and name the fields that are needed in `fields`.",
    ),
    Rule(
        "provider-fields",
        "medium",
        "requests may hold fields beyond inference, which the provider acts on",
        "Keep the fields that the bridge sends; `*` is all.",
    ),
    Rule(
        "key-reach",
        "info",
        "the tenant's key is put into requests that the bridge makes: it spends in the tenant's name",
        "Nothing to mend where the bridge is meant to use the provider. Budgets and paths bound it.",
    ),
    Rule(
        "wide-paths",
        "medium",
        "a path with a whole part left open: whatever the key can name there may be read or changed",
        "Name the paths that the bridge uses.",
    ),
    Rule(
        "changing-methods",
        "medium",
        "methods that change or remove what the key's account keeps at the provider",
        "Grant POST and GET alone, unless the bridge manages resources there.",
    ),
    Rule(
        "tunnel",
        "medium",
        "a tunnel: what passes is neither seen nor judged, only counted",
        "Use a provider of the gateway where there is one.",
    ),
    Rule(
        "private-reach",
        "high",
        "private addresses can be reached: services of this machine or network that trust their neighbours",
        "Name a public host, or take `private` away.",
    ),
    Rule(
        "wide-host",
        "high",
        "a tunnel to any host below a pattern",
        "Name the host.",
    ),
    Rule(
        "wide-read",
        "high",
        "a folder of the system or of all users is shown: what lies there later is shown too",
        "Grant a folder made for this bridge.",
    ),
    Rule(
        "read",
        "info",
        "a folder of the machine is shown read-only, with all that is put there later",
        "Keep in it what the bridge may see.",
    ),
    Rule(
        "device",
        "high",
        "a device's driver is open to the bridge: its faults are the kernel's",
        "Grant it to bridges whose authors you know.",
    ),
    Rule(
        "weakening",
        "high",
        "a barrier of the sandbox is given up by name",
        "docs/reference/policy.md says what each weakening costs.",
    ),
    Rule(
        "all-operations",
        "low",
        "every operation of the bridge, those of its later versions too",
        "Name the operations that are used.",
    ),
    Rule(
        "all-tools",
        "medium",
        "every tool of the host, those that are added later too",
        "Name the tools that the bridge may call.",
    ),
    Rule(
        "no-budget",
        "medium",
        "nothing bounds what the bridge spends at a provider over time",
        "Set `[rate] provider_tokens_total` or `provider_requests_total`, or a ceiling of the tenant's.",
    ),
    Rule(
        "beyond-machine",
        "low",
        "a limit that no machine of the fleet can hold, and so isn't the one that is promised",
        "Lower it, or run the bridge on a larger machine, which `[fleet]` in config.toml names.",
    ),
    Rule(
        "unused",
        "low",
        "the policy grants what the bridge doesn't ask for: its next version gets it without a word",
        "Take it out of the policy.",
    ),
)
BY_NAME = {rule.name: rule for rule in RULES}

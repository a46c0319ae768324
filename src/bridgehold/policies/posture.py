"""Bridges × powers: what each may reach, hold and start, in a few words (pure)."""

from __future__ import annotations

import msgspec

from bridgehold.policies.lint import gravest, lint
from bridgehold.policies.lint_rules import Severity
from bridgehold.policies.model import Grant

POWERS = ("providers", "keys", "tunnels", "files", "devices", "tools", "weakenings")
"""The columns, as a policy's tables are ordered."""


class Posture(msgspec.Struct, frozen=True, kw_only=True):
    """One row. A power that isn't granted has no words."""

    tenant: str
    bridge: str
    policy: str
    digest: str
    """Of the grant."""
    powers: dict[str, tuple[str, ...]]
    """By `POWERS`."""
    gravest: Severity | None
    """Of its findings."""


def posture(grant: Grant) -> Posture:
    """The row of one grant."""
    found = {
        "providers": tuple(
            endpoint.provider + (" (any request)" if endpoint.remote_content else "")
            for endpoint in grant.endpoints
        ),
        "keys": tuple(
            f"{secret.name} ({'inside' if secret.how == 'env' else 'put in'})" for secret in grant.secrets
        ),
        "tunnels": tuple(
            f"{one.host}:{one.port}{' (private)' if one.private else ''}" for one in grant.connects
        ),
        "files": grant.read,
        "devices": grant.devices,
        "tools": grant.tools.allow,
        "weakenings": grant.weakenings,
    }
    return Posture(
        tenant=grant.tenant,
        bridge=grant.bridge,
        policy=grant.policy,
        digest=grant.digest,
        powers={power: found[power] for power in POWERS},
        gravest=gravest(lint(grant)),
    )

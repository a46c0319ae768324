"""A proposal's approval, signed by who owns the configuration: what the host is asked then."""

from __future__ import annotations

import base64
import time
from typing import Any

import msgspec

from bridgehold.audit.recovery import hosts_time
from bridgehold.config.layout import Layout, default_layout
from bridgehold.errors import DeniedError, UsageError
from bridgehold.host.proposals import rule_of
from bridgehold.keeper.approver import Approver
from bridgehold.policies.tables import format_time
from bridgehold.protocol.proposals import ShownProposal, seen_of


def read_shown(said: object) -> ShownProposal:
    """What `proposal.show` answered. Raises `DeniedError` where its digest is of something else.

    A host that was taken over would have one rule looked at, and another one signed.
    """
    shown = msgspec.convert(said, type=ShownProposal)
    if shown.seen and shown.seen != seen_of(shown):
        raise DeniedError(
            f"the host shows {shown.id} with the digest of something else: it is not to be believed",
            hint="Sign nothing. `bridgehold audit verify`, and look at who is on that machine.",
        )
    return shown


def signing_time(layout: Layout) -> float:
    """Seconds of the epoch by the clock of the host, which its audit knows and no answer of its need say."""
    return hosts_time(layout.audit, time.time())


def approval(shown: ShownProposal) -> dict[str, Any]:
    """Parameters of `proposal.approve`, for what was seen and from now on.

    Raises `SecretError`, and `UsageError` for what nobody could have seen whole.
    """
    if not shown.seen:
        raise UsageError(f"{shown.id} can't be approved: {shown.why_not or 'it is not shown whole'}")
    now = signing_time(default_layout())
    approved, expires = format_time(now), format_time(int(now) + shown.seconds)
    text = rule_of(shown, approved, expires).text(shown.bridge, shown.tenant)
    signature = Approver(default_layout().secrets).sign(text)
    return {
        "proposal": shown.id,
        "seen": shown.seen,
        "approved": approved,
        "expires": expires,
        "signature": base64.b64encode(signature).decode("ascii"),
    }

"""A proposal's approval, signed by who owns the configuration: what the host is asked then."""

from __future__ import annotations

import base64
import time
from typing import Any

from bridgehold.config.layout import default_layout
from bridgehold.host.proposals import rule_of
from bridgehold.keeper.approver import Approver
from bridgehold.policies.tables import format_time
from bridgehold.protocol.proposals import ShownProposal


def approval(shown: ShownProposal) -> dict[str, Any]:
    """Parameters of `proposal.approve`, for what was seen and from now on. Raises `SecretError`."""
    now = time.time()
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

"""Refusals that somebody would have allowed: the rule that was asked for, and what was decided."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bridgehold.ids import digest_bytes
from bridgehold.policies.changes import Capability

Text = Annotated[str, msgspec.Meta(max_length=300)]
ProposalState = Literal["waiting", "approved", "rejected", "expired"]
SHORTEST, WEEK, LONGEST = 60, 7 * 86_400, 90 * 86_400
"""Seconds that a rule may hold."""


class _Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused."""


class ProposeParams(_Params, frozen=True, kw_only=True):
    """Of `proposal.make`."""

    event: Text
    """The refusal: its reference, or the command's id."""
    reason: Text = ""
    """Why it should be allowed, for who decides."""
    weakenings: Annotated[tuple[Text, ...], msgspec.Meta(max_length=2)] = ()
    """Those that the rule may bring, by name."""
    seconds: Annotated[int, msgspec.Meta(ge=SHORTEST, le=LONGEST)] = WEEK
    """How long it holds, from the approval on."""


class ProposalsParams(_Params, frozen=True, kw_only=True):
    """Of `proposal.list`."""

    tenant: Text | None = None
    """None: of all tenants that the caller may act for."""


class ProposalParams(_Params, frozen=True, kw_only=True):
    """Of methods on one proposal."""

    proposal: Text


class ApproveProposalParams(ProposalParams, frozen=True, kw_only=True):
    """Of `proposal.approve`."""

    seen: Text
    """As `proposal.show` gave it: what was looked at is what is approved."""
    approved: Text
    expires: Text
    """Times as of a policy's tables, both signed."""
    signature: Text
    """Of `policies.approved.Approved.text`, by the approvals' key, in base64."""


class RejectProposalParams(ProposalParams, frozen=True, kw_only=True):
    """Of `proposal.reject`."""

    reason: Text = ""
    """For whoever asked, and for the audit."""


class Risk(msgspec.Struct, frozen=True, kw_only=True):
    """What `policy lint` finds with the rule, and doesn't find without it."""

    rule: str
    severity: str
    key: str
    value: str
    means: str


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """One rule that somebody asked for, and what has become of it."""

    id: str
    tenant: str
    bridge: str
    event: str
    what: str
    """What was refused, in words."""
    refused: str
    """The rule and the reason of the refusal."""
    grants: dict[str, tuple[str, ...]]
    """The smallest rule that allows it: dotted key of a policy to what is added there."""
    gained: tuple[Capability, ...]
    risk: tuple[Risk, ...]
    weakenings: tuple[str, ...]
    seconds: int
    """How long it holds once it is approved."""
    by: str
    at: str
    until: str
    """From then on nobody can approve it any more."""
    reason: str = ""
    state: ProposalState = "waiting"
    decided_by: str = ""
    decided_at: str = ""
    decided_reason: str = ""
    expires: str = ""
    """When the approved rule ends by itself."""


class ShownProposal(Proposal, frozen=True, kw_only=True):
    """A proposal as it would change what is granted now."""

    policy: str = ""
    """Under which the bridge runs."""
    grant: str = ""
    """The digest of what is granted without the rule."""
    seen: str = ""
    """`seen_of` all this, which `proposal.approve` demands; empty: it can't be approved."""
    why_not: str = ""
    """Why it can't be approved as it is now."""
    you: str = ""
    """The principal that is shown it: whose approval is signed."""


def seen_of(shown: ShownProposal) -> str:
    """The digest of what is shown, whoever looks (pure): who signs works it out, and believes no host's."""
    plain = msgspec.structs.replace(shown, seen="", you="")
    return digest_bytes(msgspec.json.encode(plain, order="deterministic"))

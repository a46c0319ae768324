"""Policies that are looked at and signed, as `[review]` of the configuration may demand."""

from __future__ import annotations

from typing import Annotated

import msgspec

from bridgehold.policies.changes import Capability
from bridgehold.policies.reviewed import ReviewState

Text = Annotated[str, msgspec.Meta(max_length=300)]


class ReviewParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of `policy.review`."""

    policy: Text


class ApprovePolicyParams(ReviewParams, frozen=True, kw_only=True):
    """Of `policy.approve`."""

    seen: Text
    """As `policy.review` gave it: what was looked at is what is approved."""
    at: Text
    expires: Text = ""
    signature: Text
    """Of `policies.reviewed.Review.signed`, by the approvals' key, in base64."""


class GrantChange(msgspec.Struct, frozen=True, kw_only=True):
    """What one tenant's bridge gains and loses by it, against what was reviewed last."""

    tenant: str
    bridge: str
    """``*``: all of them together, as the tenant's own ceilings bound them."""
    gained: tuple[Capability, ...] = ()
    lost: tuple[Capability, ...] = ()
    fault: str = ""
    """Why it would be granted nothing."""


class PolicyReview(msgspec.Struct, frozen=True, kw_only=True):
    """One policy, or a tenant's ceiling (``@TENANT``), beside what was reviewed of it."""

    policy: str
    file: str
    digest: str
    state: ReviewState
    required: bool
    """Whether the configuration demands it."""
    by: str = ""
    at: str = ""
    expires: str = ""
    """Of the last review."""
    changes: tuple[GrantChange, ...] = ()
    seen: str = ""
    you: str = ""
    """The principal that is shown it: whose approval is signed."""

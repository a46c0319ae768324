"""Bridges that tenants bring themselves: as they are submitted, looked at and decided."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.changes import Capability

Text = Annotated[str, msgspec.Meta(max_length=300)]
SubmissionState = Literal["checking", "waiting", "failed", "approved", "rejected", "expired"]


class _Params(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Unknown fields are refused."""


class SubmitParams(_Params, frozen=True, kw_only=True):
    """Of `bridge.submit`."""

    archive: Text
    """The digest of one of the tenant's artifacts: a zip of the bridge's folder. It is let go of then."""
    tenant: str = LOCAL_TENANT


class SubmissionsParams(_Params, frozen=True, kw_only=True):
    """Of `bridge.submissions`."""

    tenant: str | None = None
    """None: of all tenants that the caller may act for."""


class SubmissionParams(_Params, frozen=True, kw_only=True):
    """Of methods on one submission."""

    submission: Text


class ApproveParams(SubmissionParams, frozen=True, kw_only=True):
    """Of `bridge.approve`."""

    seen: Text
    """As `bridge.submission` gave it: what was looked at is what is approved."""


class RejectParams(SubmissionParams, frozen=True, kw_only=True):
    """Of `bridge.reject`."""

    reason: Text = ""
    """For whoever submitted it, and for the audit."""


class RollbackParams(_Params, frozen=True, kw_only=True):
    """Of `bridge.rollback`."""

    bridge: Text
    tenant: str = LOCAL_TENANT


class Tried(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried of it, in a sandbox without any reach."""

    name: str
    status: Literal["PASS", "CAUTION", "FAIL"]
    detail: str = ""


class Submission(msgspec.Struct, frozen=True, kw_only=True):
    """One bridge that was submitted, and what has become of it."""

    id: str
    tenant: str
    bridge: str
    version: str
    digest: str
    """Of its files, as we locked them."""
    state: SubmissionState
    by: str
    at: str
    expires: str
    """From then on nobody can approve it any more, and its bytes are gone."""
    files: int
    bytes: int
    packages: int = 0
    """In the lock that was made here of what it asks for."""
    environment: str = ""
    """The digest of what was built of that lock, and its bytes."""
    environment_bytes: int = 0
    tried: tuple[Tried, ...] = ()
    reason: str = ""
    """Why it failed, or was rejected."""
    decided_by: str = ""
    decided_at: str = ""


class Shown(Submission, frozen=True, kw_only=True):
    """A submission beside what its tenant has."""

    replaces: str = ""
    """Version and digest of the release that new sessions begin with now; empty: there is none."""
    policy: str = ""
    """Under which it runs: a policy is by the bridge's name, whosever it is."""
    gained: tuple[Capability, ...] = ()
    lost: tuple[Capability, ...] = ()
    withheld: tuple[str, ...] = ()
    """What it asks for, and no rule gives."""
    seen: str = ""
    """The digest of all this, which `bridge.approve` demands; empty: it can't be approved."""


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """What new sessions of a bridge begin with from now on."""

    tenant: str
    bridge: str
    digest: str
    """Empty: there is none any more."""
    before: str

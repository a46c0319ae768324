"""What a verification finds: three verdicts that don't speak for each other.

*Integrity*: is every stored byte the one that was written, in its place? *Completeness*: is
everything there, and has every intent its outcome? *Anchoring*: up to where could not even the
owner of the machine have rewritten it, because an anchor was kept elsewhere?
"""

from __future__ import annotations

from typing import Literal

import msgspec

FindingKind = Literal[
    "malformed",  # not a line of an audit at all
    "oversize",  # longer than any line of ours
    "changed",  # its bytes are not those that its hash was made over
    "unlinked",  # sound by itself, but not made after the line before it
    "missing",  # lines are left out before it
    "moved",  # it stands elsewhere than it was written
    "duplicate",  # it stands there twice
    "foreign",  # it belongs to another instance
    "torn",  # the end of a line is missing
    "cut",  # lines are missing at the end, as what came later knows
    "rewritten",  # the chain is sound, but not the one that what came later knows
    "segment_missing",
    "instance_missing",
    "unreadable",  # a link, a pipe, or nothing that may be read
    "quarantine_missing",  # a torn tail that recovery moved aside and named isn't there
    "quarantine_changed",  # … or has other bytes
    "quarantine_unknown",  # a torn tail that no line tells of
    "orphan_outcome",  # an outcome whose intent isn't there
    "start_missing",  # something ran in a session that the launcher did not start
    "decision_missing",  # the keeper sent a request for a cell that tells of no decision
    "start_unended",  # the launcher started it, and no end is told
    "after_end",  # a command ran in a session that had ended
    "anchor_contradicted",
    "anchor_signature",
    "anchor_unknown",  # an anchor of an instance that isn't there
    "anchor_malformed",  # its file can't be read, or holds no anchor
    "anchor_missing",  # the audit says that it was stored beside it
    "anchor_stale",  # the newest is older than was asked for
    "anchor_retired",  # its key had been changed for another one before that place
    "rotation_contradicted",  # the record of a key's change saw another head
    "rotation_signature",
    "rotation_unknown",  # it names an instance that isn't there
    "rotation_malformed",
    "rotation_missing",  # the audit says that it was stored beside it
    "rotation_forked",  # one key has two successors
    "seal_malformed",
    "seal_foreign",  # of another segment, or of another audit
    "seal_contradicted",  # the segment is not as it was sealed
    "seal_signature",
    "seal_retired",  # its key had been changed for another one before anybody told of it
    "seal_missing",  # the audit tells of it
    "seal_replaced",  # by an older one than the audit tells of
]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One fault. `place` is ``file:line`` below the audit's folder."""

    kind: FindingKind
    place: str
    reason: str
    instance: str = ""
    seq: int = 0


class Integrity(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every line is whole, in order and hashed into the next one."""

    ok: bool
    findings: tuple[Finding, ...] = ()
    """In the order of the files, at most 100 of `count`; the first is the first bad line."""
    count: int = 0


class Completeness(msgspec.Struct, frozen=True, kw_only=True):
    """`in_flight`: of an instance that still runs (or was cut off and never followed by another).
    `interrupted`: intents whose host died, and which the next instance's first line accounts for.
    `unfinished`: intents without an outcome that nothing accounts for.
    """

    ok: bool
    findings: tuple[Finding, ...] = ()
    unfinished: tuple[str, ...] = ()
    unfinished_count: int = 0
    interrupted_count: int = 0
    in_flight: tuple[str, ...] = ()
    in_flight_count: int = 0
    quarantined: tuple[str, ...] = ()
    """Files with torn tails that recovery moved aside."""


class Range(msgspec.Struct, frozen=True):
    """Lines `first` to `last` of `instance`."""

    instance: str
    first: int
    last: int


class Rotated(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the anchors' key. `lost`: the old one could not sign it."""

    old: str
    new: str
    time: str
    by: str
    lost: bool
    place: str


AnchoringStatus = Literal["anchored", "unanchored", "contradicted"]


class Anchoring(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the audit is covered by anchors that were kept elsewhere."""

    status: AnchoringStatus
    """``anchored``: an outside anchor covers all but what is younger than the set time."""
    anchored_to: str = ""
    """Reference of the last event that an outside anchor covers."""
    signature: Literal["", "verified", "unchecked"] = ""
    """``unchecked``: no public key was given for the anchor that counts."""
    unanchored: tuple[Range, ...] = ()
    anchored_at: str = ""
    """When the anchor that counts was signed, as it says itself."""
    age_s: int = 0
    """From then to now, by the clock of who verifies; 0 without an anchor."""
    newer: int = 0
    """Anchors that the audit says were signed after the newest that was given."""
    newest: str = ""
    """Where it says so of the last of them."""
    rotations: tuple[Rotated, ...] = ()
    """Changes of the key, by their time."""
    findings: tuple[Finding, ...] = ()


class Sealed(msgspec.Struct, frozen=True, kw_only=True):
    """A segment with a seal: how many of its lines have no body any more, and who dropped them."""

    place: str
    first: int
    last: int
    dropped: int
    by: str
    time: str
    key: str


class Sealing(msgspec.Struct, frozen=True, kw_only=True):
    """Whether every seal is sound, signed and there."""

    ok: bool = True
    segments: int = 0
    dropped: int = 0
    """Lines without their body, of all."""
    signature: Literal["", "verified", "unchecked"] = ""
    """``unchecked``: no public key was given."""
    seals: tuple[Sealed, ...] = ()
    """The newest 100 of `segments`."""
    findings: tuple[Finding, ...] = ()


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The whole answer of `verify_audit`."""

    events: int
    bytes: int
    instances: int
    segments: int
    integrity: Integrity
    completeness: Completeness
    anchoring: Anchoring
    sealing: Sealing = Sealing()
    clock_steps: int = 0
    """Lines whose wall clock is earlier than the line before: accepted, and flagged."""
    first_clock_step: str = ""

    @property
    def ok(self) -> bool:
        """Sound and whole, and no anchor says otherwise. Unanchored is no fault of the files."""
        files = self.integrity.ok and self.completeness.ok and self.sealing.ok
        return files and not self.anchoring.findings

    @property
    def findings(self) -> tuple[Finding, ...]:
        """Of all verdicts, in their order."""
        parts = (self.integrity, self.completeness, self.sealing, self.anchoring)
        return tuple(finding for part in parts for finding in part.findings)

    @property
    def first_bad(self) -> Finding | None:
        """The first fault of all, or None."""
        found = self.findings
        return found[0] if found else None

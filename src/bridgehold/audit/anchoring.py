"""What anchors say of the chains that were checked: the third verdict. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from bridgehold.audit.anchors import NamedAnchor, SignedAnchor, is_signed
from bridgehold.audit.changes import Changes
from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.verdicts import Anchoring, AnchoringStatus, Finding, Range

_MOST = 100


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to judge by. `beside` is None where nobody says what lies beside the audit.

    `keys` (id to raw public key) are those that may sign; without any, signatures are unchecked.
    `within_s`: how much younger than the newest event the oldest may be that no outside anchor covers.
    `fresh_s`: how old the newest outside anchor may be at `now`; None: of any age.
    """

    outside: Sequence[NamedAnchor] = ()
    beside: Sequence[NamedAnchor] | None = None
    stored: Sequence[NamedAnchor] | None = None
    """What lies beside the audit once it was read: a running host may have stored more meanwhile."""
    keys: Mapping[str, bytes] = {}
    within_s: int = 86_400
    fresh_s: int | None = None
    now: datetime

    @property
    def all(self) -> list[NamedAnchor]:
        """Every anchor: those from outside first, then those that lie beside the audit."""
        return [*self.outside, *(self.beside or ())]


def judge(checks: Sequence[InstanceCheck], given: Evidence, told: Changes) -> Anchoring:
    """The verdict over `checks`, which are in the order of their instances. `told`: of the keys."""
    order = {check.instance: index for index, check in enumerate(checks)}
    findings: list[Finding] = list(told.findings)
    for place, signed in given.all:
        fault = _against(signed, place, checks, order, told)
        if fault is not None:
            findings.append(fault)
    findings += _missing(checks, given)
    sound = [signed for _, signed in given.outside if signed is not None and not findings]
    best = max(sound, key=lambda s: (order[s.anchor.instance], s.anchor.count), default=None)
    where = (order[best.anchor.instance], best.anchor.count) if best is not None else (-1, 0)
    ranges = _uncovered(checks, *where)
    age = _seconds(best.anchor.time, given.now.isoformat()) if best is not None else None
    later = _signed_later(checks, *where)
    young = best is not None and _young(checks, where, given.within_s)
    status: AnchoringStatus = (
        "contradicted" if findings else "anchored" if young or not ranges else "unanchored"
    )
    if not findings and given.fresh_s is not None and (age is None or age > given.fresh_s):
        status = "unanchored"
        findings.append(_stale(given, best, age))
    return Anchoring(
        status=status,
        anchored_to=f"{best.anchor.instance}.{best.anchor.count}" if best is not None else "",
        signature="" if best is None else "verified" if given.keys else "unchecked",
        unanchored=tuple(ranges),
        anchored_at=best.anchor.time if best is not None else "",
        age_s=max(0, int(age or 0)),
        newer=len(later),
        newest=later[-1] if later else "",
        rotations=told.rotated,
        findings=tuple(findings[:_MOST]),
    )


def _stale(given: Evidence, best: SignedAnchor | None, age: float | None) -> Finding:
    where = next((name for name, signed in given.outside if signed is best), "anchors")
    said = "no anchor of a known age was given" if age is None else f"the newest anchor is {int(age)} s old"
    return Finding(kind="anchor_stale", place=where, reason=f"{said}; {given.fresh_s} s were asked for")


def _against(
    signed: SignedAnchor | None,
    place: str,
    checks: Sequence[InstanceCheck],
    order: Mapping[str, int],
    told: Changes,
) -> Finding | None:
    """What one anchor says against the files, or None."""
    if signed is None:
        return Finding(kind="anchor_malformed", place=place, reason="not an anchor, or it can't be read")
    anchor, keys = signed.anchor, told.trust.keys
    if keys and not is_signed(signed, keys):
        who = (
            f"key {anchor.key}" if anchor.key in keys else f"key {anchor.key}, which was not given as trusted"
        )
        return Finding(
            kind="anchor_signature", place=place, reason=f"the signature is not sound, or is of {who}"
        )
    if anchor.instance not in order:
        return Finding(
            kind="anchor_unknown",
            place=place,
            reason=f"the anchor names instance {anchor.instance}, which is not in this folder",
            instance=anchor.instance,
            seq=anchor.count,
        )
    check = checks[order[anchor.instance]]
    if (retired := told.retired(anchor, order)) is not None:
        return Finding(
            kind="anchor_retired", place=place, reason=retired, instance=check.instance, seq=anchor.count
        )
    if check.heads.get(anchor.count) == anchor.head:
        return None
    if anchor.count > check.count:
        reason = (
            f"seq {check.count + 1} to {anchor.count} of {check.instance} are cut off behind"
            f" {check.last_place or 'its start'}: the anchor saw them"
        )
    else:
        at = check.places.get(anchor.count, check.last_place)
        reason = (
            f"seq 1 to {anchor.count} of {check.instance} ({at}) were rewritten: the anchor saw another head"
        )
    return Finding(
        kind="anchor_contradicted", place=place, reason=reason, instance=check.instance, seq=anchor.count
    )


def _missing(checks: Sequence[InstanceCheck], given: Evidence) -> list[Finding]:
    """Anchors that the audit says were stored beside it, and that aren't there."""
    if given.stored is None:
        return []
    there = {
        (signed.anchor.instance, signed.anchor.count, signed.anchor.head)
        for _, signed in given.stored
        if signed is not None
    }
    return [
        Finding(
            kind="anchor_missing",
            place=place,
            reason=f"the anchor of seq {count}, which was stored here, is not beside the audit",
            instance=check.instance,
            seq=count,
        )
        for check in checks
        for count, (signed, place) in check.signed.items()
        if (check.instance, count, signed.head) not in there
    ]


def _signed_later(checks: Sequence[InstanceCheck], index: int, count: int) -> list[str]:
    """Where the audit says that anchors of later lines than these were signed."""
    return [
        place
        for at, check in enumerate(checks)
        for later, (_, place) in check.signed.items()
        if (at, later) > (index, count)
    ]


def _uncovered(checks: Sequence[InstanceCheck], index: int, count: int) -> list[Range]:
    found = []
    for at, check in enumerate(checks):
        first = 1 if at > index else count + 1
        if at >= index and check.count >= first:
            found.append(Range(check.instance, first, check.count))
    return found


def _young(checks: Sequence[InstanceCheck], best: tuple[int, int], within_s: int) -> bool:
    """Whether even the oldest event that no anchor covers is younger than the set time."""
    newest = max((check.newest_time for check in checks), default="")
    first = checks[best[0]].times.get(best[1] + 1, "")
    if not first:
        first = next((check.first_time for check in checks[best[0] + 1 :] if check.first_time), newest)
    age = _seconds(first, newest)
    return age is not None and 0 <= age <= within_s


def _seconds(earlier: str, later: str) -> float | None:
    """Between two times as a file says them, which may be anything."""
    try:
        first, second = datetime.fromisoformat(earlier), datetime.fromisoformat(later)
        return (second.astimezone(UTC) - first.astimezone(UTC)).total_seconds()
    except (ValueError, OverflowError, OSError):
        return None

"""Changes of the anchors' key, as the audit and the records beside it tell of them. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from bridgehold.audit.anchors import Anchor
from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.rotations import (
    NOWHERE,
    NamedRotation,
    SignedRotation,
    Trust,
    is_signed,
    parse,
    trusted,
)
from bridgehold.audit.verdicts import Finding, Rotated
from bridgehold.errors import AuditError

_MOST = 100


def told_by(checks: Sequence[InstanceCheck]) -> list[NamedRotation]:
    """What the lines themselves tell of, each with its record."""
    found: list[NamedRotation] = []
    for check in checks:
        for told in check.records[b"anchor.key_rotated"][:_MOST]:
            signed = None
            with contextlib.suppress(AuditError):
                signed = parse(told.record)
            found.append((told.place, signed))
    return found


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Who may sign, up to where; what was changed; and what is wrong with the records."""

    trust: Trust
    rotated: tuple[Rotated, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def of(
        cls,
        checks: Sequence[InstanceCheck],
        given: Sequence[NamedRotation],
        keys: Mapping[str, bytes],
        *,
        beside: bool,
    ) -> Changes:
        """`keys`: the pinned ones. `beside`: what is told of must be among the `given`."""
        told = told_by(checks)
        findings: list[Finding] = []
        sound: dict[tuple[str, str], tuple[str, SignedRotation]] = {}
        for place, signed in (*given, *told):
            fault = _fault(signed, place, checks)
            if fault is not None:
                findings.append(fault)
            elif signed is not None:
                sound.setdefault(signed.ids, (place, signed))
        there = {signed for _, signed in given}
        if beside:
            findings += [
                Finding(
                    kind="rotation_missing",
                    place=place,
                    reason="this change's record is not beside the audit",
                )
                for place, signed in told
                if signed is not None and signed not in there
            ]
        findings += _forks(list(sound.values()))
        rotated = [
            Rotated(
                old=one.ids[0],
                new=one.ids[1],
                time=one.rotation.time,
                by=one.rotation.by,
                lost=one.lost,
                place=place,
            )
            for place, one in sound.values()
        ]
        return cls(
            trust=trusted(keys, [one for _, one in sound.values()]) if keys else Trust(keys={}),
            rotated=tuple(sorted(rotated, key=lambda one: one.time)),
            findings=tuple(findings),
        )

    def retired(self, anchor: Anchor, order: Mapping[str, int]) -> str | None:
        """Why an anchor's key counts no more where it stands, or None."""
        last = self.trust.until.get(anchor.key)
        if last is None:
            return None
        end = (order.get(last.instance, -1), last.count)
        if (order[anchor.instance], anchor.count) <= end:
            return None
        return (
            f"key {anchor.key} was changed for another one at {last.instance}.{last.count}, before this place"
        )


def _fault(signed: SignedRotation | None, place: str, checks: Sequence[InstanceCheck]) -> Finding | None:
    """What is wrong with one record, by itself and against the files."""
    if signed is None:
        return Finding(kind="rotation_malformed", place=place, reason="not the record of a key's change")
    if not is_signed(signed):
        return Finding(
            kind="rotation_signature", place=place, reason="one of the two keys did not sign this record"
        )
    head = signed.rotation.head
    if head == NOWHERE:
        return None
    check = next((check for check in checks if check.instance == head.instance), None)
    if check is None:
        reason = f"the record names instance {head.instance}, which is not in this folder"
        return Finding(
            kind="rotation_unknown", place=place, reason=reason, instance=head.instance, seq=head.count
        )
    if check.heads.get(head.count) == head.head:
        return None
    at = check.places.get(head.count, check.last_place)
    reason = (
        f"seq 1 to {head.count} of {check.instance} ({at}) are not what they were when the key was changed"
    )
    return Finding(
        kind="rotation_contradicted", place=place, reason=reason, instance=check.instance, seq=head.count
    )


def _forks(sound: Sequence[tuple[str, SignedRotation]]) -> Iterator[Finding]:
    successors: dict[str, str] = {}
    for place, one in sound:
        old, new = one.ids
        if successors.setdefault(old, new) != new:
            reason = f"key {old} has two successors, {successors[old]} and {new}: somebody else holds it"
            yield Finding(kind="rotation_forked", place=place, reason=reason)

"""Seals against what they seal: one segment while it is read, and all of them at the end."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from bridgehold.audit.changes import Changes
from bridgehold.audit.check import InstanceCheck, Told
from bridgehold.audit.rotations import parse as parse_rotation
from bridgehold.audit.seals import MOST_BYTES, SUFFIX, Seal, digest, is_signed, mark, parse, split
from bridgehold.audit.segments import open_segment
from bridgehold.audit.verdicts import Finding, Sealed, Sealing
from bridgehold.errors import AuditError

_MOST = 100
_Position = tuple[int, int]
"""Which instance, and which line of it."""


class SealFile:
    """A seal, and the segment that is read beside it. `marks` are empty where they can't be believed."""

    def __init__(self, seal: Seal, marks: bytes) -> None:
        self.seal = seal
        self._marks = marks.split(b"\n")[:-1] if digest(marks) == seal.marks else []
        self._digest = hashlib.sha256()
        self._line = 0
        self._differs = 0

    @classmethod
    def beside(cls, segment: Path) -> SealFile | None:
        """That of a segment, if it has one. Raises `AuditError` where what lies there is none."""
        path = seal_path(segment)
        if not os.path.lexists(path):
            return None
        descriptor = open_segment(path)
        with os.fdopen(descriptor, "rb") as file:
            data = file.read(MOST_BYTES + 1)
        if len(data) > MOST_BYTES:
            raise AuditError("a seal without measure", where=str(path))
        return cls(*split(data, str(path)))

    def feed(self, lines: Sequence[bytes]) -> None:
        """The next lines of the segment, without newlines."""
        for line in lines:
            self._digest.update(line + b"\n")
            at, self._line = self._line, self._line + 1
            if not self._differs and (at >= len(self._marks) or self._marks[at] != mark(line)):
                self._differs = self._line

    def fault(self, rest: bytes, name: str) -> tuple[str, str] | None:
        """Place and reason, where the segment (file `name`) is not as it was sealed; `rest`: behind it."""
        self._digest.update(rest)
        if f"sha256:{self._digest.hexdigest()}" in (self.seal.now, self.seal.was):
            return None
        if not self._marks:
            return f"{name}:1", "the segment is not as it was sealed, and its seal has lost its marks"
        if not self._differs and self._line < len(self._marks):
            return (
                f"{name}:{self._line + 1}",
                f"{len(self._marks) - self._line} sealed lines are gone from here on",
            )
        at = self._differs or self._line + 1
        return f"{name}:{at}", f"line {at} is not as it was sealed"


def seal_path(segment: Path) -> Path:
    """Where the seal of a segment lies."""
    return segment.with_name(segment.name + SUFFIX)


def judge(checks: Sequence[InstanceCheck], keys: Mapping[str, bytes], changes: Changes) -> Sealing:
    """The verdict over every seal that is there, and every one that a line tells of."""
    told: dict[tuple[str, int], list[tuple[_Position, Seal, str]]] = {}
    findings: list[Finding] = []
    for at, check in enumerate(checks):
        for one in check.records[b"segment.sealed"]:
            seal = _parsed(one)
            if seal is None:
                findings.append(Finding(kind="seal_malformed", place=one.place, reason="it tells of no seal"))
            else:
                told.setdefault(seal.place, []).append(((at, one.seq), seal, one.place))
    changed = _changed_at(checks)
    there = {seal.place: (place, seal) for check in checks for place, seal in check.seals}
    for where, (place, seal) in there.items():
        tellings = told.get(where, [])
        findings += _faults(seal, place, tellings, keys, changes, changed)
    for where, tellings in told.items():
        if where not in there:
            reason = f"the seal of segment {where[1]} of {where[0]} is not there"
            findings.append(
                Finding(kind="seal_missing", place=tellings[-1][2], reason=reason, instance=where[0])
            )
    seals = sorted(there.values(), key=lambda found: (found[1].time, found[0]))
    return Sealing(
        ok=not findings,
        segments=len(seals),
        dropped=sum(check.dropped for check in checks),
        signature="" if not seals else "verified" if keys else "unchecked",
        seals=tuple(_shown(place, seal) for place, seal in seals[-_MOST:]),
        findings=tuple(findings[:_MOST]),
    )


def _faults(
    seal: Seal,
    place: str,
    tellings: Sequence[tuple[_Position, Seal, str]],
    keys: Mapping[str, bytes],
    changes: Changes,
    changed: Mapping[str, _Position],
) -> list[Finding]:
    found: list[Finding] = []
    if keys and not is_signed(seal, changes.trust.keys):
        reason = f"the seal's signature is not sound, or is of key {seal.key}, which is not trusted"
        found.append(Finding(kind="seal_signature", place=place, reason=reason, instance=seal.instance))
    own = [position for position, one, _ in tellings if one == seal]
    if tellings and seal != tellings[-1][1] and seal.time <= tellings[-1][1].time:
        reason = f"the audit tells of another seal of this segment, made at {tellings[-1][1].time}"
        found.append(Finding(kind="seal_replaced", place=place, reason=reason, instance=seal.instance))
    end = changed.get(seal.key)
    if end is not None and seal.key in changes.trust.until and (not own or own[0] > end):
        reason = f"key {seal.key} was changed for another one before anybody told of this seal"
        found.append(Finding(kind="seal_retired", place=place, reason=reason, instance=seal.instance))
    return found


def _changed_at(checks: Sequence[InstanceCheck]) -> dict[str, _Position]:
    """Which line tells first that a key was changed for another one."""
    found: dict[str, _Position] = {}
    for at, check in enumerate(checks):
        for one in check.records[b"anchor.key_rotated"][:_MOST]:
            try:
                found.setdefault(parse_rotation(one.record).ids[0], (at, one.seq))
            except AuditError:
                continue
    return found


def _parsed(told: Told) -> Seal | None:
    try:
        return parse(told.record)
    except AuditError:
        return None


def _shown(place: str, seal: Seal) -> Sealed:
    return Sealed(
        place=place,
        first=seal.first,
        last=seal.last,
        dropped=seal.dropped,
        by=seal.by,
        time=seal.time,
        key=seal.key,
    )


def sealing_lines(sealing: Sealing) -> list[str]:
    """For people; nothing, where nothing is sealed and nothing is wrong."""
    if sealing == Sealing():
        return []
    dropped = f", {sealing.dropped} lines without their body" if sealing.dropped else ""
    signed = f", signature {sealing.signature}" if sealing.signature else ""
    lines = [
        f"sealing       {'sound' if sealing.ok else 'BROKEN'}: {sealing.segments} segments{dropped}{signed}"
    ]
    lines += [
        f"  {one.place}: seq {one.first} to {one.last}, {one.dropped} bodies dropped by {one.by}, {one.time}"
        for one in sealing.seals[-10:]
        if one.dropped
    ]
    return lines

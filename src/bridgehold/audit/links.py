"""What each instance's first line says of the one before, against what is there."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.entries import printable
from bridgehold.audit.segments import InstanceFolder
from bridgehold.audit.verdicts import Finding


def links_between(folders: Sequence[InstanceFolder], checks: Sequence[InstanceCheck]) -> list[Finding]:
    """What each instance's first line says of the one before, against what is there."""
    found: list[Finding] = []
    previous: InstanceCheck | None = None
    ordinal = 0
    for folder, check in zip(folders, checks, strict=True):
        place = f"{folder.path.name}/00000001.jsonl:1"
        if folder.ordinal != ordinal + 1:
            reason = f"instance folder {ordinal + 1:08d} is missing before this one"
            found.append(_finding("instance_missing", place, reason, check))
        ordinal = folder.ordinal
        if not check.lines:
            continue
        if check.opened is not None:
            found += _link(check, previous, place)
        elif not check.findings:
            reason = "the instance does not begin with journal.opened, so nothing ties it to the one before"
            found.append(_finding("rewritten", place, reason, check))
        previous = check
    return found


def _link(check: InstanceCheck, previous: InstanceCheck | None, place: str) -> list[Finding]:
    opened = check.opened
    if opened is None or (not opened.previous and previous is None):
        return []
    if previous is None or opened.previous != previous.instance:
        named = printable(opened.previous[:40]) or "no instance"
        reason = f"it was opened after {named}, which does not stand before it"
        return [_finding("instance_missing", place, reason, check)]
    name = previous.last_place or place
    if previous.count < opened.previous_count:
        reason = (
            f"{previous.instance} ends at seq {previous.count}; the next instance saw {opened.previous_count}"
        )
        return [_finding("cut", name, reason, previous)]
    if previous.count > opened.previous_count or previous.prev != opened.previous_head:
        reason = f"{previous.instance} does not end as the next instance saw it end"
        return [_finding("rewritten", name, reason, previous)]
    return []


def _finding(kind: str, place: str, reason: str, check: InstanceCheck) -> Finding:
    return msgspec.convert(
        {"kind": kind, "place": place, "reason": reason, "instance": check.instance, "seq": check.count},
        Finding,
    )

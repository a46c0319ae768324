"""Verify a folder of journals: ``python -m bridgehold.audit.verify FOLDER``, on any machine, with no
host and no key.

The files are taken as hostile: no link is followed, lines are bounded, and nothing but the chain
decides what is believed. `check` holds the pure core, `verdicts` the values.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from bridgehold.audit import anchors as anchor_files
from bridgehold.audit import chain
from bridgehold.audit.anchors import SignedAnchor
from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.segments import InstanceFolder, Segment, instance_folders, read_lines
from bridgehold.audit.verdicts import Anchoring, Completeness, Finding, Integrity, Range, Report
from bridgehold.errors import AuditError, BridgeholdError

_MOST = 100
_SETTLE_S = 0.02
_SETTLE_TIMES = 10
NamedAnchor = tuple[str, SignedAnchor]
"""(where it was read, the anchor)"""


def verify_audit(
    audit: Path,
    *,
    outside: Sequence[NamedAnchor] = (),
    local: Sequence[NamedAnchor] = (),
    keys: Mapping[str, bytes] | None = None,
    within_s: int = 86_400,
) -> Report:
    """Check every line below `audit`. Raises `AuditError` only where the folder itself can't be read.

    `outside` anchors were kept elsewhere; `local` ones lie beside the audit and can only contradict
    it. `keys` (id to raw public key) are those that may sign; without any, signatures are unchecked.
    Events older than `within_s` seconds than the newest that no outside anchor covers: unanchored.
    """
    folders = instance_folders(audit)
    if not folders:
        raise AuditError(
            "no audit in this folder",
            where=str(audit),
            hint="Name the folder that holds folders such as 00000001-i-0123456789ab.",
        )
    wanted: dict[str, list[int]] = {}
    for _, signed in (*outside, *local):
        count = signed.anchor.count
        wanted.setdefault(signed.anchor.instance, []).extend((count, count + 1))
    checks: list[InstanceCheck] = []
    size = segments = 0
    for folder in folders:
        check = InstanceCheck(folder.instance, wanted.get(folder.instance, ()))
        read, count = _read_instance(folder, check, last=folder is folders[-1])
        size, segments = size + read, segments + count
        checks.append(check)
    links = _links(folders, checks)
    steps = [check for check in checks if check.clock_steps]
    return Report(
        events=sum(check.lines for check in checks),
        bytes=size,
        instances=len(checks),
        segments=segments,
        integrity=_integrity(checks, [f for f in links if f.kind in ("cut", "rewritten")]),
        completeness=_completeness(folders, checks, [f for f in links if f.kind == "instance_missing"]),
        anchoring=_anchoring(checks, outside, local, keys or {}, within_s),
        clock_steps=sum(check.clock_steps for check in checks),
        first_clock_step=steps[0].first_clock_step if steps else "",
    )


def _read_instance(folder: InstanceFolder, check: InstanceCheck, *, last: bool) -> tuple[int, int]:
    """Feed all segments of `folder` to `check`. Returns bytes and segments read."""
    size, expected = 0, 1
    segments = folder.segments()
    for segment in segments:
        name = f"{folder.path.name}/{segment.path.name}"
        if segment.number != expected:
            gap = f"{expected:08d}" if segment.number == expected + 1 else f"{expected:08d} and more"
            check.fault("segment_missing", f"{name}:1", f"segment {gap} is missing before this one")
        expected = segment.number + 1
        try:
            size += _read_segment(segment, name, check, live=last and segment is segments[-1])
        except AuditError as error:
            check.fault("unreadable", f"{name}:1", error.message)
    return size, len(segments)


def _read_segment(segment: Segment, name: str, check: InstanceCheck, *, live: bool) -> int:
    number, end, rest = 1, 0, b""
    offset = 0
    for attempt in range(_SETTLE_TIMES if live else 1):
        if attempt:  # a running journal may be in the middle of a write: see whether the line ends
            time.sleep(_SETTLE_S)
        for begin, lines, tail in read_lines(segment.path, offset):
            check.feed(lines, name, number)
            number += len(lines)
            end, rest = begin + sum(map(len, lines)) + len(lines), tail
        offset = end
        if not rest:
            break
    if rest:
        check.torn(len(rest), f"{name}:{number}")
    return end + len(rest)


def _links(folders: Sequence[InstanceFolder], checks: Sequence[InstanceCheck]) -> list[Finding]:
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
        reason = f"it was opened after {opened.previous or 'no instance'}, which does not stand before it"
        return [_finding("instance_missing", place, reason, check)]
    name = f"{previous.instance}, line {previous.count}"
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


def _integrity(checks: Sequence[InstanceCheck], links: Sequence[Finding]) -> Integrity:
    gone = ("segment_missing",)
    found = [finding for check in checks for finding in check.findings if finding.kind not in gone]
    count = sum(check.fault_count for check in checks) - sum(
        1 for check in checks for finding in check.findings if finding.kind in gone
    )
    found += links
    count += len(links)
    return Integrity(ok=count == 0, findings=tuple(found[:_MOST]), count=count)


def _completeness(
    folders: Sequence[InstanceFolder], checks: Sequence[InstanceCheck], missing: Sequence[Finding]
) -> Completeness:
    unfinished: list[str] = []
    flying: list[str] = []
    interrupted = 0
    written = [check for check in checks if check.lines]
    for check, after in zip(written, [*written[1:], None], strict=True):
        references = [chain.reference(check.instance, seq) for seq in check.open]
        told = after.opened.unfinished_count if after is not None and after.opened is not None else None
        if after is None and not check.closed:
            flying += references
        elif told == len(references) or (after is None and check.closed):
            interrupted += len(references)
        else:
            unfinished += references
    gone = [f for check in checks for f in check.findings if f.kind == "segment_missing"]
    found = [*gone, *missing, *(f for check in checks for f in check.orphans)]
    torn = [f"{folder.path.name}/{path.name}" for folder in folders for path in folder.torn()]
    return Completeness(
        ok=not found and not unfinished,
        findings=tuple(found[:_MOST]),
        unfinished=tuple(unfinished[:_MOST]),
        unfinished_count=len(unfinished),
        interrupted_count=interrupted,
        in_flight=tuple(flying[:_MOST]),
        in_flight_count=len(flying),
        quarantined=tuple(torn[:_MOST]),
    )


def _anchoring(
    checks: Sequence[InstanceCheck],
    outside: Sequence[NamedAnchor],
    local: Sequence[NamedAnchor],
    keys: Mapping[str, bytes],
    within_s: int,
) -> Anchoring:
    order = {check.instance: index for index, check in enumerate(checks)}
    findings: list[Finding] = []
    best: tuple[int, int] = (-1, 0)
    for place, signed in (*outside, *local):
        fault = _against(signed, place, checks, order, keys)
        if fault is not None:
            findings.append(fault)
    if not findings:
        best = max(((order[s.anchor.instance], s.anchor.count) for _, s in outside), default=best)
    ranges = _uncovered(checks, *best)
    covered = f"{checks[best[0]].instance}.{best[1]}" if best[0] >= 0 else ""
    young = best[0] >= 0 and _young(checks, best, within_s)
    return Anchoring(
        status="contradicted" if findings else "anchored" if not ranges or young else "unanchored",
        anchored_to=covered,
        signature="" if not covered else "verified" if keys else "unchecked",
        unanchored=tuple(ranges),
        findings=tuple(findings[:_MOST]),
    )


def _against(
    signed: SignedAnchor,
    place: str,
    checks: Sequence[InstanceCheck],
    order: Mapping[str, int],
    keys: Mapping[str, bytes],
) -> Finding | None:
    """What one anchor says against the files, or None."""
    anchor = signed.anchor
    if keys and not anchor_files.is_signed(signed, keys):
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
    if check.heads.get(anchor.count) == anchor.head:
        return None
    if anchor.count > check.count:
        reason = (
            f"seq {check.count + 1} to {anchor.count} of {check.instance} are cut off: the anchor saw them"
        )
    else:
        reason = f"seq 1 to {anchor.count} of {check.instance} were rewritten: the anchor saw another head"
    return Finding(
        kind="anchor_contradicted", place=place, reason=reason, instance=check.instance, seq=anchor.count
    )


def _uncovered(checks: Sequence[InstanceCheck], index: int, count: int) -> list[Range]:
    found = []
    for at, check in enumerate(checks):
        first = 1 if at > index else count + 1
        if at >= index and check.count >= first:
            found.append(Range(check.instance, first, check.count))
    return found


def _young(checks: Sequence[InstanceCheck], best: tuple[int, int], within_s: int) -> bool:
    """Whether even the oldest event that no anchor covers is younger than the set time."""
    newest = next((check.last_time for check in reversed(checks) if check.last_time), "")
    first = checks[best[0]].times.get(best[1] + 1, "")
    if not first:
        first = next((check.first_time for check in checks[best[0] + 1 :] if check.first_time), newest)
    try:
        age = datetime.fromisoformat(newest) - datetime.fromisoformat(first)
    except ValueError:
        return False
    return age.total_seconds() <= within_s


def render_report(report: Report) -> str:
    """The report for people."""
    integrity, completeness, anchoring = report.integrity, report.completeness, report.anchoring
    read = f"{report.events} events, {report.bytes} bytes, {report.segments} segments of {report.instances}"
    intents = (
        f"{completeness.unfinished_count} intents unfinished, {completeness.interrupted_count} interrupted, "
        f"{completeness.in_flight_count} in flight"
    )
    anchored = (
        f" to {anchoring.anchored_to}, signature {anchoring.signature}" if anchoring.anchored_to else ""
    )
    lines = [
        f"{read} instances",
        f"integrity     {'sound' if integrity.ok else f'BROKEN in {integrity.count} place(s)'}",
        f"completeness  {'whole' if completeness.ok else 'NOT WHOLE'}: {intents}",
        f"anchoring     {anchoring.status}{anchored}",
    ]
    lines += [f"  unanchored: {r.instance} seq {r.first} to {r.last}" for r in anchoring.unanchored[:10]]
    lines += [f"  quarantined torn tail: {file}" for file in completeness.quarantined[:10]]
    if report.clock_steps:
        lines.append(
            f"  the clock steps back {report.clock_steps} time(s), first at {report.first_clock_step}"
        )
    if report.first_bad is not None:
        lines.append(f"first bad: {report.first_bad.place}: {report.first_bad.reason}")
    found = (*integrity.findings, *completeness.findings, *anchoring.findings)
    lines += [f"  {f.place}: {f.kind}: {f.reason}" for f in found[:20]]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bridgehold.audit.verify", description="Verify a folder of journals. Exit 0, 2 or 50."
    )
    parser.add_argument("folder", type=Path)
    for name, text in (
        ("--anchors", "kept elsewhere: a file or a folder"),
        ("--local-anchors", "kept beside the audit: they can only contradict it"),
        ("--key", "a public key that may sign anchors"),
    ):
        parser.add_argument(name, type=Path, action="append", default=[], help=text)
    parser.add_argument("--within", type=int, default=86_400, help="seconds an event may stay unanchored")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        keys: dict[str, bytes] = {}
        for path in options.key:
            keys |= anchor_files.read_key(path)
        report = verify_audit(
            options.folder,
            outside=[anchor for path in options.anchors for anchor in anchor_files.load(path)],
            local=[anchor for path in options.local_anchors for anchor in anchor_files.load(path)],
            keys=keys,
            within_s=options.within,
        )
    except BridgeholdError as error:
        sys.stderr.write(f"{error.message} ({error.where}). {error.hint}\n")
        return error.exit_status
    text = msgspec.json.encode(report).decode("utf-8") if options.json else render_report(report)
    sys.stdout.write(text + "\n")
    return 0 if report.ok else AuditError.exit_status


if __name__ == "__main__":
    raise SystemExit(main())

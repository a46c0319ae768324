"""Verify a folder of journals: ``python -m bridgehold.audit.verify FOLDER``, on any machine, with no
host and no key.

The files are taken as hostile: no link is followed, lines are bounded, and nothing but the chain
decides what is believed. `check` holds the pure core, `verdicts` the values.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from bridgehold.audit import anchors as anchor_files
from bridgehold.audit import chain
from bridgehold.audit import rotations as rotation_files
from bridgehold.audit.anchoring import Evidence, judge
from bridgehold.audit.anchors import NamedAnchor
from bridgehold.audit.changes import Changes, told_by
from bridgehold.audit.check import Closed, InstanceCheck, Opened
from bridgehold.audit.entries import printable, printable_json
from bridgehold.audit.links import links_between
from bridgehold.audit.quarantine import quarantined
from bridgehold.audit.rotations import NamedRotation
from bridgehold.audit.sealed import SealFile, sealing_lines
from bridgehold.audit.sealed import judge as judge_seals
from bridgehold.audit.seals import SUFFIX
from bridgehold.audit.segments import InstanceFolder, Segment, found_in, read_lines
from bridgehold.audit.verdicts import Completeness, Finding, Integrity, Report
from bridgehold.error_texts import from_os
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.hardening import BROKEN_PIPE, drop_output, prepare_streams

_MOST = 100
_SETTLE_S = 0.02
_SETTLE_TIMES = 10


def verify_audit(
    audit: Path,
    *,
    outside: Sequence[NamedAnchor] = (),
    beside: Path | None = None,
    rotations: Sequence[NamedRotation] = (),
    keys: Mapping[str, bytes] | None = None,
    within_s: int = 86_400,
    fresh_s: int | None = None,
) -> Report:
    """Check every line below `audit`. Raises `AuditError` only where the folder itself can't be read.

    `outside` anchors were kept elsewhere; those in the folder `beside` lie where the audit's owner could
    reach them: they can only contradict it, and all that it tells of must be there. `rotations`: records of
    changes of the key that were kept elsewhere. For the rest see `anchoring.Evidence`.
    """
    folders, strays = found_in(audit)
    local = anchor_files.load_folder(beside) if beside is not None else None
    records = [*rotations, *(rotation_files.load(beside) if beside is not None else ())]
    wanted = _wanted((*outside, *(local or ())), records)
    checks, size, segments = _read(folders, wanted)
    if missed := _wanted((), told_by(checks), but=wanted):  # records that only the lines themselves hold
        checks, size, segments = _read(folders, _joined_wants(wanted, missed))
    links = links_between(folders, checks)
    moved, torn = quarantined(audit, folders, checks)
    unread = [
        Finding(
            kind="unreadable", place=printable(name), reason="no folder of an instance, but a link or a file"
        )
        for name in strays
    ]
    given = Evidence(
        outside=outside,
        beside=local,
        stored=anchor_files.load_folder(beside) if beside is not None else None,
        keys=keys or {},
        within_s=within_s,
        fresh_s=fresh_s,
        now=datetime.now(UTC),
    )
    changes = Changes.of(checks, records, given.keys, beside=beside is not None)
    steps = [check for check in checks if check.clock_steps]
    return Report(
        events=sum(check.lines for check in checks),
        bytes=size,
        instances=len(checks),
        segments=segments,
        integrity=_integrity(checks, [*(f for f in links if f.kind in ("cut", "rewritten")), *unread]),
        completeness=_completeness(
            checks, [*(f for f in links if f.kind == "instance_missing"), *moved], torn
        ),
        anchoring=judge(checks, given, changes),
        sealing=judge_seals(checks, given.keys, changes),
        clock_steps=sum(check.clock_steps for check in checks),
        first_clock_step=steps[0].first_clock_step if steps else "",
    )


def _wanted(
    anchors: Iterable[NamedAnchor],
    records: Iterable[NamedRotation],
    but: Mapping[str, Sequence[int]] | None = None,
) -> dict[str, list[int]]:
    """Instance → the lines whose hashes are to be kept: those that an anchor names, and the next; and those
    that a record of a key's change names.
    """
    heads = [(one.anchor.instance, one.anchor.count) for _, one in anchors if one is not None]
    heads += [(instance, count + 1) for instance, count in heads]
    heads += [
        (at.instance, at.count) for _, one in records if one is not None and (at := one.rotation.head).count
    ]
    wanted: dict[str, list[int]] = {}
    for instance, count in heads:
        if count not in (but or {}).get(instance, ()):
            wanted.setdefault(instance, []).append(count)
    return wanted


def _joined_wants(
    first: Mapping[str, Sequence[int]], second: Mapping[str, Sequence[int]]
) -> dict[str, list[int]]:
    return {name: [*first.get(name, ()), *second.get(name, ())] for name in {*first, *second}}


def _read(
    folders: Sequence[InstanceFolder], wanted: Mapping[str, Sequence[int]]
) -> tuple[list[InstanceCheck], int, int]:
    """Every instance, checked line by line; with the bytes and segments of all."""
    checks: list[InstanceCheck] = []
    size = segments = 0
    for folder in folders:
        check = InstanceCheck(folder.instance, wanted.get(folder.instance, ()))
        read, count = _read_instance(folder, check, last=folder is folders[-1])
        size, segments = size + read, segments + count
        checks.append(check)
    return checks, size, segments


def _read_instance(folder: InstanceFolder, check: InstanceCheck, *, last: bool) -> tuple[int, int]:
    """Feed all segments of `folder` to `check`. Returns bytes and segments read."""
    size, expected = 0, 1
    try:
        segments = folder.segments()
    except AuditError as error:
        check.fault("unreadable", folder.path.name, error.message)
        return 0, 0
    strays = set(folder.seals())
    for segment in segments:
        strays.discard(segment.number)
        name = f"{folder.path.name}/{segment.path.name}"
        if segment.number != expected:
            gap = f"{expected:08d}" if segment.number == expected + 1 else f"{expected:08d} and more"
            check.fault("segment_missing", f"{name}:1", f"segment {gap} is missing before this one")
        expected = segment.number + 1
        try:
            size += _read_segment(segment, name, check, live=last and segment is segments[-1])
        except AuditError as error:
            check.fault("unreadable", f"{name}:1", error.message)
    for number in sorted(strays):
        check.fault("seal_foreign", f"{folder.path.name}/{number:08d}", "a seal whose segment is not there")
    return size, len(segments)


def _read_segment(segment: Segment, name: str, check: InstanceCheck, *, live: bool) -> int:
    number, end, rest = 1, 0, b""
    sealed = _seal_of(segment, name, check)
    check.stubs = sealed is not None and sealed.seal.dropped > 0
    first = check.count + 1
    offset = 0
    for attempt in range(_SETTLE_TIMES if live else 1):
        if attempt:  # a running journal may be in the middle of a write: see whether the line ends
            time.sleep(_SETTLE_S)
        for begin, lines, tail in read_lines(segment.path, offset):
            check.feed(lines, name, number)
            if sealed is not None:
                sealed.feed(lines)
            number += len(lines)
            end, rest = begin + sum(map(len, lines)) + len(lines), tail
        offset = end
        if not rest:
            break
    if rest:
        check.torn(len(rest), f"{name}:{number}")
    check.stubs = False
    if sealed is not None:
        seal, fault = sealed.seal, sealed.fault(rest, name)
        if fault is None and (seal.first, seal.last, seal.head) != (first, check.count, check.prev):
            fault = f"{name}:{number - 1}", "it was sealed with other lines before it, or of other numbers"
        if fault is not None:
            check.fault("seal_contradicted", *fault)
    return end + len(rest)


def _seal_of(segment: Segment, name: str, check: InstanceCheck) -> SealFile | None:
    """The seal beside a segment, where it is one, and of this segment."""
    place = f"{name}{SUFFIX}"
    try:
        sealed = SealFile.beside(segment.path)
    except AuditError as error:
        check.fault("seal_malformed", place, error.message)
        return None
    if sealed is None:
        return None
    if sealed.seal.place != (check.instance, segment.number):
        reason = f"the seal is of segment {sealed.seal.segment} of {sealed.seal.instance}"
        check.fault("seal_foreign", place, reason)
        return None
    check.seals.append((place, sealed.seal))
    return sealed


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
    checks: Sequence[InstanceCheck], missing: Sequence[Finding], torn: Sequence[str]
) -> Completeness:
    unfinished: list[str] = []
    flying: list[str] = []
    interrupted = 0
    written = [check for check in checks if check.lines]
    for check, after in zip(written, [*written[1:], None], strict=False):  # none at all has none after it
        interrupted += check.left
        references = [chain.reference(check.instance, seq) for seq in check.open]
        told = after.opened if after is not None else check.closed
        if after is None and told is None:
            flying += references
        elif told is not None and _accounts_for(told, references):
            interrupted += len(references)
        else:
            unfinished += references
    gone = [f for check in checks for f in check.findings if f.kind == "segment_missing"]
    found = [*gone, *missing, *(f for check in checks for f in check.orphans)]
    found += [finding for check in checks for finding in _joined(check)]
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


def _joined(check: InstanceCheck) -> list[Finding]:
    """Where the host's story of a session and the launcher's don't fit."""
    joining = check.joining
    if joining is None:
        return []
    return [*joining.findings, *joining.unended(closed=check.closed is not None)]


def _accounts_for(told: Opened | Closed, references: Sequence[str]) -> bool:
    """Whether a first or last line names just these intents (all of them, where it names fewer)."""
    return told.unfinished_count == len(references) and set(told.unfinished) <= set(references)


def render_report(report: Report) -> str:
    """The report for people."""
    integrity, completeness, anchoring = report.integrity, report.completeness, report.anchoring
    read = f"{report.events} events, {report.bytes} bytes, {report.segments} segments of {report.instances}"
    intents = (
        f"{completeness.unfinished_count} intents unfinished, {completeness.interrupted_count} interrupted, "
        f"{completeness.in_flight_count} in flight"
    )
    anchored = (
        f" to {anchoring.anchored_to}, signed {anchoring.anchored_at} ({anchoring.age_s} s ago),"
        f" signature {anchoring.signature}"
        if anchoring.anchored_to
        else ""
    )
    lines = [
        f"{read} instances",
        f"integrity     {'sound' if integrity.ok else f'BROKEN in {integrity.count} place(s)'}",
        f"completeness  {'whole' if completeness.ok else 'NOT WHOLE'}: {intents}",
        f"anchoring     {anchoring.status}{anchored}",
    ]
    lines += sealing_lines(report.sealing)
    lines += [f"  unanchored: {r.instance} seq {r.first} to {r.last}" for r in anchoring.unanchored[:10]]
    if anchoring.newer:
        said = f"{anchoring.newer} later anchors were signed, the last at {anchoring.newest}"
        lines.append(f"  not given: {said}")
    lines += [
        f"  key changed: {one.old} → {one.new} at {one.time} by {one.by}"
        f"{': the old one was LOST' if one.lost else ''}"
        for one in anchoring.rotations[-10:]
    ]
    lines += [f"  quarantined torn tail: {file}" for file in completeness.quarantined[:10]]
    if report.clock_steps:
        lines.append(
            f"  the clock steps back {report.clock_steps} time(s), first at {report.first_clock_step}"
        )
    if report.first_bad is not None:
        lines.append(f"first bad: {report.first_bad.place}: {report.first_bad.reason}")
    lines += [f"  {f.place}: {f.kind}: {f.reason}" for f in report.findings[:20]]
    return "\n".join(printable(line) for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line ``python -m bridgehold.audit.verify``. Returns the exit status: 0, 2 or 50; of what
    can't be told to anybody 141, or of what was in the way.
    """
    try:
        prepare_streams()
        status = _verified(argv)
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()
        return BROKEN_PIPE
    except OSError as error:
        known = from_os(error)
        _complain(f"{known.message}. {known.hint}")
        return known.exit_status
    return status


def _complain(text: str) -> None:
    """To whoever listens; nothing more is written then."""
    with contextlib.suppress(OSError):
        sys.stderr.write(f"{printable(text)}\n")
    drop_output()


def _verified(argv: Sequence[str] | None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bridgehold.audit.verify", description="Verify a folder of journals. Exit 0, 2 or 50."
    )
    parser.add_argument("folder", type=Path)
    for name, text in (
        ("--anchors", "kept elsewhere: a file or a folder"),
        ("--key", "a public key that may sign anchors"),
    ):
        parser.add_argument(name, type=Path, action="append", default=[], help=text)
    parser.add_argument(
        "--local-anchors", type=Path, help="the folder beside the audit: its anchors can only contradict it"
    )
    parser.add_argument("--within", type=int, default=86_400, help="seconds an event may stay unanchored")
    parser.add_argument("--fresh", type=int, help="seconds that the newest anchor kept elsewhere may be old")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(argv)
    try:
        keys: dict[str, bytes] = {}
        for path in options.key:
            keys |= anchor_files.read_key(path)
        report = verify_audit(
            options.folder,
            outside=[anchor for path in options.anchors for anchor in anchor_files.load(path)],
            beside=options.local_anchors,
            rotations=rotation_files.load(*options.anchors),
            keys=keys,
            within_s=options.within,
            fresh_s=options.fresh,
        )
    except BridgeholdError as error:
        _complain(f"{error.message} ({error.where}). {error.hint}")
        return error.exit_status
    encoded = printable_json(msgspec.json.encode(report)).decode("utf-8")
    text = encoded if options.json else render_report(report)
    sys.stdout.write(text + "\n")
    return 0 if report.ok else AuditError.exit_status


if __name__ == "__main__":
    raise SystemExit(main())

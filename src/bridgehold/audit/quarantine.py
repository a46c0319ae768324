"""Torn tails that recovery moved aside, against what the lines tell of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from bridgehold.audit.check import InstanceCheck
from bridgehold.audit.entries import printable
from bridgehold.audit.segments import InstanceFolder, digest_of
from bridgehold.audit.verdicts import Finding
from bridgehold.errors import AuditError


def quarantined(
    audit: Path, folders: Sequence[InstanceFolder], checks: Sequence[InstanceCheck]
) -> tuple[list[Finding], list[str]]:
    """What is wrong with the torn tails that recovery moved aside; and all that are there."""
    findings: list[Finding] = []
    there: list[str] = []
    named: dict[str, str] = {}
    newest = max((index for index, check in enumerate(checks) if check.lines), default=0)
    for check in checks:
        named.update(check.opened.quarantined if check.opened is not None else {})
    for index, folder in enumerate(folders):
        with contextlib.suppress(AuditError):  # a folder that can't be read has its finding
            found = [f"{folder.path.name}/{path.name}" for path in folder.torn()]
            there += found
            for name in found:
                if name not in named and index < newest:
                    reason = "a torn tail that no later instance tells of"
                    findings.append(Finding(kind="quarantine_unknown", place=name, reason=reason))
    for name, digest in named.items():
        findings += _faults(audit, name, digest, there)
    return findings, there


def _faults(audit: Path, name: str, digest: str, there: Sequence[str]) -> list[Finding]:
    place = printable(name[:80])
    if name not in there:
        reason = "the torn tail that was moved here is not there"
        return [Finding(kind="quarantine_missing", place=place, reason=reason)]
    try:
        same = digest_of(audit / name) == digest
    except AuditError as error:
        return [Finding(kind="unreadable", place=place, reason=error.message)]
    reason = "the torn tail has other bytes than when it was moved here"
    return [] if same else [Finding(kind="quarantine_changed", place=place, reason=reason)]

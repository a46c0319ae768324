"""Seals old segments of the audit, and drops their bodies: by hand, or by itself as ``[retention]`` says.

By itself: ``python -m bridgehold.supervisor.retention``, begun by the supervisor again and again, which
looks, seals what is due, and ends. It signs with the keeper's key and writes among the journal's files, as
`audit seal` by hand does; nobody asks it for anything. An audit that is not whole keeps all that it has.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bridgehold.audit.anchors import key_id
from bridgehold.audit.reading.shelf import cache_folder, forget
from bridgehold.audit.rotations import parse
from bridgehold.audit.sealed import SealFile
from bridgehold.audit.sealing import Done, Wanted, due, seal_audit
from bridgehold.audit.segments import instance_folders
from bridgehold.audit.verify import verify_audit
from bridgehold.config.layout import Layout
from bridgehold.config.load import load_config
from bridgehold.config.retention import RetentionSection
from bridgehold.error_texts import to_log_text
from bridgehold.errors import AuditError, BridgeholdError
from bridgehold.hardening import harden, leave
from bridgehold.keeper.signer import FILE, Signer
from bridgehold.supervisor.beside import given

BY = "retention of "
"""What seals say that nobody made by hand, before whose process it was."""
_NICE = 15


def seal_now(
    layout: Layout, audit: Path, asked: Sequence[Wanted], by: str, environ: Mapping[str, str]
) -> list[Done]:
    """Seal what each of `asked` names, once the audit was verified. Raises `AuditError`, `BusyError`."""
    signer = Signer(layout.secrets)
    held = signer.held()
    report = verify_audit(
        audit,
        beside=layout.anchors,
        rotations=[(FILE, parse(record)) for record in held.records],
        keys={key_id(held.public): held.public},
    )
    if not report.ok:
        raise AuditError(
            "this audit is not whole: nothing of it is sealed",
            where=report.first_bad.place if report.first_bad is not None else str(audit),
            hint="`bridgehold audit verify` says what is wrong.",
        )
    time = _said(datetime.now(UTC))
    done = [one for wanted in asked for one in seal_audit(audit, wanted, signer.seal, by=by, time=time)]
    if any(wanted.drop for wanted in asked):
        for cache in (layout.audit_index, cache_folder(environ)):
            forget(cache, audit)
    return done


def wanted_of(section: RetentionSection, sizes: Sequence[int], now: datetime) -> list[Wanted]:
    """What `section` wants sealed, of segments of these bytes, the oldest first (pure)."""
    found = []
    if section.days:
        found.append(Wanted(before=_said(now - timedelta(days=section.days)), drop=True))
    if section.bytes:
        keep, left = 0, section.bytes
        for size in reversed(sizes):
            left -= size
            if left < 0:
                break
            keep += 1
        before = _said(now - timedelta(days=section.least_days)) if section.least_days else ""
        if keep < len(sizes):
            found.append(Wanted(before=before, keep=max(1, keep), drop=True))
    return found


def look(layout: Layout, section: RetentionSection, environ: Mapping[str, str]) -> list[Done]:
    """Seal what is due now and isn't yet. Raises as `seal_now`."""
    segments = [one for folder in instance_folders(layout.audit) for one in folder.segments()]
    wanted = wanted_of(section, [one.path.stat().st_size for one in segments], datetime.now(UTC))
    left = [one for each in wanted for _, one in due(layout.audit, each) if not _is_done(one.path)]
    return seal_now(layout, layout.audit, wanted, f"{BY}uid {os.getuid()}", environ) if left else []


def _is_done(segment: Path) -> bool:
    """Whether it was dropped, or there was nothing to drop when this looked."""
    beside = SealFile.beside(segment)
    return beside is not None and (beside.seal.dropped > 0 or beside.seal.by.startswith(BY))


def _said(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def main() -> int:
    """One look. Returns the exit status."""
    layout, parent = given()
    try:
        harden(parent=parent)
        os.nice(_NICE)
        for one in look(layout, load_config(layout.config_file).retention, os.environ):
            sys.stderr.write(f"bridgehold: sealed {one.place}, {one.seal.dropped} bodies dropped\n")
    except BridgeholdError as error:
        sys.stderr.write(to_log_text(error))
        return error.exit_status
    except OSError as error:
        sys.stderr.write(f"bridgehold: the audit can't be sealed by itself: {error.strerror}\n")
        return AuditError.exit_status
    return 0


if __name__ == "__main__":
    leave(main())

"""How an instance of the audit begins: the lock, recovery, a folder of its own, its first line."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from bridgehold import writes
from bridgehold.audit import segments
from bridgehold.audit.events import (
    JournalOpened,
)
from bridgehold.audit.recovery import Recovered, recover
from bridgehold.audit.writer import Limits, Refused, Reserve, Writer
from bridgehold.errors import AuditError
from bridgehold.ids import new_instance_id

if TYPE_CHECKING:
    from collections.abc import Callable

LISTED = 256
"""References in one event."""


class JournalConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Folders are absolute and exist; sizes are bytes."""

    folder: str
    anchors: str = ""
    """Where anchors are kept beside the audit; empty: none are taken."""
    reserve_bytes: int = 4 * 1024 * 1024
    limits: Limits = Limits()


def begin(
    audit: Path, config: JournalConfig, recorders: tuple[str, ...], sync: Callable[[int], None]
) -> Writer:
    """Recover, make the new instance's folder and write its first line, durably."""
    folder = audit
    try:
        before = recover(audit)
        instance = new_instance_id()
        reserve = Reserve(audit / segments.RESERVE, config.reserve_bytes)
        folder = audit / segments.folder_name(before.ordinal + 1, instance)
        writes.make_folder(folder, mode=0o750, new=True)
        writes.sync_folder(audit)
        writer = Writer(folder, instance, reserve=reserve, limits=config.limits, sync=sync)
    except OSError as error:
        _discard(folder, audit)
        raise AuditError(
            f"the audit can't be begun: {error.strerror}",
            where=str(error.filename or audit),
            hint="Give the journal's user a writable folder with free space.",
        ) from error
    if isinstance(writer.write([_opened(before, recorders)])[0], Refused) or not writer.sync():
        _discard(folder, audit)
        raise AuditError(
            "the audit's first line can't be written: its disk is full",
            where=str(audit),
            hint="Free space on the audit's disk, or lift the bound on the size of files (`ulimit -H -f`).",
        )
    return writer


def _discard(folder: Path, audit: Path) -> None:
    """Remove the folder of an instance that never had a line."""
    if folder == audit:
        return
    with contextlib.suppress(OSError):
        for segment in folder.iterdir():
            if segment.stat().st_size == 0:
                segment.unlink()
        folder.rmdir()


def _opened(before: Recovered, recorders: tuple[str, ...]) -> JournalOpened:
    return JournalOpened(
        version=1,
        quarantined_bytes=before.quarantined_bytes,
        quarantined=before.quarantined,
        recovered_from="" if before.closed else before.head.instance,
        previous=before.head.instance,
        recorders=recorders,
        previous_count=before.head.count,
        previous_head=before.head.head if before.head.instance else "",
        unfinished=before.unfinished[:LISTED],
        unfinished_count=len(before.unfinished),
    )


def lock(audit: Path) -> int:
    """The descriptor that holds the audit for one writer. Raises `AuditError` where another has it."""
    try:
        descriptor = writes.open_lock(audit / segments.LOCK)
    except OSError as error:
        closed = next((one for one in reversed(audit.parents) if not os.access(one, os.X_OK)), audit)
        remedy = f"The journal, uid {os.geteuid()}, must pass {closed}: such as by `chmod o+x {closed}`."
        raise AuditError(
            f"can't open the audit's lock: {error.strerror}",
            where=str(audit),
            hint=remedy if isinstance(error, PermissionError) else "",
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise AuditError(
            "another journal writes this audit",
            where=str(audit),
            hint="One host per audit: use the running one, or give this one a layout of its own.",
        ) from error
    return descriptor

"""Seals that an operator made, told in the audit: with a host running or not."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from bridgehold.audit import seals
from bridgehold.audit.client import JournalClient
from bridgehold.audit.read import read_kind
from bridgehold.audit.sealed import SealFile
from bridgehold.audit.sealing import SEALED
from bridgehold.audit.seals import SUFFIX, Seal
from bridgehold.errors import AuditError


class Sealings:
    """Of one host, over the audit's folder."""

    def __init__(self, journal: JournalClient, audit: Path) -> None:
        self._journal = journal
        self._audit = audit
        self._told: set[str] | None = None
        self._seen = 0

    async def look(self) -> None:
        """Tell of each seal that no line tells of yet. Looks at one file's time, where nothing was sealed."""
        try:
            now = (self._audit / SEALED).stat(follow_symlinks=False).st_mtime_ns
        except OSError:
            return
        if now == self._seen:
            return
        for seal in await asyncio.to_thread(self._untold):
            await self._journal.sealed(seal)
            self._told_by(seal)
        self._seen = now

    def _told_by(self, seal: Seal) -> None:
        if self._told is not None:
            self._told.add(seals.render(seal))

    def _untold(self) -> list[Seal]:
        if self._told is None:
            self._told = {entry.text("record") for entry in read_kind(self._audit, "segment.sealed")}
        found = []
        for path in sorted(self._audit.glob(f"*/*{SUFFIX}")):
            with contextlib.suppress(AuditError):  # `verify` tells of it
                beside = SealFile.beside(path.with_name(path.name.removesuffix(SUFFIX)))
                if beside is not None and seals.render(beside.seal) not in self._told:
                    found.append(beside.seal)
        return sorted(found, key=lambda seal: seal.time)

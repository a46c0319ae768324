"""Lines of an audit read where they stand."""

from __future__ import annotations

import os
from pathlib import Path

from bridgehold.audit import chain
from bridgehold.audit.entries import parse_entry
from bridgehold.audit.reading.linear import Hit
from bridgehold.audit.reading.store import DisagreesError
from bridgehold.audit.segments import open_segment
from bridgehold.errors import AuditError

_READ = 4_096


class Lines:
    """From one open segment at a time. Whoever makes it closes it."""

    def __init__(self, audit: Path) -> None:
        self._audit, self._name, self._descriptor = audit, "", -1

    def close(self) -> None:
        """Let go of the segment."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def hit(self, name: str, offset: int, number: int, framework: str) -> Hit | None:
        """None: of our form alone, and no reader shows it. Raises `DisagreesError`: no line of ours."""
        if name != self._name:
            self.close()
            self._descriptor, self._name = open_segment(self._audit / name), name
        size, data = _READ, b""
        try:
            while (end := data.find(b"\n")) < 0 and len(data) <= chain.MAX_LINE:
                data = os.pread(self._descriptor, size, offset)
                if len(data) < size and b"\n" not in data:
                    raise DisagreesError
                size *= 8
        except OSError as error:
            raise AuditError(f"can't read a segment: {error.strerror}", where=name) from error
        line = data[:end]
        entry = parse_entry(line, f"{name}:{number}")
        if entry is None and chain.head_of(line) is None:
            raise DisagreesError
        return Hit(entry, framework, offset, line) if entry is not None else None

"""A submitted archive to a `Bundle`: by the one strict reader of zip files, within bounds, in memory alone.

Nothing of it is written as it comes, so that no name in it can lead anywhere.
"""

from __future__ import annotations

import io
import struct
import zlib

from bridgehold.bridges.bundle import MOST_BYTES, MOST_FILES, MOST_PACKED, Bundle, bundle
from bridgehold.errors import LimitError, UsageError
from bridgehold.policies.units import format_size
from bridgehold.sandbox.envs.archive import (
    Archive,
    ArchiveFaultError,
    ScanLimits,
    name_faults,
    size_faults,
)
from bridgehold.sandbox.envs.values import Finding

_LIMITS = ScanLimits(members=2 * MOST_FILES, unpacked_bytes=MOST_BYTES, ratio_from=1 << 20)
"""Folders have entries of their own."""
_HINT = "`bridgehold bridge submit FOLDER` makes one as it is taken."


def unpack(data: bytes) -> Bundle:
    """Raises `LimitError`, `UsageError` with what is wrong; then nothing of it was looked at any further."""
    if len(data) > MOST_PACKED:
        raise LimitError(f"an archive has at most {format_size(MOST_PACKED)}")
    try:
        archive = Archive(io.BytesIO(data), _LIMITS)
        faults = [*size_faults(archive.members, _LIMITS), *name_faults(archive.members)]
        if faults:
            raise _refusal(faults)
        files = [(one.name, archive.read(one)) for one in archive.members if not one.is_folder]
    except ArchiveFaultError as fault:
        raise _refusal([fault.finding]) from None
    except (OSError, ValueError, struct.error, zlib.error, EOFError) as error:
        raise UsageError("the archive can't be read", hint=_HINT) from error
    return bundle(files)


def _refusal(faults: list[Finding]) -> LimitError | UsageError:
    kind = LimitError if any(fault.rule == "bomb" for fault in faults) else UsageError
    return kind("; ".join(str(fault)[:200] for fault in faults[:8]), where="the archive", hint=_HINT)

"""An error, and what its command wrote, as values that cross a process's border."""

from __future__ import annotations

from typing import Literal

import msgspec

Retry = Literal["no", "same", "later"]


class Output(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a command wrote, whatever way it ended: the first and the last part of each stream."""

    stdout: str = ""
    stderr: str = ""
    stdout_cut: int = 0
    """Bytes that were cut from the middle."""
    stderr_cut: int = 0

    def __bool__(self) -> bool:
        return bool(self.stdout or self.stderr)


class ErrorInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An error as it crosses a process border. All texts are bounded by the sender."""

    code: str
    message: str
    hint: str = ""
    where: str = ""
    retry: Retry = "no"
    event: str = ""
    """Reference of the audit event that tells the whole story, for ``bridgehold why``."""
    output: Output | msgspec.UnsetType = msgspec.UNSET
    """What the command had written; left out where it wrote nothing."""
    traceback: str = ""
    """Of the guest's code, as Python prints it: its own words, for who may read the session's log."""

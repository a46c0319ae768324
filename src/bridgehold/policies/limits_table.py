"""Every limit as data: its TOML key, unit, and what the guest experiences when it is hit.

`docs/reference/limits.md` is generated from `LIMITS`, and the loader's keys of ``[limits]`` are these.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from bridgehold.policies.model import Limits
from bridgehold.policies.units import format_ms, format_size

Unit = Literal["size", "rate", "duration", "cores", "count"]


class LimitFact(msgspec.Struct, frozen=True):
    """One field of `Limits`."""

    key: str
    """Below ``[limits]``."""
    field: str
    unit: Unit
    meaning: str
    experience: str
    least: int
    """The smallest value that the loader takes, in the field's own unit."""
    most: int

    @property
    def default(self) -> str:
        """The limit's default, as it is written in a policy: ``512MiB``, ``30s``."""
        return show(self.unit, getattr(Limits(), self.field))


def show(unit: Unit, value: int) -> str:
    """`value` (bytes, milliseconds, thousandths of a core, or a number) for people."""
    match unit:
        case "size":
            return format_size(value)
        case "rate":
            return f"{format_size(value)}/s"
        case "duration":
            return f"{value // 3_600_000} h" if value and value % 3_600_000 == 0 else format_ms(value)
        case "cores":
            return f"{value / 1000:g} cores" if value != 1000 else "1 core"
        case "count":
            return str(value)


_KIB, _MIB, _TIB = 1024, 1024**2, 1024**4
_DAY = 86_400_000

LIMITS: tuple[LimitFact, ...] = (
    LimitFact(
        "memory",
        "memory_bytes",
        "size",
        "Memory of all the session's processes together, with the pages of their files in tmpfs. No swap.",
        "The kernel ends the whole session; the caller gets `memory`. Siblings go on.",
        16 * _MIB,
        64 * _TIB,
    ),
    LimitFact(
        "cpu",
        "cpu_millis",
        "cores",
        "Processor time of all the session's processes together, as cores.",
        "It is slowed down to its share; nothing fails but what runs into a time limit.",
        10,
        1_024_000,
    ),
    LimitFact(
        "processes",
        "processes",
        "count",
        "Processes and threads together, four of which the sandbox and its runtime take.",
        "`fork`, `clone` and starting a thread fail with EAGAIN.",
        4,
        100_000,
    ),
    LimitFact(
        "open_files",
        "open_files",
        "count",
        "Open descriptors of one process.",
        "`open`, `socket` and `dup` fail with EMFILE.",
        32,
        1_000_000,
    ),
    LimitFact(
        "file_size",
        "file_size_bytes",
        "size",
        "Size of one file.",
        "`write` is cut short and then fails with EFBIG (Python: OSError).",
        64 * _KIB,  # what a start itself lays down inside is smaller
        64 * _TIB,
    ),
    LimitFact(
        "scratch",
        "scratch_bytes",
        "size",
        "Size of /scratch, and of /tmp likewise. Both lie in memory and count towards `memory`.",
        "`write` fails with ENOSPC; what was written stays readable.",
        _MIB,
        64 * _TIB,
    ),
    LimitFact(
        "shm",
        "shm_bytes",
        "size",
        "Size of /dev/shm. It lies in memory and counts towards `memory`.",
        "`write` fails with ENOSPC.",
        _KIB,
        64 * _TIB,
    ),
    LimitFact(
        "response",
        "response_bytes",
        "size",
        "Encoded bytes of one result, chunk or error.",
        "The command fails with `limit`. A guest that sends more all the same is ended.",
        _KIB,
        1024 * _MIB,
    ),
    LimitFact(
        "request",
        "request_bytes",
        "size",
        "Encoded bytes of one command's arguments.",
        "Nothing: the command is refused with `limit` before the guest sees it.",
        _KIB,
        1024 * _MIB,
    ),
    LimitFact(
        "log_rate",
        "log_bytes_per_second",
        "rate",
        "What is kept in the log of stdout and stderr together; four seconds' worth may come at once.",
        "Nothing: the rest is cut from the log, which marks it and how much it was.",
        _KIB,
        1024 * _MIB,
    ),
    LimitFact(
        "log",
        "log_bytes",
        "size",
        "What is kept of the log.",
        "Nothing: the oldest is cut, and `bridgehold logs` marks the cut.",
        _KIB,
        1024 * _MIB,
    ),
    LimitFact(
        "startup",
        "startup_ms",
        "duration",
        "From the launch to `ready`, imports included; opening the session gets as much again.",
        "The session is ended with SIGKILL; the caller gets `timeout`.",
        1_000,
        _DAY,
    ),
    LimitFact(
        "command",
        "command_ms",
        "duration",
        "The longest that one command may take; a manifest or a caller may only shorten it.",
        "It is interrupted as by a cancel, and the session lives; past `grace` its whole process namespace "
        "is killed and the session ends. The caller gets `timeout` either way.",
        10,
        7 * _DAY,
    ),
    LimitFact(
        "idle",
        "idle_ms",
        "duration",
        "The longest time without a command.",
        "The session is closed: `close()` is called, and after `grace` it is killed.",
        1_000,
        30 * _DAY,
    ),
    LimitFact(
        "session",
        "session_ms",
        "duration",
        "The longest life of a session.",
        "The session is ended, the command in flight with it; the caller gets `timeout`.",
        1_000,
        365 * _DAY,
    ),
    LimitFact(
        "grace",
        "grace_ms",
        "duration",
        "Between asking a command to end (a cancel, its deadline) or a session to close, and killing it.",
        "A handler sees an interrupt; when the time is over the kernel ends every process.",
        0,
        60_000,
    ),
)

BY_FIELD = {fact.field: fact for fact in LIMITS}

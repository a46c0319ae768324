"""Running checks: each in a forked child of its own, bounded in time, in a fixed order, never raising.

A check changes uids, enters namespaces and loads filters: none of that may reach the next one.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections.abc import Callable, Sequence

import msgspec

from bridgehold.errors import BridgeholdError
from bridgehold.sandbox.cgroups import SETTING
from bridgehold.sandbox.doctor.model import Check, Context, Probe, failed

_MAX_REPORT = 64 * 1024
_MAX_TEXT = 2000
_PR_SET_PDEATHSIG = 1


def compose(*groups: Sequence[Probe]) -> tuple[Probe, ...]:
    """One list in the order given; a later probe of the same name stands in the earlier one's place."""
    found: dict[str, Probe] = {}
    for group in groups:
        for probe in group:
            found[probe.name] = probe
    return tuple(found.values())


def run_probes(
    probes: Sequence[Probe], context: Context, on_check: Callable[[str], None] | None = None
) -> list[Check]:
    """A row for each probe, in order. `on_check` hears each name before it runs."""
    rows = []
    for probe in probes:
        if on_check is not None:
            on_check(probe.name)
        rows.append(run_one(probe, context))
    return rows


def _refused(name: str, error: BridgeholdError) -> Check:
    """Without a cgroup many fail: its own row tells the story, once, with what was tried."""
    if error.where == SETTING and name != "cgroup":
        return failed(name, "sessions can have no cgroup here", "See the row cgroup.")
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    return failed(name, error.message + notes, error.hint)


def run_one(probe: Probe, context: Context) -> Check:
    """The row of one probe; a FAIL with the error where it raised, died or took too long."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _child(probe, context, write)
    os.close(write)
    try:
        data, late = _read_line(read, probe.seconds)
    finally:
        os.close(read)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, signal.SIGKILL)  # whatever the check started ends with it
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    if data.endswith(b"\n"):
        return msgspec.json.decode(data, type=Check)
    if late:
        return failed(
            probe.name, f"gave no answer within {probe.seconds:g} s", "Run the check again; report it."
        )
    code = os.waitstatus_to_exitcode(status)
    return failed(probe.name, f"the check itself ended with status {code}", "Please report this.")


def _child(probe: Probe, context: Context, write: int) -> None:
    """Never returns."""
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        quiet = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(quiet, descriptor)
        try:
            check = probe.run(context)
        except BridgeholdError as error:
            check = _refused(probe.name, error)
        except Exception as error:  # noqa: BLE001 - a check that fails in any way is a row, not an abort
            check = failed(
                probe.name, f"{type(error).__name__}: {error}", "The error says what this machine refused."
            )
        check = msgspec.structs.replace(
            check, name=probe.name, detail=check.detail[:_MAX_TEXT], remedy=check.remedy[:_MAX_TEXT]
        )
        os.write(write, msgspec.json.encode(check) + b"\n")
        os._exit(0)
    finally:
        os._exit(1)


def _read_line(descriptor: int, seconds: float) -> tuple[bytes, bool]:
    """What came up to a line's end, and whether time ran out. A child of the check may hold the pipe."""
    deadline = time.monotonic() + seconds
    data = b""
    while not data.endswith(b"\n") and len(data) < _MAX_REPORT:
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not readable:
            return data, True
        part = os.read(descriptor, 4096)
        if not part:
            break
        data += part
    return data, False

"""The doctor: each barrier of this machine, proved by doing it.

`PROBES` are the sandbox room's own, in the order in which they run; `compose` adds a face's or the
host's. `docs/reference/doctor.md` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from bridgehold.sandbox.doctor import (
    counts,
    forks,
    kernel,
    landlock,
    launcher,
    resources,
    sandboxes,
    service,
    tools,
)
from bridgehold.sandbox.doctor.model import Check, Context, Probe, Status, as_json
from bridgehold.sandbox.doctor.run import compose, run_one, run_probes

PROBES: tuple[Probe, ...] = compose(
    kernel.PROBES,
    service.PROBES,
    sandboxes.PROBES,
    resources.PROBES,
    counts.PROBES,
    landlock.PROBES,
    launcher.PROBES,
    forks.PROBES,
    tools.PROBES,
)


def run_checks(
    context: Context | None = None,
    *,
    extra: Sequence[Probe] = (),
    on_check: Callable[[str], None] | None = None,
) -> list[Check]:
    """Every row, in a fixed order: our own probes, then `extra` (which may replace ours by name).

    Never raises for what a machine lacks; takes some seconds. Call it where no thread is running.
    """
    return run_probes(compose(PROBES, extra), context or Context(), on_check)


__all__ = [
    "PROBES",
    "Check",
    "Context",
    "Probe",
    "Status",
    "as_json",
    "compose",
    "run_checks",
    "run_one",
    "run_probes",
]

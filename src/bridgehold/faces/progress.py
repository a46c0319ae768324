"""Progress of a build, on a terminal."""

from __future__ import annotations

from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bridgehold.faces.render import err
from bridgehold.policies.units import format_size


def build_progress() -> Progress:
    """A bar for each environment that is built, on standard error; gone when it is done."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        console=err, transient=True,
    )  # fmt: skip


def show_progress(bars: Progress, task: Any, bridge: str, event: dict[str, Any]) -> None:
    """One `BuildProgress` on its bar; bytes with their unit."""
    done, total, unit = int(event.get("done", 0)), int(event.get("total", 0)), event.get("unit", "")
    amount = f"{format_size(done)} of {format_size(total)}" if unit == "bytes" else f"{done} of {total}"
    note = f"{amount if total else ''} {event.get('note', '')}".strip()[:60]
    bars.update(
        task,
        description=f"{bridge}: {event.get('phase', '')}",
        completed=done,
        total=total or None,
        note=note,
    )

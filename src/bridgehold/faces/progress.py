"""Progress on a terminal: on standard error, gone when done. Nothing where nobody looks."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.segment import Segment

from bridgehold.error_texts import harmless
from bridgehold.faces.screen import WIDE, Screen, err
from bridgehold.policies.units import format_size


class _Console(Console):
    """What is shown acts on no terminal, whoever wrote it: only rich's own styles and moves do."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(harmless(segment.text), segment.style)


def console(screen: Screen) -> Console:
    """For what moves: bars, and a view that is drawn again."""
    width = screen.width
    return _Console(stderr=screen is err, highlight=False, width=width if width < WIDE else 80)


def build_progress() -> Progress:
    """A bar for each environment that is built, on standard error; gone when it is done."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        console=console(err), transient=True,
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


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what is waited for, as long as it is."""
    with console(err).status(what):
        yield

"""How the command line speaks: tables for people, JSON for machines, errors with their remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console, ConsoleOptions, RenderableType
from rich.markup import escape
from rich.segment import Segment
from rich.table import Table

from bridgehold.audit.entries import printable_json
from bridgehold.config.layout import Layout, unread
from bridgehold.errors import BridgeholdError, harmless
from bridgehold.host.cold_starts import describe

_PIPE_WIDTH = 100_000
"""Where nobody looks no line is folded: an id that is cut in two is none."""


class _Screen(Console):
    """What is shown acts on no terminal, whoever wrote it: only rich's own styles and moves do."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control or segment.text.isprintable():
                yield segment
            else:
                yield Segment(plain(segment.text), segment.style)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    shown = bool(os.environ.get("COLUMNS")) or (stream is not None and stream.isatty())
    return _Screen(stderr=stderr, highlight=False, width=None if shown else _PIPE_WIDTH)


plain = harmless
"""For a terminal, whoever wrote the text."""

out = _console(stderr=False)
err = _console(stderr=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout, nothing else."""
    _write(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    """Print `value` as one line of JSON, at once."""
    _write(msgspec.json.encode(value))
    sys.stdout.flush()


def print_text(text: str) -> None:
    """What a guest gave, on stdout: as it is where it is piped, spelled out where it is shown."""
    if out.is_terminal:
        out.print(escape(text), soft_wrap=True)
    else:
        sys.stdout.write(text + "\n")


def _write(line: bytes) -> None:
    """UTF-8, as JSON is, whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(printable_json(line) + b"\n")


def print_error(error: BridgeholdError, *, as_json: bool) -> None:
    """An error with the guest's traceback, what was wrong, where, the remedy, and its `why` command.

    What was wrong may be a guest's words: none of its lines looks like one of ours.
    """
    if as_json:
        _write(msgspec.json.encode(error.info()))
        return
    print_traceback(error.traceback, err)
    err.print(f"[bold red]{error.code}[/]: {_within(error.message)}", soft_wrap=True)
    if error.where:
        err.print(f"  where  {_within(error.where)}", soft_wrap=True)
    if error.hint and not error.hint.startswith("bridgehold why"):
        err.print(f"  remedy {_within(error.hint)}", soft_wrap=True)
    if error.event:
        err.print(f"  more   bridgehold why {error.event}", soft_wrap=True)


def print_traceback(text: str, console: Console) -> None:
    """A guest's, if there is one: set apart, so that no line of it looks like one of ours."""
    if text:
        console.print(f"  | {_within(text.rstrip())}", style="dim", soft_wrap=True)


def tell_unread(layout: Layout) -> None:
    """Name a config.toml that lies where people look, and that is not the one that is read."""
    for path in unread(os.environ, os.getuid()):
        if path.is_file():
            err.print(f"not read: {path}; {layout.config_file} is", markup=False, soft_wrap=True)


def _within(text: str) -> str:
    return escape(plain(text).replace("\n", "\n  | "))


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without boxes on standard output; columns wrap and are never cut."""
    view = Table(title=title or None, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(escape(cell) for cell in row))
    out.print(view)


STATUS_STYLE = {"PASS": "green", "CAUTION": "yellow", "FAIL": "bold red"}


def print_cold(reason: str) -> None:
    """On standard error, where a session started cold though its policy says fork."""
    if reason:
        err.print(f"[yellow]{escape(harmless(describe(reason)))}[/]", soft_wrap=True)

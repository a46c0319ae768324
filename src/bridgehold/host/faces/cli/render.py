"""How the command line speaks: tables for people, JSON for machines, errors with their remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bridgehold.errors import BridgeholdError, harmless

_PIPE_WIDTH = 100_000
"""Where nobody looks no line is folded: an id that is cut in two is none."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    shown = bool(os.environ.get("COLUMNS")) or (stream is not None and stream.isatty())
    return Console(stderr=stderr, highlight=False, width=None if shown else _PIPE_WIDTH)


out = _console(stderr=False)
err = _console(stderr=True)


plain = harmless
"""For a terminal, whoever wrote the text."""


def print_json(value: Any) -> None:
    """One JSON document on stdout, nothing else."""
    _write(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    _write(msgspec.json.encode(value))
    sys.stdout.flush()


def _write(line: bytes) -> None:
    """UTF-8, as JSON is, whatever the locale says."""
    sys.stdout.flush()
    sys.stdout.buffer.write(line + b"\n")


def print_error(error: BridgeholdError, *, as_json: bool) -> None:
    """An error with the guest's traceback, what was wrong, where, the remedy, and its `why` command."""
    if as_json:
        _write(msgspec.json.encode(error.info()))
        return
    if error.traceback:
        err.print(escape(plain(error.traceback.rstrip())), style="dim", soft_wrap=True)
    err.print(f"[bold red]{error.code}[/]: {escape(plain(error.message))}", soft_wrap=True)
    if error.where:
        err.print(f"  where  {escape(plain(error.where))}", soft_wrap=True)
    if error.hint and not error.hint.startswith("bridgehold why"):
        err.print(f"  remedy {escape(plain(error.hint))}", soft_wrap=True)
    if error.event:
        err.print(f"  more   bridgehold why {error.event}", soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    view = Table(title=title or None, title_justify="left", header_style="bold", expand=False)
    for column in columns:
        view.add_column(column, overflow="fold")
    for row in rows:
        view.add_row(*(escape(plain(cell)) for cell in row))
    out.print(view)


STATUS_STYLE = {"PASS": "green", "CAUTION": "yellow", "FAIL": "bold red"}

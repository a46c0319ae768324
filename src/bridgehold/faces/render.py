"""How the command line speaks: tables for people, JSON for machines, errors with their remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bridgehold.audit.entries import printable_json
from bridgehold.config.layout import Layout, default_layout, unread
from bridgehold.error_texts import harmless
from bridgehold.errors import BridgeholdError
from bridgehold.faces import layout
from bridgehold.faces.layout import Column, Row
from bridgehold.faces.screen import Screen, err, out

plain = harmless
"""For a terminal, whoever wrote the text."""
_WITHIN = "  | "
"""Before each line but the first of another's words: none of them looks like one of ours."""


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
        out.say(text, whole=True)
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
    err.say((error.code, "bold red"), f": {error.message}", under=_WITHIN)
    if error.where:
        err.say("  where  ", error.where, under=_WITHIN)
    remedy = error.hint.removesuffix(f"bridgehold why {error.event}").rstrip()
    if remedy and not remedy.startswith("bridgehold why"):
        err.say("  remedy ", remedy, under=_WITHIN)
    if error.event:
        err.say("  more   ", f"bridgehold why {error.event}", under=_WITHIN)


def print_traceback(text: str, screen: Screen) -> None:
    """A guest's, if there is one: set apart, so that no line of it looks like one of ours."""
    for line in text.rstrip().split("\n") if text else ():
        screen.say((f"{_WITHIN}{line}", "dim"), under=_WITHIN)


def short(text: str) -> str:
    """`text` with this layout's own files named from their folder on: ``policies/python.toml:3``."""
    return text.replace(f"{default_layout().config}/", "")


def tell_unread(layout: Layout) -> None:
    """Name a config.toml that lies where people look, and that is not the one that is read."""
    for path in unread(os.environ, os.getuid()):
        if path.is_file():
            err.say(f"not read: {path}; {layout.config_file} is")


def tell_passed_over(layout: Layout) -> None:
    """Name folders that lie where bridges do, and are none."""
    from bridgehold.bridges.catalogue import passed_over

    for path, why in passed_over(layout.bridges, layout.tenants):
        err.say(f"nothing reads {path}: {why}")


def table(
    columns: Sequence[Column | str],
    rows: Iterable[Row],
    *,
    title: str = "",
    empty: str = "",
    to: Screen = out,
) -> None:
    """Rows under their columns; a row that is a text is the heading of those behind it.

    `empty`: what is said, beside the output, where there is no row. `to`: the error output, where the
    output is for a program.
    """
    shown = list(rows)
    if not shown:
        if empty:
            err.say((empty, "dim"))
        return
    if title:
        to.say((title, "bold"))
    named = [Column(one) if isinstance(one, str) else one for one in columns]
    to.lines(layout.table(named, shown, to.width))


STATUS_STYLE = {"PASS": "green", "CAUTION": "yellow", "FAIL": "bold red"}


def print_cold(reason: str) -> None:
    """On standard error, where a session started cold though its policy says fork."""
    if reason:
        from bridgehold.host.cold_starts import describe

        err.say((describe(reason), "yellow"))

"""What every benchmark shares: rows with a baseline of the same run, a table for people, JSON for machines.

Run one with ``python bench/bench_NAME.py [--json]``, all with ``python bench/run.py [--json]``.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Row:
    """One figure. `ratio` is value/baseline where there is one; `bar` is DESIGN.md's promise."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    bar: str = ""
    ok: bool | None = None


def row(
    name: str,
    value: float,
    unit: str,
    *,
    baseline: float | None = None,
    most: float | None = None,
    most_ratio: float | None = None,
    least: float | None = None,
) -> Row:
    """A row whose `ok` follows from at most one bar (`most`, `most_ratio` or `least`)."""
    ratio = value / baseline if baseline else None
    bar, ok = "", None
    if most is not None:
        bar, ok = f"≤ {most:g} {unit}", value <= most
    elif most_ratio is not None and ratio is not None:
        bar, ok = f"≤ {most_ratio:g} ×", ratio <= most_ratio
    elif least is not None:
        bar, ok = f"≥ {least:g} {unit}", value >= least
    return Row(name, value, unit, baseline, ratio, bar, ok)


def times(call: Callable[[], object], count: int, warmup: int = 3) -> list[float]:
    """Milliseconds of each of `count` calls after `warmup` uncounted ones."""
    for _ in range(warmup):
        call()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append((time.perf_counter() - start) * 1000)
    return found


def percentile(values: Sequence[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(rows: Sequence[Row]) -> None:
    """Print as a table, or as JSON with ``--json``."""
    if "--json" in sys.argv[1:]:
        print(json.dumps([asdict(r) for r in rows], indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for column in ("figure", "value", "baseline", "ratio", "bar", ""):
        table.add_column(column, justify="left" if column in ("figure", "bar", "") else "right")
    for r in rows:
        mark = "" if r.ok is None else "[green]holds[/]" if r.ok else "[red]misses[/]"
        table.add_row(
            r.name,
            f"{r.value:.4g} {r.unit}",
            f"{r.baseline:.4g} {r.unit}" if r.baseline is not None else "",
            f"{r.ratio:.2f} ×" if r.ratio is not None else "",
            r.bar,
            mark,
        )
    Console(width=120).print(table)

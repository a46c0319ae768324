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
    from bridgehold.faces.layout import Column, number
    from bridgehold.faces.render import table

    columns = (
        "figure",
        number("value"),
        number("baseline"),
        number("ratio"),
        "bar",
        Column("", styles=_MARKS),
    )
    table(columns, [_cells(one) for one in rows])


_MARKS = {"holds": "green", "misses": "red"}


def _cells(one: Row) -> tuple[str, ...]:
    return (
        one.name,
        f"{one.value:.4g} {one.unit}",
        f"{one.baseline:.4g} {one.unit}" if one.baseline is not None else "",
        f"{one.ratio:.2f} ×" if one.ratio is not None else "",
        one.bar,
        "" if one.ok is None else "holds" if one.ok else "misses",
    )

"""A figure with its bar, and the numbers that many of them are made of (pure)."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One row of ``bridgehold bench``: `ratio` is value / baseline, `ok` whether the bar holds."""

    name: str
    value: float
    unit: str
    baseline: float | None = None
    ratio: float | None = None
    bar: str = ""
    ok: bool | None = None


def figure(
    name: str, value: float, unit: str, *, baseline: float | None = None, most: float | None = None
) -> Figure:
    """`most`: the bar; without it the figure is for information."""
    return Figure(
        name=name,
        value=round(value, 3),
        unit=unit,
        baseline=round(baseline, 3) if baseline is not None else None,
        ratio=round(value / baseline, 4) if baseline else None,
        bar=f"≤ {most:g} {unit}" if most is not None else "",
        ok=value <= most if most is not None else None,
    )


def percentile(values: Sequence[float], part: float) -> float:
    """The value below which `part` (0 to 1) of `values` lie; `values` must not be empty."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def spread(
    name: str,
    values: Sequence[float],
    *,
    most: tuple[float, float | None] | None = None,
    baseline: float | None = None,
) -> list[Figure]:
    """The median and the 99th percentile of milliseconds. `most`: their bars."""
    low, high = most or (None, None)
    return [
        figure(f"{name}, p50", statistics.median(values), "ms", most=low, baseline=baseline),
        figure(f"{name}, p99", percentile(values, 0.99), "ms", most=high),
    ]

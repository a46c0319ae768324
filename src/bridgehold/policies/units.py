"""Sizes, durations and their spellings: the only place that reads or prints units."""

from __future__ import annotations

import re

from bridgehold.ids import decimal_number, whole_number

_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_TIMES = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_NUMBER = re.compile(r"([0-9.]+) ?([A-Za-z]+)")
_DAY_MS = 24 * 3_600_000


def parse_size(text: str) -> int:
    """Bytes of ``512MiB``. Raises `ValueError` naming the spellings."""
    return _parse(text, _SIZES, "a size such as 512MiB (B, KiB, MiB, GiB, TiB)")


def parse_duration(text: str) -> int:
    """Milliseconds of ``30s``. Raises `ValueError` naming the spellings."""
    return _parse(text, _TIMES, "a duration such as 30s (ms, s, m, h)")


def parse_days(text: str) -> int:
    """As `parse_duration`; whole days too: ``30d``."""
    try:
        if text.endswith("d"):
            return whole_number(text[:-1]) * _DAY_MS
        return parse_duration(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not a duration such as 12h (ms, s, m, h), or days: 30d") from None


def _parse(text: str, units: dict[str, int], what: str) -> int:
    match = _NUMBER.fullmatch(text)
    try:
        return int(decimal_number(match[1] if match else "") * units[match[2] if match else ""])
    except (KeyError, ValueError):
        raise ValueError(f"{text[:40]!r} is not {what}") from None


def format_size(count: int) -> str:
    """``512 MiB``, ``1.5 GiB``, ``37 B``: at most one decimal."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(count) >= _SIZES[unit]:
            return f"{count / _SIZES[unit]:.1f}".removesuffix(".0") + f" {unit}"
    return f"{count} B"


def exact_size(count: int) -> str:
    """As a file has it, and nothing lost: ``8GiB``, ``1500MiB``, ``37B``."""
    unit = next((name for name in reversed(_SIZES) if count % _SIZES[name] == 0 and count), "B")
    return f"{count // _SIZES[unit]}{unit}"


def format_ms(ms: float) -> str:
    """``1.2 ms``, ``340 ms``, ``2.5 s``, ``3 min``."""
    if ms < 1000:
        return f"{ms:.1f}".removesuffix(".0") + " ms"
    if ms < 120_000:
        return f"{ms / 1000:.1f}".removesuffix(".0") + " s"
    return f"{ms / 60_000:.0f} min"

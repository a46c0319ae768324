"""What the host counts: commands, starts, tools, by bridge and operation; for Prometheus and for `top`.

Labels come from manifests and from this file only, never from a guest or a caller, so their number is
bounded. A tenant is no label: whose commands ran is the audit's to say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_START_SECONDS = (0.0025, 0.005, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


_LONGEST_TEXT = 256 * 1024
_LINE = re.compile(
    r"# (HELP|TYPE) bridgehold_[a-z_]+ .{1,200}"
    r"|bridgehold_[a-z_]+(\{([a-z]{1,20}=\"[^\"\\\n]{0,200}\",?){0,8}\})?"
    r" [0-9]{1,20}(\.[0-9]{1,20})?(e[+-]?[0-9]{1,3})?"
)


class OperationFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, for `bridgehold top`."""

    operation: str
    commands: int
    failed: int
    seconds: float
    """Of all commands together."""
    cpu_seconds: float
    p50_ms: float
    p99_ms: float


class Metrics:
    """Every figure of one host."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.commands = Counter(
            "bridgehold_commands_total",
            "Commands that ended, by how: ok, or the error's code.",
            ("bridge", "operation", "code"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "bridgehold_command_seconds",
            "From a command's decision to its outcome.",
            ("bridge", "operation"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.cpu = Counter(
            "bridgehold_command_cpu_seconds_total",
            "Processor time that the kernel charged to commands.",
            ("bridge", "operation"),
            registry=self.registry,
        )
        self.refused = Counter(
            "bridgehold_refused_total", "Commands that were refused.", registry=self.registry
        )
        self.starts = Histogram(
            "bridgehold_start_seconds",
            "From a session's order to its opening, by start: cold, fork or parked.",
            ("bridge", "start"),
            buckets=_START_SECONDS,
            registry=self.registry,
        )
        self.tools = Counter(
            "bridgehold_tool_calls_total",
            "Tool calls from inside, by where they run and how they ended.",
            ("how", "code"),
            registry=self.registry,
        )
        self.recoveries = Counter(
            "bridgehold_recoveries_total",
            "Sessions that lost their worker and were made again, by how: ok, or the error's code.",
            ("bridge", "code"),
            registry=self.registry,
        )
        self.sessions = Gauge("bridgehold_sessions", "Sessions that are open.", registry=self.registry)
        self.zygotes = Gauge("bridgehold_zygotes", "Warm processes.", registry=self.registry)

    def watch(self, sessions: Callable[[], int], zygotes: Callable[[], int]) -> None:
        """Where the gauges read."""
        self.sessions.set_function(sessions)
        self.zygotes.set_function(zygotes)

    def text(self) -> str:
        """In Prometheus' text format."""
        return generate_latest(self.registry).decode("utf-8")

    def figures(self) -> list[OperationFigures]:
        """By operation, the busiest first."""
        return _by_operation(sample for metric in self.registry.collect() for sample in metric.samples)


def figures_of(text: str) -> list[OperationFigures]:
    """As `Metrics.figures`, of a text in Prometheus' format (pure)."""
    families = text_string_to_metric_families(text)
    return _by_operation(sample for metric in families for sample in metric.samples)


def sound(text: str) -> str:
    """`text` of another process, if it is of our own metrics and as large as theirs; else nothing (pure)."""
    lines = text.split("\n") if len(text) <= _LONGEST_TEXT else ["too long"]
    if not all(_LINE.fullmatch(line) for line in lines if line):
        return ""
    try:
        figures_of(text)
    except (ValueError, KeyError, IndexError, ArithmeticError):
        return ""
    return text


def counted(text: str) -> str:
    """Of a text, what stays true of a process that has ended: all but how much there is now (pure)."""
    gauges = {
        line.split(" ")[2]
        for line in text.splitlines()
        if line.startswith("# TYPE ") and line.endswith(" gauge")
    }
    kept = (line for line in text.splitlines() if _family(line) not in gauges)
    return "".join(f"{line}\n" for line in kept)


def _family(line: str) -> str:
    return line.split(" ")[2] if line.startswith("# ") else line.partition("{")[0].partition(" ")[0]


def merged(texts: Iterable[str]) -> str:
    """One text of several processes' ones: what they count is added up (pure)."""
    heads: dict[str, str] = {}
    values: dict[str, dict[str, float]] = {}
    family = ""
    for line in (line for text in texts for line in text.splitlines()):
        if line.startswith("# "):
            kind, family = line.split(" ", 3)[1:3]
            heads.setdefault(f"{family} {kind}", line)
            continue
        series, _, value = line.rpartition(" ")
        before = values.setdefault(family, {}).get(series)
        number = float(value)
        earlier = family.endswith("_created")
        values[family][series] = (
            number if before is None else min(before, number) if earlier else before + number
        )
    lines: list[str] = []
    for name, found in values.items():
        lines += [heads[f"{name} {kind}"] for kind in ("HELP", "TYPE") if f"{name} {kind}" in heads]
        lines += [f"{series} {value}" for series, value in found.items()]
    return "".join(f"{line}\n" for line in lines)


def _by_operation(samples: Iterable[Sample]) -> list[OperationFigures]:
    rows: dict[tuple[str, str], dict[str, float]] = {}
    buckets: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for sample in samples:
        key = (sample.labels.get("bridge", ""), sample.labels.get("operation", ""))
        row = rows.setdefault(key, {})
        if sample.name == "bridgehold_commands_total":
            kind = "commands" if sample.labels["code"] == "ok" else "failed"
            row[kind] = row.get(kind, 0) + sample.value
        elif sample.name == "bridgehold_command_seconds_sum":
            row["seconds"] = sample.value
        elif sample.name == "bridgehold_command_cpu_seconds_total":
            row["cpu"] = sample.value
        elif sample.name == "bridgehold_command_seconds_bucket":
            buckets.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
    found = [_figures(key, row, buckets[key]) for key, row in rows.items() if key in buckets]
    return sorted(found, key=lambda one: -one.seconds)


def _figures(
    key: tuple[str, str], row: dict[str, float], buckets: list[tuple[float, float]]
) -> OperationFigures:
    return OperationFigures(
        operation=":".join(key),
        commands=int(row.get("commands", 0) + row.get("failed", 0)),
        failed=int(row.get("failed", 0)),
        seconds=row.get("seconds", 0.0),
        cpu_seconds=row.get("cpu", 0.0),
        p50_ms=quantile(buckets, 0.5) * 1000,
        p99_ms=quantile(buckets, 0.99) * 1000,
    )


def quantile(buckets: list[tuple[float, float]], share: float) -> float:
    """From a histogram's cumulated buckets (upper bound, count), by straight lines between them (pure)."""
    total = buckets[-1][1] if buckets else 0.0
    below = bound = 0.0
    for upper, count in buckets:
        if count >= share * total and count > below:
            if upper == float("inf"):
                return bound
            return bound + (upper - bound) * (share * total - below) / (count - below)
        below, bound = count, upper
    return 0.0

"""Quantiles of a histogram's buckets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bridgehold.audit.pushing import standing as pushed
from bridgehold.audit.pushing.standing import State
from bridgehold.faces.http.metrics import HttpMetrics
from bridgehold.host.shares.observe import Metrics, quantile

INF = float("inf")


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ([], 0.5, 0.0),
        ([(1.0, 0.0), (INF, 0.0)], 0.5, 0.0),
        ([(1.0, 10.0), (2.0, 10.0), (INF, 10.0)], 0.5, 0.5),
        ([(1.0, 5.0), (2.0, 10.0), (INF, 10.0)], 0.5, 1.0),
        ([(1.0, 0.0), (2.0, 10.0), (INF, 10.0)], 0.99, 1.99),
        ([(1.0, 1.0), (INF, 10.0)], 0.99, 1.0),
    ],
)
def test_a_quantile_lies_on_the_line_within_its_bucket(
    buckets: list[tuple[float, float]], share: float, value: float
) -> None:
    assert quantile(buckets, share) == pytest.approx(value)


def test_every_metric_is_documented_with_its_labels() -> None:
    page = (Path(__file__).parents[2] / "docs/reference/metrics.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `bridgehold_")}
    figures = (Metrics(), HttpMetrics(lambda: 0))
    named = [value for one in figures for value in vars(one).values() if hasattr(value, "describe")]
    text = pushed.metrics([pushed.Standing(name="s", kind="folder", to="x", state=State())], 0.0)
    families = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    for name, kind in families:
        assert f"| {kind} | `sink` |" in rows[name]
    assert len(named) + len(families) == len(rows)
    for metric in named:
        (family,) = metric.describe()
        suffix = "_total" if family.type == "counter" else ""
        row = rows[family.name + suffix]
        assert f"| {family.type} |" in row
        assert all(f"`{label}`" in row for label in metric._labelnames)

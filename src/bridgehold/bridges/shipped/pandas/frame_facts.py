"""What a frame's index and columns are, in figures: for `describe_frame`."""

from __future__ import annotations

from typing import Any

import pandas as pd
from frame_cells import encode_cell
from frame_columns import count_missing, null_of
from frame_wire import encode_cells, encode_index, plain_name


def index_facts(index: Any) -> dict[str, Any]:
    """An index as callers are told: its kind, its name, its type."""
    if isinstance(index, pd.RangeIndex):
        return encode_index(index)
    names = [plain_name(name) for name in index.names]
    kinds = [str(index.get_level_values(level).dtype) for level in range(index.nlevels)]
    return {"names": names, "dtypes": kinds, "unique": bool(index.is_unique)}


def column_facts(table: Any, at: int) -> dict[str, Any]:
    """Dtype, missing cells by kind, distinct values, and the figures of numbers."""
    series = table.iloc[:, at]
    facts: dict[str, Any] = {
        "name": plain_name(table.columns[at]),
        "dtype": str(series.dtype),
        "null": null_of(str(series.dtype)),
        "missing": count_missing(series),
        "bytes": int(series.memory_usage(index=False, deep=True)),
    }
    try:
        facts["distinct"] = int(series.nunique(dropna=True))
    except TypeError:  # cells that can't be hashed
        facts["distinct"] = None
    if isinstance(series.dtype, pd.CategoricalDtype):
        facts["categories"] = len(series.dtype.categories)
        facts["ordered"] = bool(series.dtype.ordered)
    elif pd.api.types.is_numeric_dtype(series.dtype) and str(series.dtype) not in {"bool", "boolean"}:
        facts["figures"] = _figures(series)
    elif str(series.dtype).startswith(("datetime64", "timedelta64")) and series.notna().any():
        facts["first"], facts["last"] = encode_cells(pd.Series([series.min(), series.max()]))
    return facts


def _figures(series: Any) -> dict[str, Any]:
    there = series.dropna().astype("float64")
    names = ("mean", "std", "min", "max")
    figures = {name: encode_cell(float(getattr(there, name)())) for name in names} if len(there) else {}
    for name, share in (("25%", 0.25), ("50%", 0.5), ("75%", 0.75)):
        if len(there):
            figures[name] = encode_cell(float(there.quantile(share)))
    return figures

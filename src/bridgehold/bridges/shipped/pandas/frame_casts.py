"""Other dtypes for the same cells. pandas wraps, cuts and rounds without a word; here that is refused."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pandas as pd
from frame_cells import missing_kind
from frame_columns import checked_dtype, narrowed, shown

from bridgehold_sdk import InvalidInput


def cast(series: Any, dtype: str, name: Any) -> Any:
    """The series as `dtype`, if every cell survives. Text is read, and whatever there is may become text."""
    where = f"column {name!r}"[:120]
    made = checked_dtype(dtype, where)
    try:
        after = series.astype(made)
    except (ValueError, TypeError, OverflowError, NotImplementedError) as error:
        raise InvalidInput(f"{where} to {dtype}: {str(error)[:200]}") from error
    if str(made) in {"float16", "float32", "Float32"} and pd.api.types.is_string_dtype(series.dtype):
        there = series.dropna().astype("float64").to_numpy()
        narrowed(there, str(made).lower(), f"{where} to {dtype}")
    if not (pd.api.types.is_string_dtype(made) and not isinstance(made, pd.CategoricalDtype)):
        _require_equal(series.tolist(), after.tolist(), f"{where} to {dtype}")
    return after


def column_array(series: Any, dtype: Any, name: Any) -> Any:
    """A column's values for an array; what is missing becomes NaN or NaT where `dtype` has one."""
    where = f"column {name!r}"[:120]
    missing = series.isna().any()
    if missing and dtype.kind not in "fcmM":
        raise InvalidInput(f"{where} has missing cells, and {dtype} has none")
    try:
        if missing and dtype.kind in "fc":
            after = series.to_numpy(dtype=dtype, na_value=np.nan)
        else:
            after = series.to_numpy(dtype=dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidInput(f"{where} to {dtype}: {str(error)[:200]}") from error
    _require_equal(series.tolist(), list(pd.Series(after)) if dtype.kind in "mM" else after.tolist(), where)
    return after


def _require_equal(before: list[Any], after: list[Any], where: str) -> None:
    for row, (old, new) in enumerate(zip(before, after, strict=True)):
        gone = missing_kind(old)
        if gone or missing_kind(new):
            if not (gone and missing_kind(new)):
                raise InvalidInput(f"{where}: row {row} would go missing, or come out of nothing")
        elif not _same(old, new):
            raise InvalidInput(f"{where}: row {row} would be another value: {shown(new)} for {shown(old)}")


def _same(old: Any, new: Any) -> bool:
    """Whether `new` is what `old` is, or what it says where it is text that was read as a number."""
    if not isinstance(old, str) or isinstance(new, (str, bool)) or not isinstance(new, (int, float)):
        return isinstance(old, str) or bool(old == new)
    try:
        said = Decimal(old.strip())
    except ArithmeticError:
        return True  # pandas has read it: True, or a spelling of its own
    if isinstance(new, int) or said == said.to_integral_value():
        return bool(said == Decimal(new))
    return math.isfinite(new) and bool(
        new
    )  # a fraction becomes the nearest one, and never nothing or infinity

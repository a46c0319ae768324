"""Which rows a list of typed conditions keeps. No expression is evaluated: a column, a word, a value."""

from __future__ import annotations

import operator
from typing import Any, Callable

import numpy as np
import pandas as pd
from frame_cells import TAG, decode_cell
from frame_columns import decode_column, shown

from bridgehold_sdk import InvalidInput

_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_TEXT = {"contains", "starts_with", "ends_with"}


def keep_rows(frame: Any, where: list[dict[str, Any]], match: str) -> Any:
    """A boolean array: rows where all (or any) hold. A missing cell fulfils none but `is_missing`."""
    masks = [_mask(frame, condition) for condition in where]
    combine = np.logical_and if match == "all" else np.logical_or
    return combine.reduce(masks)


def column_of(frame: Any, name: Any) -> Any:
    """The column of this name, or `InvalidInput` that names what there is."""
    for at, there in enumerate(frame.columns):
        if there == name and isinstance(there, str) is isinstance(name, str):
            return frame.iloc[:, at]
    known = ", ".join(repr(one) for one in list(frame.columns)[:30])
    raise InvalidInput(f"no column {str(name)[:100]!r}; there are {known or 'none'}")


def _mask(frame: Any, condition: dict[str, Any]) -> Any:
    series, op = column_of(frame, condition["column"]), condition["op"]
    missing = series.isna().to_numpy(dtype=bool)
    if op in {"is_missing", "not_missing"}:
        return missing if op == "is_missing" else ~missing
    if "value" not in condition:
        raise InvalidInput(f"condition {op} on {condition['column']!r} needs a value")
    value = condition["value"]
    if op in _TEXT:
        found = _text_mask(series, op, value)
    elif op in {"in", "not_in"}:
        if not isinstance(value, list):
            raise InvalidInput(f"condition {op} takes a list of values")
        found = _among(series, value)
        found = found if op == "in" else ~found
    elif op == "between":
        if not isinstance(value, list) or len(value) != 2:
            raise InvalidInput("condition between takes [lowest, highest], both included")
        found = _compared(series, "ge", value[0]) & _compared(series, "le", value[1])
    else:
        found = _compared(series, op, value)
    return found & ~missing


def _compared(series: Any, op: str, value: Any) -> Any:
    compare, typed = _COMPARE[op], _typed(series, [value])
    if _is_numeric(series.dtype) or (op in {"eq", "ne"} and _holds_numbers(series)):
        # one by one, as Python compares: numpy would round an integer to a float first
        other = typed[0]
        return np.array([cell is not pd.NA and compare(cell, other) for cell in series.tolist()], dtype=bool)
    try:
        compared = compare(series, typed.iloc[0])
    except TypeError as error:
        raise InvalidInput(f"{op} can't compare {series.dtype} with this: {str(error)[:200]}") from error
    return pd.Series(compared).fillna(False).to_numpy(dtype=bool)


def _among(series: Any, values: list[Any]) -> Any:
    typed = _typed(series, values)
    if _holds_numbers(series):
        wanted = set(typed)
        return np.array([cell is not pd.NA and cell in wanted for cell in series.tolist()], dtype=bool)
    return series.isin(typed).to_numpy(dtype=bool)


def _holds_numbers(series: Any) -> bool:
    dtype = series.dtype
    return _is_numeric(dtype.categories.dtype if isinstance(dtype, pd.CategoricalDtype) else dtype)


def _is_numeric(dtype: Any) -> bool:
    return bool(pd.api.types.is_integer_dtype(dtype) or pd.api.types.is_float_dtype(dtype))


def _typed(series: Any, values: list[Any]) -> Any:
    """`values` as the column's own kind: numbers for numbers, moments for moments."""
    if any(
        value is None or (isinstance(value, dict) and value.get(TAG) in {"nan", "NA", "NaT"})
        for value in values
    ):
        raise InvalidInput("nothing equals what is missing; ask is_missing")
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype = dtype.categories.dtype
    name = str(dtype)
    if _is_numeric(dtype):
        return _numbers(values)
    return decode_column({"name": None, "dtype": name, "values": values}, "value")


def _numbers(values: list[Any]) -> Any:
    """A number column is compared with any number: 2.5 lies between two integers."""
    found = [decode_cell(value, "value") for value in values]
    for value in found:
        if type(value) not in {int, float}:
            raise InvalidInput(f"value: a number expected: {shown(value)}")
    return pd.Series(found, dtype=object)


def _text_mask(series: Any, op: str, value: Any) -> Any:
    if not isinstance(value, str):
        raise InvalidInput(f"condition {op} takes text")
    if not (pd.api.types.is_string_dtype(series.dtype) or str(series.dtype) in {"object", "category"}):
        raise InvalidInput(f"condition {op} is for text, not for {series.dtype}")
    test = {"contains": str.__contains__, "starts_with": str.startswith, "ends_with": str.endswith}[op]
    return np.array([isinstance(cell, str) and test(cell, value) for cell in series], dtype=bool)
